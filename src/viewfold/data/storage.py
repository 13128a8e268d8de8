"""Shards wherever they lie: parts of files on a disk, and of anything that fsspec reaches (s3://, hf://, memory://).

What is read is a list of parts, so that one request may fetch many; what cannot be read is an error in their place, for
one bad part must not cost the others.  Knows bytes, and nothing of what they hold.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.store import open_regular

HANDLES = 128
"""Files that stay open; a process may have 1,024 as a rule."""

RETRIES, FIRST_PAUSE_S = 3, 0.2
"""How often a part that a network did not give is asked for again, and after how long at first (each pause four times
the one before)."""

SPAN_BYTES = 256 * 2**10
"""Parts of a remote file that lie within this are fetched in one piece: a request takes longer than its bytes."""


@dataclass(frozen=True)
class Parts:
    """Pieces of one file, `size` bytes each."""

    path: str
    stamp: str
    """Of the file when its offsets were noted; another file of that name is an error."""
    starts: tuple[int, ...]
    size: int


@runtime_checkable
class Readable(Protocol):
    """An open file of bytes: Python's own, or fsspec's, which is no `BinaryIO`."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, fewer at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""
        ...

    def tell(self) -> int:
        """Return the place."""
        ...


@runtime_checkable
class Storage(Protocol):
    """A folder of shards."""

    def key(self, path: str) -> str:
        """Return the one name of a file, whatever way leads there."""
        ...

    def tars(self) -> list[str]:
        """Return the path of each tar, sorted."""
        ...

    def stamp(self, path: str) -> str:
        """Return what changes whenever a file's content does."""
        ...

    def open(self, path: str) -> contextlib.AbstractContextManager[Readable]:
        """Open a file to read it from its beginning."""
        ...

    def read(self, wanted: Sequence[Parts]) -> list[list[bytes] | Exception]:
        """Return the pieces of each file, or why they cannot be read; called by several threads."""
        ...


def storage_of(folder: str | Path) -> Storage:
    """Return the folder behind a path or a URL.

    Raises:
        InputError: a URL of a kind that fsspec does not know.
        MissingExtraError: it knows, and lacks a package.
    """
    return Remote(str(folder)) if "://" in str(folder) else Local(Path(folder))


class _Handle:
    """An open file that is closed when nobody reads from it any more."""

    def __init__(self, path: str) -> None:
        with open_regular(path) as file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)


class Local:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, tuple[str, _Handle]] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, path: str) -> str:
        """Return the path without links."""
        return os.path.realpath(path)

    def tars(self) -> list[str]:
        """Return the path of each tar, sorted."""
        return [str(path) for path in sorted(self._folder.glob("*.tar"))]

    def stamp(self, path: str) -> str:
        """Return size and time of a file."""
        return _stamp(os.stat(path))

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Readable]:
        """Open a file to read it from its beginning."""
        with open_regular(path) as file:
            yield file

    def read(self, wanted: Sequence[Parts]) -> list[list[bytes] | Exception]:
        """Return the pieces of each file, or why they cannot be read."""
        return [self._read(parts) for parts in wanted]

    def _read(self, parts: Parts) -> list[bytes] | Exception:
        try:
            handle = self._handle(parts.path, parts.stamp)
            found = [os.pread(handle.descriptor, parts.size, start) for start in parts.starts]
        except (OSError, AssetError) as error:
            return error
        return found if all(len(piece) == parts.size for piece in found) else AssetError("it is cut short")

    def _handle(self, path: str, stamp: str) -> _Handle:
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
            else:
                handle = _Handle(path)
                self._open[path] = _stamp(os.fstat(handle.descriptor)), handle
                if len(self._open) > HANDLES:
                    self._open.popitem(last=False)
            found, handle = self._open[path]
        if found != stamp:
            raise AssetError("its shard was changed since it was looked through; start again")
        return handle


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


class Remote:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._files: Any
            self._files, self._root = url_to_fs(url)
        except ImportError as error:
            raise MissingExtraError(f"`{url}` needs a package that is not installed: {error}.") from error
        except ValueError as error:
            raise InputError(f"`{url}` must be a folder or a URL that fsspec knows: {error}.") from error

    def key(self, path: str) -> str:
        """Return the whole URL."""
        return str(self._files.unstrip_protocol(path))

    def tars(self) -> list[str]:
        """Return the path of each tar, sorted."""
        self._files.invalidate_cache()
        with _reached(self._root):
            return sorted(str(path) for path in self._files.glob(f"{self._root.rstrip('/')}/*.tar"))

    def stamp(self, path: str) -> str:
        """Return size and version (ETag or time) of a file, as its service tells them."""
        with _reached(path):
            return f"{self._files.info(path)['size']}-{self._files.ukey(path)}"

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Readable]:
        """Open a file to read it from its beginning, some megabytes ahead."""
        with _reached(path), self._files.open(path, "rb", cache_type="readahead") as file:
            yield file

    def read(self, wanted: Sequence[Parts]) -> list[list[bytes] | Exception]:
        """Return the pieces of each file, or why they cannot be read; all are asked for at once."""
        spans = [_spans(parts) for parts in wanted]
        asked = [(parts.path, *span) for parts, of_file in zip(wanted, spans, strict=True) for span in of_file]
        answers = iter(self._answers(asked))
        return [
            _cut(parts, of_file, [next(answers) for _ in of_file]) for parts, of_file in zip(wanted, spans, strict=True)
        ]

    def _answers(self, asked: list[tuple[str, int, int]]) -> list[bytes | Exception]:
        found: list[Any] = [None] * len(asked)
        left = list(range(len(asked)))
        for attempt in range(RETRIES + 1):
            if attempt:
                time.sleep(FIRST_PAUSE_S * 4 ** (attempt - 1))
            paths, starts, ends = zip(*(asked[place] for place in left), strict=True)
            try:
                answers = self._files.cat_ranges(list(paths), list(starts), list(ends), on_error="return")
            except Exception as error:  # services raise anything
                answers = [error] * len(left)
            for place, answer in zip(left, answers, strict=True):
                found[place] = answer
            left = [place for place in left if isinstance(found[place], Exception)]
            left = [place for place in left if not isinstance(found[place], FileNotFoundError)]
            if not left:
                break
        return found


@contextlib.contextmanager
def _reached(path: str) -> Iterator[None]:
    """Say in one line what a service could not do; whatever is raised on purpose passes."""
    try:
        yield
    except (AssetError, InputError, OSError):
        raise
    except Exception as error:
        raise AssetError(f"`{path}` cannot be read: {type(error).__name__}: {str(error)[:200]}.") from error


def _spans(parts: Parts) -> list[tuple[int, int]]:
    """Return the ranges (start, end) to ask for: one over all pieces if they lie near each other."""
    start, end = min(parts.starts), max(parts.starts) + parts.size
    if end - start <= max(SPAN_BYTES, 2 * parts.size * len(parts.starts)):
        return [(start, end)]
    return [(start, start + parts.size) for start in parts.starts]


def _cut(parts: Parts, spans: list[tuple[int, int]], answers: list[bytes | Exception]) -> list[bytes] | Exception:
    wrong = next((answer for answer in answers if isinstance(answer, Exception)), None)
    if wrong is not None:
        return wrong
    pieces = []
    for number, start in enumerate(parts.starts):
        which = 0 if len(spans) == 1 else number
        content, at = answers[which], start - spans[which][0]
        assert isinstance(content, bytes)
        pieces.append(content[at : at + parts.size])
    return pieces if all(len(piece) == parts.size for piece in pieces) else AssetError("it is cut short")
