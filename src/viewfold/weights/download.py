"""Download one large file from a hub: resumed where it broke off, bounded, and whole or not there.

Sits below `release`, which knows what to download.  huggingface_hub asks, transfers and tries again; its own
`hf_hub_download` begins anew with each call (2.4: killed at 40 of 60 MiB, it fetched all 60 again and left a file that
nobody removes), so the bytes so far are kept here, and its `http_get` adds to them.  What else it does not do: refuse a
file that is too large, a disk that is too small and addresses that are not https; see whether the part of a file that
comes is the one that was asked for; a list of mirrors.

Beside the file `name` lie, until it is complete, `name.part` (the bytes so far) and `name.part.json` (what a server
said they are the beginning of).  They stay when a download breaks off, so that the next one goes on.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from viewfold.errors import FileError, InputError, OutputError
from viewfold.store import lock, read_json, write_json
from viewfold.store.sync import sync_folder

ATTEMPTS, PAUSE_S = 4, 1.0
"""Tries at a file whose server answers that it is busy (5xx) without a new byte; the pause doubles between them."""

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a server said about a file when its download began; the bytes so far go on only as long as it holds."""

    url: str
    size: int
    etag: str

    @property
    def sha256(self) -> str | None:
        """What the file must hash to; hubs give this of their large files, and so every mirror of one the same."""
        return self.etag if re.fullmatch(r"[0-9a-f]{64}", self.etag) else None


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
    failures = []
    with lock(_beside(path, ".lock"), taken):
        for url in urls:
            try:
                offer = _ask(url, max_bytes=max_bytes, patient=url == urls[-1])
                return _fetch(offer, path, spare=spare, progress=progress)
            except FileError as error:
                failures.append(f"{url}: {error}")
    have = _have(path)
    kept = f"{have} bytes are kept; the same command goes on from there." if have else "Nothing was kept."
    raise FileError(f"`{path.name}` could not be downloaded ({'; '.join(failures)}). {kept}")


def source(path: Path) -> Source | None:
    """Return where the bytes of `path`, or of its beginning, were downloaded from; None if nothing says so."""
    try:
        return Source(**read_json(_beside(path, ".part.json")))
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


def _ask(url: str, *, max_bytes: int, patient: bool) -> Source:
    """Ask what a mirror offers, and hold it against the bounds.  No token is sent: mirrors are strangers.

    A server that does not answer, or is busy, is asked again for some 24 seconds if this is `patient`.
    """
    from huggingface_hub import get_hf_file_metadata

    try:
        offer = get_hf_file_metadata(url, token=False, retry_on_errors=patient)
    except Exception as error:
        raise FileError(_reason(error)) from error
    _check_redirect(offer.location, before=url)
    if not offer.size or offer.size < 0 or not offer.etag:
        raise FileError("the server does not say how long the file is, and which (Content-Length, ETag)")
    if offer.size > max_bytes:
        raise FileError(f"the file must be at most {max_bytes} bytes; the server offers {offer.size}")
    return Source(url=url, size=offer.size, etag=offer.etag)


def _fetch(offer: Source, path: Path, *, spare: float, progress: Progress) -> None:
    """Go on until the file is whole, over as many connections as bring new bytes."""
    failures = 0
    while True:
        before = _have(path)
        try:
            _begin(path, offer, spare=spare)
            _transfer(offer, path, progress)
            os.replace(_beside(path, ".part"), path)
            return sync_folder(path.parent)
        except (FileError, OutputError):
            raise
        except Exception as error:  # what a network and the libraries make of it is not bounded
            if isinstance(error, OSError) and error.errno is not None:  # the disk's; those of a network have none
                reason = (error.strerror or str(error)).lower()
                raise OutputError(f"`{path}` cannot be written: {reason}. Free space or name another place.") from error
            failures = 0 if _have(path) > before else failures + 1
            is_busy = getattr(getattr(error, "response", None), "status_code", 0) >= 500
            if failures == ATTEMPTS or (failures and not is_busy):
                raise FileError(_reason(error)) from error
            time.sleep(PAUSE_S * 2 ** (failures - 1) if failures else 0)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason_phrase}"
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _begin(path: Path, found: Source, *, spare: float) -> None:
    """Make room for a file, and note which it is; the bytes of another are removed."""
    part, known = _beside(path, ".part"), source(path)
    if known is None or (known.size, known.etag) != (found.size, found.etag) or _have(path) > found.size:
        part.unlink(missing_ok=True)
    needed, free = int(found.size * (1 + spare)), shutil.disk_usage(path.parent).free + _have(path)
    if needed > free:
        raise OutputError(
            f"`{path}` needs {needed / 2**30:.2f} GiB of space, to unpack it included; {free / 2**30:.2f} GiB are "
            "free. Free the space or name another place with VIEWFOLD_HOME."
        )
    write_json(_beside(path, ".part.json"), asdict(found))


def _transfer(found: Source, path: Path, progress: Progress) -> None:
    from huggingface_hub.file_download import http_get

    with _beside(path, ".part").open("ab") as file, _watching(found, file):
        bar: Any = partial(_Meter, file, found.size, progress)
        have, headers = file.tell(), {"Accept-Encoding": "identity"}
        http_get(found.url, file, resume_size=have, headers=headers, expected_size=found.size, tqdm_class=bar)
        file.flush()
        os.fsync(file.fileno())


class _Meter(contextlib.AbstractContextManager["_Meter"]):
    """In the place of huggingface_hub's progress bar: tells how far it is, and stops a server that sends too much."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress, *, initial: int, **_: Any) -> None:
        self.file, self.size, self.progress, self.done = file, size, progress, initial

    def update(self, n: int) -> None:
        """Count `n` bytes, which are written next."""
        self.done += n
        if self.done > self.size:
            self.file.truncate(0)
            raise FileError(f"the server sends more than the {self.size} bytes that it offers")
        self.progress(self.done, self.size)

    def __exit__(self, *_: object) -> None:
        return None


@contextlib.contextmanager
def _watching(found: Source, file: BinaryIO) -> Iterator[None]:
    """Check each address that huggingface_hub's client asks, and each part of a file that it is sent, against `found`.

    It looks at neither, and would add the end of one file to the beginning of another.
    """
    from huggingface_hub import get_session

    def asked(request: Any) -> None:
        _check_redirect(str(request.url), before=found.url)

    def answered(response: Any) -> None:
        if response.status_code == 206 and not _continues(response, found):
            file.truncate(0)
            raise FileError("the server goes on with another file, or in another place, than was begun")

    hooks, watched = get_session().event_hooks, {"request": asked, "response": answered}
    for name, hook in watched.items():
        hooks[name].append(hook)
    try:
        yield
    finally:
        for name, hook in watched.items():
            hooks[name].remove(hook)


def _continues(response: Any, found: Source) -> bool:
    """Tell whether part of a file is what was asked for.  Hubs send on to a store that has ETags of its own."""
    start = response.request.headers.get("Range", "").removeprefix("bytes=")
    if response.headers.get("Content-Range") != f"bytes {start}{found.size - 1}/{found.size}":
        return False
    etag = response.headers.get("X-Linked-ETag") or response.headers.get("ETag") or ""
    is_elsewhere = str(response.request.url) != found.url
    return is_elsewhere or etag.removeprefix("W/").strip('"') in ("", found.etag)


def _check_redirect(url: str, *, before: str) -> None:
    try:
        check_url(url, before=before)
    except InputError as error:
        raise FileError(f"the server redirects, but {error}") from error


def _have(path: Path) -> int:
    part = _beside(path, ".part")
    return part.stat().st_size if part.is_file() else 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
