"""Names that one process at a time works on, so that several share the work on a folder.

One hidden file in the folder, one byte of it locked per name: a process that ends, however it ends, lets go of its
names, and nothing has to be cleaned up.  Locks of bytes (fcntl) hold across the machines of a network disk, too.  Where
a disk keeps no locks, and on Windows, every name is given out, and work may be done twice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from viewfold.errors import OutputError
from viewfold.store.atomic import followed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIMS = ".viewfold-claims"
"""Name of the file; the last process removes it."""

_TAKEN = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The names of a folder that this process works on; used with `with`.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = followed(folder) / CLAIMS
        self._made = not self.path.parent.exists()
        try:
            self._descriptor = self._open()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"`{folder}` cannot be written: {reason}. Name another place.") from error

    def take(self, name: str) -> bool:
        """Claim a name; False if another process has it."""
        if fcntl is None:
            return True
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(name))
            except OSError as error:
                return error.errno not in _TAKEN
            if self._is_named():
                return True
            # The last process of before removed the file after we had opened it: it held no claim, nor do we.
            os.close(self._descriptor)
            self._descriptor = self._open()

    def release(self, name: str) -> None:
        """Let go of a name."""
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _place(name))

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has a name
            if self._is_named():
                self.path.unlink()
            if self._made:
                self.path.parent.rmdir()  # where nothing came of it
        os.close(self._descriptor)

    def _open(self) -> int:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process has just removed the empty folder
                return os.open(self.path, os.O_CREAT | os.O_RDWR, 0o666)

    def _is_named(self) -> bool:
        """Tell whether the open file is still the one of this name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False


def _place(name: str) -> int:
    """Return the byte that stands for a name: one of 2^62."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") >> 2
