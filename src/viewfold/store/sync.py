"""Durable writes: contents to the disk (fsync), then the rename, then the folder; what a power cut or failure leaves.

A rename is atomic, but it may reach the disk before the bytes that it names: so the contents go first, then the name,
then the folder that holds the name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

ATTEMPTS = 1000
"""Times that a place is tried to be taken of which another writer has just been quicker."""

_TAKEN = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_CANNOT_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk; links are not followed."""
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in sorted(path.iterdir()):
            if not entry.is_symlink():
                sync_tree(entry)
        sync_folder(path)
    elif os.path.isfile(path):
        _sync(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so of folders."""
    if os.name == "posix":
        _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    """Wait for one file or folder; a disk that does not know how to is not waited for."""
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def settle(new: Path, path: Path, *, aside: Path) -> None:
    """Bring `new` to the disk and put it in the place of `path`, a file for a file, a folder for a folder.

    What stood at `path` is then at `new` or `aside`; or it is gone, a file.  If this fails it is where it was or, where
    two folders cannot be exchanged in one step, at `aside`, from where `temporary` puts it back.
    """
    sync_tree(new)
    for last in range(ATTEMPTS, 0, -1):
        try:
            _replace(new, path, aside)
            break
        except OSError as error:
            if last == 1 or error.errno not in _TAKEN or not os.path.lexists(new):
                raise
    sync_folder(path.parent)


def _replace(new: Path, path: Path, aside: Path) -> None:
    if not (os.path.isdir(new) and os.path.isdir(path)):
        os.replace(new, path)
    elif not _exchanged(new, path):
        if os.path.lexists(aside):  # from the attempt before; another writer's result stands now
            shutil.rmtree(aside)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, aside)
        os.replace(new, path)


def _exchanged(first: Path, second: Path) -> bool:
    """Let two paths change their contents in one step; False where the system or the disk cannot."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Return Linux's call, if the C library has it (glibc since 2.28)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # Windows has no library of the process
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call
