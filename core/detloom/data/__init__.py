"""From annotation files to the canonical dataset, and from the dataset to batches."""
