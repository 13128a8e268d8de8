"""Samples into an open tar, member by member; see `packing` and `latents`, which decide what goes in."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable

from viewfold.data.item import Content
from viewfold.data.manifest import Entry
from viewfold.data.shards import Sample


def add_sample(tar: tarfile.TarFile, sample: Sample, content: Content | None, entry: Entry) -> None:
    """Append a sample: as it is, or with a new content, and then with the latents that still fit."""
    if content is None:
        for suffix in sample.members:
            add_member(tar, f"{sample.uid}.{suffix}", sample.read(suffix))
        return
    about = {**content.about, "content": {"all": content.digest, "pixels": content.pixels}}
    add_member(tar, f"{sample.uid}.json", json.dumps(about).encode())
    for index, picture in enumerate(content.pictures):
        add_member(tar, f"{sample.uid}.{index:03d}.webp", picture)
    if entry.latents:
        for suffix in _made_of_pictures(sample.members):
            add_member(tar, f"{sample.uid}.{suffix}", sample.read(suffix))


def _made_of_pictures(suffixes: Iterable[str]) -> list[str]:
    return [suffix for suffix in suffixes if suffix != "json" and not suffix.endswith(".webp")]


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
