"""People's own pictures as items to pack: folders with captions beside them, and webdataset tars by others.

A folder is read as the ecosystem's imagefolder (`metadata.jsonl` or `metadata.csv` with `file_name` and a caption), or
with a .txt or .json beside each picture.  Every picture is cut to the square in its middle and scaled to one size.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.data.captions import caption_from_name, read_sidecar, read_table, record_of
from viewfold.data.item import Content, Item, file_stamp, render_words
from viewfold.data.source import uid_of, walk
from viewfold.errors import AssetError, InputError
from viewfold.picture import read_image, to_pil
from viewfold.store import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_PARTS = {"txt", "json", "caption", "text"}
_NO_CAPTION = "it has no caption: put one in a .txt beside it or in metadata.jsonl, or use --caption-from-name."


def square(picture: Float[Tensor, "c h w"], size: int) -> Float[Tensor, "c s s"]:
    """Cut the square in the middle and scale it to `size` px; what is hidden by alpha lends no colour."""
    height, width = picture.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    picture = picture[:, top : top + edge, left : left + edge]
    if edge == size:
        return picture
    if picture.shape[0] == 4:
        picture = torch.cat([picture[:3] * picture[3:], picture[3:]])
    scaled = torch.nn.functional.interpolate(
        picture[None], (size, size), mode="bicubic", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    if scaled.shape[0] == 4:
        scaled = torch.cat([(scaled[:3] / scaled[3:].clamp(min=1e-6)).clamp(0, 1), scaled[3:]])
    return scaled


@dataclass(frozen=True)
class PictureItem:
    """A picture in a file, or at a place in a tar."""

    path: Path
    uid: str
    name: str
    """Of its file, without ending."""
    size: int
    """Pixels to scale it to."""
    record: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """In a tar: ending -> (offset, bytes); empty for a file."""
    from_name: bool = False

    @property
    def source(self) -> str:
        return f"{self.path.absolute()}{f'#{self.name}' if self.parts else ''}"

    def stamp(self) -> str:
        beside = [self.path.with_suffix(suffix) for suffix in (".txt", ".json")]
        files = [self.path] if self.parts else [self.path, *(path for path in beside if path.is_file())]
        return f"{file_stamp(files)}|{self.size}|{self.from_name}|{sorted(self.parts.items())}|{self.record!r}"

    def settings(self) -> str | None:
        return render_words({"render": {"size": self.size}})

    def read(self) -> Content:
        if self.parts:
            record, picture = self._from_tar()
        else:
            record, picture = {**read_sidecar(self.path), **self.record}, self.path
        if not record.get("captions") and self.from_name and (caption := caption_from_name(self.name)):
            record["captions"] = [caption]
        if not record.get("captions"):
            raise AssetError(f"`{self.path}`: {_NO_CAPTION}")
        try:
            small = square(read_image(picture), self.size)
        except AssetError as error:
            raise AssetError(f"`{self.source}`: {error}") from error
        buffer = io.BytesIO()
        to_pil(small).save(buffer, format="WEBP", lossless=True)
        about = {**record, "views": None, "render": {"size": self.size}}
        return Content(about, [buffer.getvalue()])

    def _from_tar(self) -> tuple[dict[str, Any], io.BytesIO]:
        record: dict[str, Any] = {}
        for part in sorted(_PARTS & self.parts.keys(), key=lambda part: (part != "json", part)):
            record |= record_of(self._part(part), part, self.source)
        kind = next(part for part in self.parts if f".{part.lower()}" in SUFFIXES)
        return record, io.BytesIO(self._part(kind))

    def _part(self, part: str) -> bytes:
        offset, size = self.parts[part]
        if size > limits.SHARD_MEMBER_BYTES:
            raise AssetError(f"`{self.source}` must have files of at most {limits.SHARD_MEMBER_BYTES} bytes.")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise AssetError(f"`{self.source}` is cut short.")
        return content


def find_pictures(folder: str | Path, *, size: int = 64, from_name: bool = False) -> list[Item]:
    """Return the pictures of a folder or of the tars in it.

    Args:
        folder: of pictures, or of tars, or a tar.
        size: pixels across and down.
        from_name: caption a picture that has none after its file.

    Raises:
        InputError: there are none, or the tars are shards of ours.
        AssetError: a table of captions or a tar is damaged.
    """
    if not 1 <= size <= 4096:
        raise InputError(f"`size` must lie between 1 and 4096; got {size}.")
    folder = Path(folder)
    files = [folder] if folder.is_file() else list(walk(folder))
    root = folder.parent if folder.is_file() else folder
    found: list[Item] = []
    for path in files:
        if path.suffix.lower() == ".tar":
            found += _in_tar(path, root, size, from_name)
    tables = _metadata(files)
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            relative = path.relative_to(root)
            record = next((t[n] for at, t in tables if (n := _within(path, at)) in t), {})
            found.append(PictureItem(path, uid_of(relative.with_suffix("")), path.stem, size, record, {}, from_name))
    if not found:
        raise InputError(
            f"`source` must hold renders, {', '.join(SUFFIXES)} pictures or .tar files; `{folder}` does not."
        )
    return found


def _metadata(files: list[Path]) -> list[tuple[Path, dict[str, dict[str, Any]]]]:
    """Return the folder and the records by file name of each table, the deepest folders first."""
    found = []
    for table in (path for path in files if path.name.lower() in METADATA):
        names = {name for path in files if (name := _within(path, table.parent))}
        found.append((table.parent, read_table(table, wanted=names)))
    return sorted(found, key=lambda each: -len(each[0].parts))


def _within(path: Path, folder: Path) -> str:
    """Return a path as a table in `folder` names it; empty if it lies elsewhere."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else ""


def _in_tar(path: Path, root: Path, size: int, from_name: bool) -> Iterator[Item]:
    """Yield the pictures of a tar; its files are grouped by name as webdataset does it.

    A name ends at its first dot, or at its last one if only that leaves an ending which is known.
    """
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name)
                key, part = _split(name.name)
                key = (name.parent / key).as_posix()
                groups.setdefault(key, {})[part] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise AssetError(f"`{path}` cannot be read as a tar: {str(error)[:160]}. Fetch it again.") from error
    prefix = path.relative_to(root).with_suffix("").as_posix()
    for key, parts in groups.items():
        if any(re.fullmatch(r"\d{3,}\.webp", part) for part in parts):
            raise InputError(f"`source` must hold pictures to pack; `{path}` is a shard that is packed already.")
        if any(f".{part.lower()}" in SUFFIXES for part in parts):
            yield PictureItem(path, uid_of(f"{prefix}/{key}"), key, size, {}, parts, from_name)


def _split(name: str) -> tuple[str, str]:
    key, _, part = name.partition(".")
    if part in _PARTS or f".{part.lower()}" in SUFFIXES or re.fullmatch(r"\d{3,}\.webp", part):
        return key, part
    last, _, ending = name.rpartition(".")
    return (last, ending) if ending in _PARTS or f".{ending.lower()}" in SUFFIXES else (key, part)
