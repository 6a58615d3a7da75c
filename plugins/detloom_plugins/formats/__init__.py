"""Ways in which annotations are written."""
