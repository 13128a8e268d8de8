"""One large file from the network to the disk: resumed where it broke off, bounded, and whole or not there.

Sits below `release`, which knows what to download; this knows URLs and bytes only.  The standard library's client is
used because the hub's own fetches from one host alone and checks neither space, nor a change half-way, nor a hash.

Beside the file `name` lie, until it is complete, `name.part` (the bytes so far) and `name.part.json` (what the server
said they are the beginning of).  They stay when a download breaks off, so that the next one goes on.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from viewfold.errors import FileError, InputError, OutputError
from viewfold.store import lock, read_json, write_json
from viewfold.store.sync import sync_folder

TIMEOUT_S = 30.0
"""Silence of a server after which a connection counts as broken."""

ATTEMPTS, PAUSE_S = 4, 1.0
"""Tries on one mirror without a new byte; the pause doubles between them."""

CHUNK_BYTES = 2**20

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)"""


class _Refused(Exception):
    """This mirror will not give the file; another may."""


class _Broken(Exception):
    """The connection broke; the same mirror may go on."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a server said about a file when its download began; the bytes so far go on only as long as it holds."""

    url: str
    size: int
    validator: str
    """The ETag, or the date of the last change; empty where the server gives neither, and nothing can be resumed."""


def download(
    urls: Sequence[str], path: Path, *, max_bytes: int, spare: float = 0, progress: Progress = lambda *_: None
) -> None:
    """Download the first of these URLs that gives the file to `path`, going on from what an earlier call left.

    Args:
        urls: https, or http on this machine; the same file everywhere.
        path: where the whole file appears; `source` then says where it came from.
        max_bytes: a larger file is refused before anything is written.
        spare: room that must be left beside it, as a multiple of its size.
        progress: called as bytes arrive.

    Raises:
        InputError: a URL of another kind.
        FileError: no mirror gave the whole file.  What came is kept.
        OutputError: the disk is too small, cannot be written, or another process is downloading the same file.
    """
    for url in urls:
        check_url(url)
    taken = f"`{path}` is being downloaded by another process. Wait for it, or stop it."
    with lock(_beside(path, ".lock"), taken):
        transfer = _Transfer(path, max_bytes=max_bytes, spare=spare, progress=progress)
        failures = []
        for url in urls:
            try:
                transfer.fetch(url)
                os.replace(transfer.part, path)
                sync_folder(path.parent)
                return
            except _Refused as error:
                failures.append(f"{url}: {error}")
    have = transfer.have()
    kept = f"{have} bytes are kept; the same command goes on from there." if have else "Nothing was kept."
    raise FileError(f"`{path.name}` could not be downloaded ({'; '.join(failures)}). {kept}")


def source(path: Path) -> Source | None:
    """Return where the bytes of `path`, or of its beginning, were downloaded from; None if nothing says so."""
    try:
        return Source(**read_json(_note(path)))
    except (FileError, TypeError):
        return None


def forget(path: Path) -> None:
    """Remove what a download of `path` left beside it."""
    for suffix in (".part", ".part.json", ".lock"):
        _beside(path, suffix).unlink(missing_ok=True)


def check_url(url: str, *, before: str = "") -> None:
    """Refuse all but https, and http on this machine; `before` is the URL that redirected here.

    Raises:
        InputError: another scheme, host or address.
    """
    try:
        parts = urlsplit(url)
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        parts, local = urlsplit("" if "[" in url else url), False
    downgraded = before.startswith("https:") and parts.scheme != "https"
    if not parts.hostname or downgraded or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise InputError(
            f"`mirror` must be an https:// address (http:// on this machine alone); got '{url}'. Use another mirror."
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to where a mirror itself may lie, and nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_url(newurl, before=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """The bytes of one file so far, and the mirrors that add to them."""

    def __init__(self, path: Path, *, max_bytes: int, spare: float, progress: Progress) -> None:
        self.path, self.part = path, _beside(path, ".part")
        self.max_bytes, self.spare, self.progress = max_bytes, spare, progress
        self.opener = urllib.request.build_opener(_Redirects)

    def have(self) -> int:
        """Return how many bytes there are that can be gone on from."""
        known = source(self.path)
        return self.part.stat().st_size if known and known.validator and self.part.is_file() else 0

    def fetch(self, url: str) -> None:
        """Go on until the file is whole, over as many connections as it takes."""
        tries, before = 0, self.have()
        while True:
            try:
                return self._connect(url)
            except _Broken as error:
                tries = tries + 1 if self.have() <= before else 1
                before = max(before, self.have())
                if tries >= ATTEMPTS:
                    raise _Refused(str(error)) from error
                time.sleep(PAUSE_S * 2 ** (tries - 1))

    def _connect(self, url: str) -> None:
        known, have = source(self.path), self.have()
        if known is not None and have == known.size:
            return
        headers = {"Accept-Encoding": "identity", "User-Agent": "viewfold"}
        if known is not None and 0 < have < known.size:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
        try:
            with self.opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
                if response.status == 206 and not (known and have and _continues(response, known, have)):
                    self.part.unlink(missing_ok=True)
                    raise _Broken("the server continues another file than it began")
                if response.status == 206 and known is not None:
                    self._receive(response, known.size, have=have)
                else:
                    self._receive(response, self._begin(url, response).size, have=0)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # our beginning does not fit the server's file
                self.part.unlink(missing_ok=True)
            kind = _Broken if error.code in (408, 416, 425, 429) or error.code >= 500 else _Refused
            raise kind(f"the server answered {error.code} {error.reason}") from error
        except InputError as error:  # a redirect
            raise _Refused(f"the server redirects, but {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _begin(self, url: str, response: Any) -> Source:
        """Check what the server offers against the bounds, and note it."""
        length = response.headers.get("Content-Length", "")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _Refused("the server packs the file")
        if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) == 0:
            raise _Refused("the server does not say how long the file is")
        size = int(length)
        if size > self.max_bytes:
            raise _Refused(f"the file must be at most {self.max_bytes} bytes; the server offers {size}")
        free = shutil.disk_usage(self.path.parent).free + (self.part.stat().st_size if self.part.is_file() else 0)
        needed = int(size * (1 + self.spare))
        if needed > free:
            raise OutputError(
                f"`{self.path}` needs {needed / 2**30:.2f} GiB of space, to unpack it included; {free / 2**30:.2f} GiB "
                "are free. Free the space or name another place with VIEWFOLD_HOME."
            )
        found = Source(url=url, size=size, validator=_validator(response))
        with _writing(self.path):
            self.part.unlink(missing_ok=True)
            write_json(_note(self.path), asdict(found))
        return found

    def _receive(self, response: Any, size: int, *, have: int) -> None:
        with _writing(self.path):
            file = self.part.open("ab" if have else "wb")
        with file:
            while have < size:
                chunk = response.read(min(CHUNK_BYTES, size - have))
                if not chunk:
                    raise _Broken(f"the connection ended after {have} of {size} bytes")
                with _writing(self.path):
                    file.write(chunk)
                    file.flush()
                have += len(chunk)
                self.progress(have, size)
            with _writing(self.path):
                os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell a disk that fails from a network that fails: both raise OSError."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"`{path}` cannot be written: {reason}. Free the space or name another place.") from error


def _continues(response: Any, known: Source, have: int) -> bool:
    expected = f"bytes {have}-{known.size - 1}/{known.size}"
    return response.headers.get("Content-Range", "") == expected and _validator(response) in ("", known.validator)


def _validator(response: Any) -> str:
    """Return what tells this content from any other: a strong ETag, or the date of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _note(path: Path) -> Path:
    return _beside(path, ".part.json")
