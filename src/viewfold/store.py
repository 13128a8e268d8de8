"""Results on disk, whole or not at all; and JSON of a reasonable size.

Below everything that writes.  A file or a folder is made beside its place and renamed, so that no reader sees half of
it and no failure leaves any.  Knows no pictures and no networks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewfold.errors import AssetError, OutputError, ViewfoldError

MAX_JSON_BYTES = 16 * 2**20

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
}
_FULL_BYTES = 2**20
"""With less space than this a writer that fails without a reason has run out of it."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` if the block succeeds.

    The block may create a file or a folder there.  On any failure, Ctrl-C included, nothing is left behind.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    path = Path(path).absolute() if not Path(path).name else Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary = holder / path.name
        yield temporary
        _replace(temporary, path)
    except ViewfoldError:
        raise
    except Exception as error:
        code = _write_failure(error, path.parent)
        if code is None:
            raise
        reason = os.strerror(code).lower()
        raise OutputError(f"`{path}` cannot be written: {reason}. Free the space or name another place.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary.parent, ignore_errors=True)


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

    A folder is replaced whole; one that holds other names is refused, for they would be lost.

    Raises:
        OutputError: the place is taken by something else, or cannot be written.
    """
    path = Path(os.path.abspath(path))
    reason = None
    try:
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir():
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
        elif path.exists():
            reason = "it is a file"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason is not None:
        raise OutputError(f"`{path}` cannot be written: {reason}. Name another place.")


def _replace(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        retired = temporary.parent / "retired"
        os.replace(path, retired)
        os.replace(temporary, path)
    else:
        os.replace(temporary, path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MiB; AssetError names the file otherwise."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise AssetError(f"`{path}` must be smaller than {MAX_JSON_BYTES} bytes; got {path.stat().st_size}.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"`{path}` cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise AssetError(f"`{path}` must hold a JSON object; got {type(document).__name__}.")
    return document
