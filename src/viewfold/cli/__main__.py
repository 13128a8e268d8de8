"""`python -m viewfold.cli`, the form that torchrun starts."""

import sys

from viewfold.cli import main

if __name__ == "__main__":
    sys.exit(main())
