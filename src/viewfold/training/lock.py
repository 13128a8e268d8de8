"""One run a folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from viewfold.store import lock
from viewfold.training.ranks import Ranks


@contextmanager
def alone(out: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the folder of a run; a second run in it is refused.

    Raises:
        OutputError: another run holds it, or it cannot be written.
    """
    taken = f"`out` must be the folder of one run at a time; another one is training in {out}. Name another folder."
    with ExitStack() as stack:
        with ranks.together():
            if ranks.lead:
                stack.enter_context(lock(out / ".lock", taken))
        yield
