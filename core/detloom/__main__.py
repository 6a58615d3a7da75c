"""`python -m detloom`."""

import sys

from detloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
