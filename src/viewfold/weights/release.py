"""Released models by name: where their files lie, and where they are installed on this machine.

Above `download` and `convert`.  No hash is known beforehand: the file must have the one that its hub says, if it says
one; that of the first download is recorded in `<name>.json` beside the model's folder and holds ever after.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import FileError, InputError, WeightsError
from viewfold.store import atomic_write, read_json, write_json
from viewfold.weights.download import download, forget, source

HUB = "https://huggingface.co"
"""The first mirror, unless $HF_ENDPOINT names another one of the same layout."""

Report = Callable[[str, int, int], None]
"""(stage, bytes done, bytes in all)"""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One file that was published."""

    file: str
    """Its name."""

    repository: str
    """On the hub, or a mirror of it."""


RELEASES = {
    "mvdream-sd21": Release(file="sd-v2.1-base-4view.pt", repository="MVDream/MVDream"),
    "mvdream-sd15": Release(file="sd-v1.5-4view.pt", repository="MVDream/MVDream"),
}
"""Source: the README of bytedance/MVDream (commit 618f844)."""


def installed(name: str) -> Path:
    """Return the folder that `fetch` installs a model in; it does not have to exist.

    Raises:
        InputError: no such release.
    """
    if name not in RELEASES:
        raise InputError(f"`name` must be {' or '.join(RELEASES)}; got '{name}'.")
    return models_folder() / name


def models_folder() -> Path:
    """Return where models are installed: $VIEWFOLD_HOME/models, or below the user's cache folder."""
    home = os.environ.get("VIEWFOLD_HOME")
    caches = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    cache = os.environ.get("XDG_CACHE_HOME") or caches.get(sys.platform, "~/.cache")
    base = Path(home) if home else Path(cache) / "viewfold"
    return (base / "models").expanduser()


def record(name: str) -> dict[str, Any] | None:
    """Return what is known of the file that a model came from: url, size, sha256, date; None before the first fetch.

    Raises:
        WeightsError: the record is damaged.
    """
    path = _record_path(name)
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        if re.fullmatch(r"[0-9a-f]{64}", found["sha256"]):
            return found
    except (FileError, KeyError, TypeError):
        pass
    raise WeightsError(f"`{path}` must hold the hash of the first download; it is damaged. Remove it to start anew.")


def fetch(
    name: str,
    *,
    mirrors: Sequence[str] = (),
    sha256: str | None = None,
    offline: bool = False,
    keep: bool = False,
    report: Report = lambda *_: None,
) -> Path:
    """Download a release, check it, convert it, and return its folder; what is there already is not done again.

    Args:
        name: one of `RELEASES`.
        mirrors: addresses of hubs (or of the file itself) that are tried before the known one.
        sha256: what the file must hash to, 64 hexadecimal digits; None trusts the first download, and its hub.
        offline: use what is on this machine; the network is never touched.
        keep: keep the downloaded file.  One that was not downloaded by this function is always kept.
        report: called as the work goes on.

    Raises:
        InputError: an unknown name, a malformed hash or URL.
        FileError: offline and not there, or no mirror gave the file; what came is kept for the next call.
        WeightsError: the file has another hash, or is damaged; nothing is installed.
        OutputError: the disk is too small or cannot be written.
    """
    folder = installed(name)
    release, known = RELEASES[name], record(name)
    pinned = _pinned(name, sha256, known)
    if folder.is_dir() and (known is not None or sha256 is None):
        return folder
    path = folder.with_name(release.file)
    if not path.is_file():
        if offline or is_offline():
            raise FileError(
                f"`{name}` must be on this machine to be used offline; {folder} is not. Fetch it once with a network, "
                f"or put {release.file} into {folder.parent}."
            )
        # as much room again for the converted folder
        at = partial(report, "download")
        download(_urls(release, mirrors), path, max_bytes=limits.CHECKPOINT_BYTES, spare=1, progress=at)
    _install(name, path, pinned, keep=keep, report=report)
    return folder


def is_offline() -> bool:
    """Return whether the environment forbids the network."""
    switches = (os.environ.get(name, "") for name in ("VIEWFOLD_OFFLINE", "HF_HUB_OFFLINE"))
    return any(switch.lower() in ("1", "true", "yes", "on") for switch in switches)


def _install(name: str, path: Path, pinned: str | None, *, keep: bool, report: Report) -> None:
    from viewfold.weights.convert import convert

    release, origin = RELEASES[name], source(path)
    size, digest = path.stat().st_size, _digest(path, report)
    origin = origin if origin and origin.size == size else None  # another file was put there by hand since
    wanted = pinned or (origin.sha256 if origin else None) or digest
    if digest != wanted:
        if origin is not None:
            path.unlink()
            forget(path)
        raise WeightsError(
            f"`{release.file}` must have the SHA-256 {wanted}; got {digest}, so it is damaged or another file. Nothing "
            f"was installed{', and it was removed' if origin else ''}. Try another mirror."
        )
    try:
        convert(path, to=installed(name))
    except WeightsError as error:
        raise WeightsError(f"{error} It is kept as {path}; if you remove it, it is downloaded again.") from error
    found = {
        "file": release.file,
        "url": origin.url if origin else "",
        "size": size,
        "sha256": digest,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_write(_record_path(name)) as temporary:
        write_json(temporary, found)
    if origin is not None and not keep:
        path.unlink()
    forget(path)


def _pinned(name: str, sha256: str | None, known: dict[str, Any] | None) -> str | None:
    """Return the hash that the file must have."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"`sha256` must be 64 hexadecimal digits; got '{sha256}'.")
    if known is None:
        return sha256.lower() if sha256 else None
    if sha256 is not None and known["sha256"] != sha256.lower():
        raise WeightsError(
            f"`sha256` must be that of the first download, {known['sha256']}; got {sha256}. If yours is right, remove "
            f"{installed(name)} and {_record_path(name)} and fetch it again."
        )
    return known["sha256"]


def _urls(release: Release, mirrors: Sequence[str]) -> list[str]:
    """Return the address of the file on each hub; an address that ends in its name is the file's own."""
    hubs = [*mirrors, os.environ.get("HF_ENDPOINT") or HUB]
    file = f"{release.repository}/resolve/main/{release.file}"
    return [h if h.partition("?")[0].endswith(f"/{release.file}") else f"{h.rstrip('/')}/{file}" for h in hubs]


def _digest(path: Path, report: Report) -> str:
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
            done += len(chunk)
            report("check", done, size)
    return digest.hexdigest()


def _record_path(name: str) -> Path:
    return installed(name).with_name(f"{name}.json")
