"""Element-wise losses."""
