"""One run a folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewfold.errors import InputError, OutputError
from viewfold.training.ranks import Ranks


@contextmanager
def alone(out: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the folder of a run; a second run in it is refused."""
    import filelock

    lock = None
    with ranks.together():
        if ranks.lead:
            try:
                out.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(str(out / ".lock"))
                lock.acquire(timeout=0)
            except filelock.Timeout:
                lock = None
                raise InputError(
                    f"`out` must be the folder of one run at a time; another one is training in {out}."
                ) from None
            except OSError as error:
                raise OutputError(f"`{out}` cannot be written: {(error.strerror or str(error)).lower()}.") from error
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
