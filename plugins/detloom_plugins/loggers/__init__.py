"""Places that numbers and pictures of a run go to."""
