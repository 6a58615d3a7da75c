"""Writers of deployable files."""
