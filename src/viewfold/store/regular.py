"""Files opened for reading, of which nothing but their name is known: a pipe or a device is not waited for.

`open` waits for a pipe's writer, and reads a device for ever.  Every door opens what a stranger names with one of these
two; what fails is an `OSError` whose `strerror` says why, for the door to put into its own words.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

NO_FILE = "it is a pipe, a socket or a device"


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading bytes.

    Raises:
        OSError: it is missing or cannot be read, is a folder (`IsADirectoryError`), a pipe, a socket or a device, or
            its name is one that no file can have (a NUL).
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        _check(path, os.stat(path))  # opening a device may already do something
        descriptor = os.open(path, flags)
    except ValueError as error:  # Python refuses a NUL, and half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    try:
        _check(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, *, max_bytes: int) -> bytes:
    """Return the bytes of a regular file, or of what a link to one leads to.

    Raises:
        OSError: as `open_regular`; or it has more than `max_bytes` (`errno.EFBIG`).
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(max_bytes + 1) if size <= max_bytes else b""
    if max(size, len(content)) > max_bytes:
        raise OSError(errno.EFBIG, f"it has {max(size, len(content))} bytes, more than {max_bytes}", str(path))
    return content


def _check(path: str | Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, NO_FILE, str(path))
