"""The command line. Each command is a module of this package with `add_arguments(parser)` and `run(args)`."""

from detloom.cli.main import main

__all__ = ["main"]
