"""What became of work on many files: each failure by name, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from viewfold.errors import AssetError


def fail_if_any(failures: Iterable[tuple[str, str]]) -> None:
    """List what could not be used and make the command fail, although the rest is done.

    Raises:
        AssetError: there is any.
    """
    failures = list(failures)
    for name, reason in failures:
        print(f"{name}: {reason}", file=sys.stderr)
    if failures:
        raise AssetError(f"{len(failures)} could not be used, see above; the rest is done.")


def list_counts(counts: dict[str, int]) -> None:
    """Print a line for each thing that happened to any."""
    for what, count in counts.items():
        if count:
            print(f"  {count} {what}")
