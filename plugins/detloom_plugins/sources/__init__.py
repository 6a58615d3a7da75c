"""Places that data are fetched from."""
