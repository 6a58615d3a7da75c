"""One training loop for all families, and what it is made of."""
