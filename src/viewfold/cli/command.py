"""Read the arguments, run the verb, and turn every foreseen failure into one message and an exit code."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `viewfold` and return the exit code."""
    return 0
