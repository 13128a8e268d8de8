"""Lock files: one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from viewfold.errors import OutputError
from viewfold.store.atomic import followed


@contextlib.contextmanager
def lock(path: str | Path, message: str) -> Iterator[None]:
    """Hold the lock file `path`, which a process that ends lets go of however it ends; the file may stay behind.

    Nobody waits: what two processes must not do at once takes hours.

    Raises:
        OutputError: another holds it, and then the words are `message`; or the file cannot be written.
    """
    import filelock

    held = filelock.FileLock(str(followed(path)))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(message) from None
    except (OSError, NotImplementedError) as error:  # filelock raises the second where a disk keeps no locks
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OutputError(f"`{path}` cannot be locked: {reason}. Name a place on another disk.") from error
    try:
        yield
    finally:
        held.release()
