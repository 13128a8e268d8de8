"""What lies in a folder of shards, found out from the tars and noted in the manifest; one writer at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from viewfold.data.attribution import write_attribution
from viewfold.data.item import Content, describe, file_stamp
from viewfold.data.manifest import Entry, Manifest, packed
from viewfold.data.shards import Sample, holds_latents, members
from viewfold.errors import AssetError
from viewfold.store import lock

LOCK = ".pack.lock"


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold a folder of shards against another process that would write there; OutputError if one does."""
    with lock(
        Path(folder) / LOCK,
        f"`out` must be written by one process at a time; another one is packing in {folder}. Wait for it.",
    ):
        yield


def refresh_manifest(out: str | Path) -> dict[str, Entry]:
    """Bring a manifest up to date with its shards, and the attribution with both; return what it says."""
    with alone(out), Manifest(out) as manifest:
        look_into(Path(out), manifest)
        entries = manifest.entries()
        write_attribution(Path(out), packed(entries))
        return entries


def look_into(out: Path, manifest: Manifest) -> None:
    """Note in the manifest which samples the shards hold; only shards that changed are read.

    A sample that several shards hold counts as the first one's.

    Raises:
        AssetError: a shard is damaged.
    """
    entries, before = manifest.entries(), manifest.shards()
    stamps = {path.name: file_stamp([path]) for path in sorted(out.glob("*.tar"))}
    changed = {name for name in {*before, *stamps} if before.get(name) != stamps.get(name)}
    for entry in entries.values():
        if entry.shard in changed:
            entries[entry.uid] = replace(entry, shard=None, latents=False)
            manifest.put(entries[entry.uid])
    for name in sorted(changed):
        for sample in samples_in(out / name) if name in stamps else ():
            entry = entries.get(sample.uid, Entry(uid=sample.uid))
            if entry.shard is not None:
                continue
            with contextlib.suppress(AssetError):  # a damaged sample counts as not packed, and is packed again
                entries[sample.uid] = _told_by_shard(sample, entry, name)
                manifest.put(entries[sample.uid])
        manifest.put_shard(name, stamps.get(name))
    manifest.commit()


def _told_by_shard(sample: Sample, entry: Entry, shard: str) -> Entry:
    content = sample.meta.get("content")
    latents = any(holds_latents(suffix) for suffix in sample.members)
    if entry.content and isinstance(content, dict) and content.get("all") == entry.content:
        return replace(entry, shard=shard, latents=latents)
    whole = Content(sample.meta, [sample.read(suffix) for suffix in picture_suffixes(sample)])
    told = describe(_Packed(sample.uid, str(entry.source)), whole, "")
    return replace(told, shard=shard, latents=latents, failures=entry.failures, reason=entry.reason)


@dataclass(frozen=True)
class _Packed:
    """An item whose source is not at hand."""

    uid: str
    source: str

    def stamp(self) -> str:
        return ""

    def settings(self) -> str | None:
        return None

    def read(self) -> Content:
        raise AssetError(f"`{self.uid}` has no source.")


def picture_suffixes(sample: Sample) -> list[str]:
    """Return the suffixes of a sample's pictures in the order of the views."""
    return sorted((s for s in sample.members if s.endswith(".webp")), key=lambda suffix: (len(suffix), suffix))


def samples_in(shard: Path) -> list[Sample]:
    found: dict[str, Sample] = {}
    for uid, suffix, offset, size in members(shard):
        found.setdefault(uid, Sample(uid)).members[suffix] = (shard, offset, size)
    return list(found.values())
