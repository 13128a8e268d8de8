"""JSON objects in files, of a reasonable size."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import AssetError, FileError, OutputError
from viewfold.store.regular import read_regular


def read_json(path: str | Path, *, error: type[FileError] = AssetError, max_bytes: int | None = None) -> dict[str, Any]:
    """Read a JSON object of at most `max_bytes`, 16 MiB by default.

    Raises:
        error: the file is missing, larger, no file at all (a pipe would be waited for), or holds something else.
    """
    path, limit = Path(path), limits.JSON_BYTES if max_bytes is None else max_bytes
    try:
        document = json.loads(read_regular(path, max_bytes=limit).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, OSError) and failure.errno == errno.EFBIG:
            raise error(f"`{path}` must be at most {limit} bytes; {failure.strerror}.") from failure
        reason = getattr(failure, "strerror", None) or str(failure)[:160]
        raise error(f"`{path}` must hold a JSON object; it cannot be read: {reason}.") from failure
    if not isinstance(document, dict):
        raise error(f"`{path}` must hold a JSON object; got {type(document).__name__}.")
    return document


def write_json(path: str | Path, document: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write a JSON object, there where `atomic_write` says: this alone makes no file whole.

    Raises:
        OutputError: it is larger than `read_json` reads.
    """
    content = (json.dumps(document, indent=indent) + "\n").encode("ascii")
    if len(content) > limits.JSON_BYTES:
        raise OutputError(f"`{path}` must be at most {limits.JSON_BYTES} bytes; it would have {len(content)}.")
    Path(path).write_bytes(content)
