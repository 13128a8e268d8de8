"""The command line: `viewfold VERB`.  Imports everything, is imported by nobody, loads no torch before work starts."""

from viewfold.cli.command import main

__all__ = ["main"]
