"""JSON objects in files, of a reasonable size; what two of them differ in."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Mapping
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


def finite(value: Any) -> Any:
    """Return a JSON value with None in place of NaN and infinity, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def contradictions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return "name was X, is Y" for each setting in which two records differ, groups of settings taken apart."""
    old, new = dict(_flat(before)), dict(_flat(now))
    names = sorted(old.keys() | new.keys(), key=str)
    return [
        f"{name} was {old.get(name, 'unset')}, is {new.get(name, 'unset')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
