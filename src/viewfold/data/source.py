"""What lies in a folder of assets: the files that are meshes, one per uid, and what is said about each.

A uid is the file's path in the folder, without its ending; what a name in a tar or a folder's name may not hold is
written %XX: `chairs/red.v2.glb` -> `chairs%2Fred%2Ev2`.  `path_of` takes it back.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from viewfold.data.captions import caption_from_name, read_sidecar, read_table
from viewfold.errors import AssetError, InputError
from viewfold.formats import READ_MESHES

COMPANIONS = {".mtl", ".bin", ".json", ".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".gz", ".md", ".license", ".html",
              ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tga", ".ktx2"}  # fmt: skip
"""Files that meshes refer to or that tell of them."""

_UNSAFE = re.compile(r'[%./\\:*?"<>|\x00-\x1f\x7f]')
_LONGEST_UID = 200
"""Bytes: a name in a folder has at most 255, and `.1000.latents.npy` or a temporary's ending comes after it."""


@dataclass(frozen=True, eq=False)
class AssetFile:
    """An asset and what is said about it."""

    path: Path
    uid: str
    record: dict[str, Any] = field(default_factory=dict)
    """Captions, licence, author and whatever else its sidecar holds."""
    reason: str | None = None
    """Why it cannot be used, known before it is opened."""

    @staticmethod
    def of(path: Path) -> AssetFile:
        """Return an asset by itself, with what its sidecars say; AssetError if they are damaged."""
        return AssetFile(path, uid_of(path.stem), read_sidecar(path))

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name of its folder of renders: the uid."""
        return self.uid


def uid_of(relative: str | Path) -> str:
    """Return the uid of a path without its ending."""
    text = Path(relative).as_posix()
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text)


def path_of(uid: str) -> str:
    """Return the path, without its ending, that has this uid."""
    return unquote(uid, errors="surrogateescape")


def find_assets(folder: str | Path) -> list[Path]:
    """Return the assets of a folder and of those in it, one per uid, by uid."""
    return [asset.path for asset in list_assets(folder)]


def list_assets(folder: str | Path) -> list[AssetFile]:
    """Return the assets of a folder and of those in it, by uid; of two endings the first of `READ_MESHES` counts.

    Raises:
        InputError: no such folder, or no asset in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"`folder` must be a folder of assets; `{folder}` is none.")
    rank = {suffix: index for index, suffix in enumerate(READ_MESHES)}
    files = [path for path in walk(folder) if path.suffix.lower() in rank]
    found: dict[str, AssetFile] = {}
    for path in sorted(files, key=lambda p: (rank[p.suffix.lower()], str(p))):
        uid = uid_of(path.relative_to(folder).with_suffix(""))
        long = len(os.fsencode(uid)) > _LONGEST_UID
        reason = f"its name must have at most {_LONGEST_UID} bytes, folders included. Rename it." if long else None
        found.setdefault(uid, AssetFile(path, uid, reason=reason))
    if not found:
        unread = "; ".join(unread_files(folder))
        raise InputError(
            f"`folder` must hold {', '.join(READ_MESHES)} files; `{folder}` holds none{f': {unread}' if unread else ''}."  # noqa: E501
        )
    return [found[uid] for uid in sorted(found)]


def captioned_assets(
    folder: str | Path, *, captions: str | Path | None = None, from_name: bool = False
) -> list[AssetFile]:
    """Return the assets with what sidecars and a table say about them; one without a caption gets a reason.

    Args:
        captions: a table (see `captions.read_table`); what it says counts more than a sidecar.
        from_name: name an asset without caption after its file.
    """
    folder = Path(folder)
    assets = list_assets(folder)
    stems = Counter(asset.path.stem for asset in assets)
    keys = {asset.uid: _keys(asset, folder, alone=stems[asset.path.stem] == 1) for asset in assets}
    table = {} if captions is None else read_table(captions, wanted={key for each in keys.values() for key in each})
    done = []
    for asset in assets:
        told = next((table[key] for key in keys[asset.uid] if key in table), {})
        record, reason = {}, asset.reason
        try:
            record = {**read_sidecar(asset.path), **told}
        except AssetError as error:
            reason = reason or str(error)
        if not record.get("captions") and from_name and (name := caption_from_name(asset.path.stem)):
            record["captions"] = [name]
        if not record.get("captions") and from_name:
            reason = reason or "it has no caption, and its name says nothing. Put one in a .json or .txt beside it."
        done.append(AssetFile(asset.path, asset.uid, record, reason))
    return done


def _keys(asset: AssetFile, folder: Path, *, alone: bool) -> list[str]:
    """Return what a table may call an asset: its path, with and without ending, and, if alone so, its name."""
    path = asset.path.relative_to(folder)
    return [path.as_posix(), path.with_suffix("").as_posix(), asset.uid, *([path.name, path.stem] if alone else [])]


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and those in it by name; hidden ones are left out, links to folders not followed."""
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(above) / name for name in sorted(names) if not name.startswith("."))


def unread_files(folder: str | Path) -> list[str]:
    """Return a line for each ending of files that no verb reads, and for assets that another ending stands for."""
    found: Counter[str] = Counter()
    stems: Counter[Path] = Counter()
    for path in walk(Path(folder)):
        suffix = path.suffix.lower()
        if suffix in READ_MESHES:
            stems[path.with_suffix("")] += 1
        elif suffix not in COMPANIONS:
            found[suffix or "(no ending)"] += 1
    lines = [f"{count} {suffix} files are not read; convert them to GLB" for suffix, count in sorted(found.items())]
    if doubled := sum(count - 1 for count in stems.values()):
        lines.append(
            f"{doubled} files are not read, for another of the same name is: {', '.join(READ_MESHES)} in this order"
        )
    return lines
