"""What a folder of renders holds: which assets are finished, and its manifest, with the failures of the others.

The folders of the assets are the truth; the manifest spares reading them.  Several processes may note what they did.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from viewfold.data.engines import RenderSettings
from viewfold.data.item import file_stamp, told
from viewfold.data.manifest import Entry, Manifest, read_manifest
from viewfold.data.source import AssetFile
from viewfold.errors import AssetError, InputError
from viewfold.store import atomic_write, open_regular, read_json, write_json

META = "meta.json"

_MADE = ("uid", "asset", "views", "render", "drawing", "mesh")
"""What rendering says in a meta.json; the rest is the asset's record."""

_FLUSH_S = 5.0
"""Between two transactions; what a kill loses of them is found again on the disk, but for the counts of failures."""


class Rendered:
    """The renders in a folder; used with `with`."""

    def __init__(self, out: Path, settings: RenderSettings) -> None:
        self._out, self._settings = out, settings
        self._said = json.dumps(settings.record(), sort_keys=True, default=str)
        self._known = read_manifest(out)
        self._new: dict[str, Entry] = {}
        self._flushed = time.monotonic()
        self.remarks: list[str] = []
        """On assets that were noted as rendered."""

    def __enter__(self) -> Rendered:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.flush()
        else:
            with contextlib.suppress(Exception):
                self.flush()

    def is_finished(self, asset: AssetFile) -> bool:
        """Tell whether an asset has its pictures already; what is said about it is brought up to date.

        An asset whose file changed since is not finished.

        Raises:
            AssetError: another file's pictures have its name.
            InputError: it has pictures, but other ones than are asked for.
        """
        path, known = self._out / asset.uid / META, self._known.get(asset.uid)
        if not path.is_file():
            return False
        if known is not None and known.stamp and known.stamp == self._stamp(asset):
            return True
        try:
            meta = read_json(path)
        except AssetError:  # damaged: it is rendered again
            return False
        recorded = meta.get("render")
        if not isinstance(recorded, dict):
            raise InputError(f"`out` must hold renders; `{path}` does not say how it was made. Name another folder.")
        self._settings.check_same(recorded, f"`{path.parent}`")
        if not _is_of(meta, asset, "" if known is None else known.source):
            return False
        made = {name: meta[name] for name in _MADE if name in meta}
        if meta != (renewed := {**asset.record, **made}):
            with atomic_write(path) as temporary:
                write_json(temporary, renewed, indent=None)
        self._put(self._entry(asset, renewed))
        return True

    def note(self, asset: AssetFile, reason: str | None) -> None:
        """Note that an asset was rendered, or why it could not be."""
        if reason is None:
            with contextlib.suppress(AssetError):  # on a disk that does not show it yet, it is noted next time
                meta = read_json(self._out / asset.uid / META)
                self._put(self._entry(asset, meta))
                self.remarks += meta["drawing"].get("remarks", [])
            return
        before = self._known.get(asset.uid, Entry(uid=asset.uid, source=str(asset.path.absolute())))
        self._put(replace(before, failures=before.failures + 1, reason=reason, stamp=""))

    def flush(self) -> None:
        """Write what was noted into the manifest."""
        if self._new:
            with Manifest(self._out) as manifest:
                for entry in self._new.values():
                    manifest.put(entry)
        self._new, self._flushed = {}, time.monotonic()

    def _put(self, entry: Entry) -> None:
        self._known[entry.uid] = self._new[entry.uid] = entry
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def _stamp(self, asset: AssetFile) -> str:
        """Return what changes when files, record or settings do, without reading them; "" if one is not there."""
        words = self._said + json.dumps(asset.record, sort_keys=True, default=str)
        try:
            of_files = file_stamp([asset.path, self._out / asset.uid / META])
        except OSError:
            return ""
        return f"{of_files}-{hashlib.sha256(words.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"

    def _entry(self, asset: AssetFile, meta: dict[str, Any]) -> Entry:
        views = meta.get("views")
        return Entry(
            uid=asset.uid,
            content=_content(meta) or "unknown",
            stamp=self._stamp(asset),
            source=str(asset.path.absolute()),
            captions=tuple(meta.get("captions") or ()),
            views=len(views) if isinstance(views, list) else None,
            **told(meta),
        )


def asset_facts(path: Path) -> dict[str, Any]:
    """Return what a meta.json says of the file that it shows, which is nothing of where it was."""
    with open_regular(path) as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _content(meta: dict[str, Any]) -> str | None:
    facts = meta.get("asset")
    content = facts.get("sha256") if isinstance(facts, dict) else None
    return content if isinstance(content, str) else None


def _is_of(meta: dict[str, Any], asset: AssetFile, source: str) -> bool:
    """Return whether pictures show this file as it is; AssetError if they show another one, which is still there."""
    content = _content(meta)
    if content is None:  # of a version that did not say
        return True
    try:
        now = asset_facts(asset.path)
    except OSError as error:
        raise AssetError(f"`{asset.path}` cannot be read: {error.strerror or error}. Check the name.") from error
    if now["sha256"] == content:
        return True
    if source and Path(source) != asset.path.absolute() and Path(source).is_file():
        raise AssetError(f"pictures of another file have its name: `{source}`'s. Rename it, or name another --out.")
    return False
