"""Results on disk, whole or not at all.

A file or a folder is made beside its place and renamed, so that no reader sees half of it and no failure leaves any.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from viewfold.errors import OutputError, ViewfoldError
from viewfold.store.regular import NO_FILE
from viewfold.store.sync import settle, sync_folder
from viewfold.store.temporary import new_in, old_in, temporary

CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
_FULL_BYTES = 2**20
"""With less space than this a writer that fails without a reason has run out of it."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, bring it to the disk and rename it to `path` if the block succeeds.

    The block may create a file or a folder there, of the same name.  On any failure, Ctrl-C included, nothing is left
    behind and what stood at `path` stands there again.  Of two writers of one folder the later one's result stands,
    whole; a reader sees a whole one at any time (where the disk cannot exchange two folders, none for a moment).  A
    symbolic link stays, and what it points to is replaced.

    A process that is killed leaves a temporary folder, which the next writer of `path` on this machine removes.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    asked, path, kept = path, followed(path), None
    if (reason := irreplaceable(path)) is not None:
        raise OutputError(f"`{asked}` cannot be written: {reason}. Name another place.")
    try:
        with parent_of(path), temporary(path) as holder:
            kept, new = old_in(holder), new_in(holder, path)
            yield new
            settle(new, path, aside=kept)
    except ViewfoldError:
        raise
    except Exception as error:
        left = f" What stood there is in `{kept}`." if kept is not None and os.path.lexists(kept) else ""
        raise_blaming(error, asked, path.parent, left=left)


def raise_blaming(error: Exception, asked: str | Path, folder: Path, *, left: str = "") -> NoReturn:
    """Raise what kept a result from being written: as an `OutputError` where the place is to blame, or as it is.

    Args:
        error: what was raised.
        asked: the result, as its writer called it.
        folder: where it was to be.
        left: a sentence about what the failure left behind, after a space; "" for nothing.
    """
    code = _write_failure(error, folder)
    if code is None:
        if left:
            error.add_note(left.strip())
        raise error
    reason = os.strerror(code).lower()
    raise OutputError(f"`{asked}` cannot be written: {reason}.{left} Free the space or name another place.") from error


@contextlib.contextmanager
def parent_of(path: Path) -> Iterator[None]:
    """Make the folders above a path; their names reach the disk after the block."""
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    path.parent.mkdir(parents=True, exist_ok=True)
    yield
    for folder in made:
        sync_folder(folder.parent)


def followed(path: str | Path) -> Path:
    """Return the place that is written: where a symbolic link leads, and a name in place of "." and "..".

    Raises:
        OutputError: no file can have this name.
    """
    if "\0" in os.fspath(path):
        raise OutputError(f"`{str(path)!r}` cannot be written: no file can have a NUL in its name. Name another place.")
    leads = os.path.islink(path) or Path(path).name in ("", "..")
    return Path(os.path.realpath(path)) if leads else Path(path).absolute()


def irreplaceable(path: Path) -> str | None:
    """Return why what stands at a path must stay, if it must: a disk's root, a device such as /dev/null."""
    if os.path.ismount(path):
        return "it is the root of a disk"
    try:
        mode = os.stat(path).st_mode  # once: another writer may exchange it at any moment
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else NO_FILE


def _write_failure(error: Exception, folder: Path) -> int | None:
    """Return why a block could not write, as an errno; None if the place is not to blame.

    torch.save and safetensors report a full disk without an errno.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in CANNOT_WRITE else None
    if "os error 28" in str(error) or "No space left" in str(error):
        return errno.ENOSPC
    if isinstance(error, (OSError, RuntimeError)) and folder.is_dir() and shutil.disk_usage(folder).free < _FULL_BYTES:
        return errno.ENOSPC
    return None


def check_output(path: str | Path, *, holds: str | None = None) -> None:
    """Fail before the work if a result could not be put at `path`: a file, or a folder of names that match `holds`.

    A folder is replaced whole; one that holds other names is refused, for they would be lost, and so is one that cannot
    or should not be replaced: a disk's root, the user's own folder, one that holds the folder that one is in.

    Raises:
        OutputError: the place is taken by something else, or cannot be written.
    """
    path = Path(os.path.abspath(followed(path)))
    reason = None
    try:
        above = next((folder for folder in path.parents if folder.exists()), path)
        if (reason := irreplaceable(path)) is not None:
            pass
        elif not above.is_dir():
            reason = f"{above} is a file"
        elif not os.access(above, os.W_OK | os.X_OK):
            reason = f"there is no permission to write in {above}"
        elif holds is None:
            reason = "it is a folder" if path.is_dir() else None
        elif path.is_dir():
            others = sorted(entry.name for entry in path.iterdir() if not re.fullmatch(holds, entry.name))
            if others:
                more = ", ..." if len(others) > 3 else ""
                reason = f"the folder holds other things, which would be lost ({', '.join(others[:3])}{more})"
            elif Path.cwd().is_relative_to(path):
                reason = "it is the folder that you are in"
            elif os.path.realpath(path) == os.path.realpath(os.path.expanduser("~")):
                reason = "it is your home folder"
        elif path.exists():
            reason = "it is a file"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason is not None:
        raise OutputError(f"`{path}` cannot be written: {reason}. Name another place.")
