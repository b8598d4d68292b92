"""``python -m distill``: the command line."""

import sys

from distill.cli import main

if __name__ == "__main__":
    sys.exit(main())
