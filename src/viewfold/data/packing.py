"""Renders into shards: every finished folder becomes one sample of a webdataset tar."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from viewfold.errors import AssetError, InputError
from viewfold.picture import read_image
from viewfold.store import atomic_write, read_json

SAMPLES_PER_SHARD = 512


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What `pack` or `cache_latents` did."""

    samples: int
    shards: int
    skipped: int
    """Shards that were already complete."""
    failed: list[tuple[str, str]]
    """Samples left out: (uid, reason)."""


def pack(
    renders: str | Path,
    out: str | Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack every finished folder of renders (one with a meta.json) into tars under `out`, sorted by uid.

    A shard that exists is kept, so a stopped run continues.  A damaged sample is named, left out and counted.

    Raises:
        InputError: no finished renders.
    """
    folders = sorted(path.parent for path in Path(renders).glob("*/meta.json"))
    if not folders:
        raise InputError(
            f"`renders` must hold folders with a meta.json; `{renders}` holds none. Run `viewfold render`."
        )
    groups = [folders[i : i + samples_per_shard] for i in range(0, len(folders), samples_per_shard)]
    samples, skipped, failed = 0, 0, []
    for number, group in enumerate(groups):
        target = Path(out) / f"shard-{number:05d}.tar"
        if target.exists():
            skipped += 1
            continue
        with atomic_write(target) as temporary, tarfile.open(temporary, "w") as tar:
            for folder in group:
                try:
                    members = _read_sample(folder)
                except (AssetError, OSError) as error:
                    failed.append((folder.name, str(error)))
                    continue
                for name, content in members.items():
                    add_member(tar, name, content)
                samples += 1
        if progress:
            progress(number + 1, len(groups))
    return PackReport(samples=samples, shards=len(groups), skipped=skipped, failed=failed)


def _read_sample(folder: Path) -> dict[str, bytes]:
    uid = folder.name
    if "." in uid:
        raise AssetError(f"`{uid}` must not contain a dot; webdataset splits names there. Rename it.")
    members = {f"{uid}.json": json.dumps(read_json(folder / "meta.json")).encode()}
    pictures = sorted(folder.glob("[0-9][0-9][0-9].webp"))
    if not pictures:
        raise AssetError(f"`{folder}` holds no pictures.")
    for picture in pictures:
        read_image(picture)
        members[f"{uid}.{picture.name}"] = picture.read_bytes()
    return members


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
