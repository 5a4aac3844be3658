"""`python -m taskloom.cli`: the same as `taskloom`."""

import sys

from taskloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
