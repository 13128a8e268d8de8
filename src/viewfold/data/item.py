"""What can be packed: renders of assets, pictures, other people's tars, all as items with a uid and a content."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.data.manifest import Entry
from viewfold.data.selection import look_of
from viewfold.errors import AssetError
from viewfold.picture import read_image
from viewfold.store import read_json

PICTURE = re.compile(r"\d{3,}\.webp")
"""Names of views; sorted by number, for the thousandth is `1000.webp`."""

_GROUND = 0.5
"""What looks are compared on."""


@dataclass(frozen=True)
class Content:
    """What a sample says and shows."""

    about: dict[str, Any]
    """Captions, licence, author, cameras."""
    pictures: list[bytes]
    """WebP files, in the order of the views."""

    @cached_property
    def pixels(self) -> str:
        """SHA-256 of the pictures."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(hashlib.sha256(picture).digest())
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything."""
        about = {name: value for name, value in self.about.items() if name != "content"}
        return hashlib.sha256(f"{self.pixels}{json.dumps(about, sort_keys=True)}".encode()).hexdigest()

    def decoded(self) -> list[Float[Tensor, "c h w"]]:
        """Return the pictures in [0, 1]; AssetError names the first that cannot be read."""
        found = []
        for index, picture in enumerate(self.pictures):
            try:
                found.append(read_image(io.BytesIO(picture)))
            except AssetError as error:
                raise AssetError(f"`{index:03d}.webp`: {error}") from error
        return found


@runtime_checkable
class Item(Protocol):
    """Something to pack."""

    @property
    def uid(self) -> str:
        """The sample's name, without dots and slashes."""
        ...

    @property
    def source(self) -> str:
        """Where it lies."""
        ...

    def stamp(self) -> str:
        """Return what changes when the source does, without reading it."""
        ...

    def settings(self) -> str | None:
        """Return how its pictures are made, as `render_words` says it; None if unknown."""
        ...

    def read(self) -> Content:
        """Return the content; AssetError or OSError if it cannot be had."""
        ...


def file_stamp(paths: Sequence[Path]) -> str:
    """Return a hash of names, sizes and times of files."""
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.name}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class RenderItem:
    """A folder that `render` wrote."""

    folder: Path

    @property
    def uid(self) -> str:
        return self.folder.name

    @property
    def source(self) -> str:
        return str(self.folder.absolute())

    def _pictures(self) -> list[Path]:
        found = (path for path in self.folder.iterdir() if PICTURE.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem))

    def stamp(self) -> str:
        return file_stamp([self.folder / "meta.json", *self._pictures()])

    def settings(self) -> str | None:
        return render_words(read_json(self.folder / "meta.json"))

    def read(self) -> Content:
        if "." in self.uid:
            raise AssetError(f"`{self.uid}` must not contain a dot; webdataset splits names there. Rename it.")
        about = read_json(self.folder / "meta.json")
        captions = about.get("captions")
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise AssetError(f"`{self.folder}` must hold captions, a list of texts in meta.json. Render it with one.")
        pictures = self._pictures()
        if not pictures:
            raise AssetError(f"`{self.folder}` holds no pictures.")
        views = about.get("views")
        n_views = len(views) if isinstance(views, list) else len(pictures)
        names = [f"{index:03d}.webp" for index in range(n_views)]
        if (found := [path.name for path in pictures]) != names:
            odd = sorted(set(names) ^ set(found))[:3]
            raise AssetError(f"`{self.folder}` must hold a picture for each of its {n_views} views; see {odd}.")
        for path in pictures:
            if path.stat().st_size > limits.SHARD_MEMBER_BYTES:
                raise AssetError(f"`{path}` must have at most {limits.SHARD_MEMBER_BYTES} bytes.")
        return Content(about, [path.read_bytes() for path in pictures])


def describe(item: Item, content: Content, stamp: str) -> Entry:
    """Return what the manifest keeps of a sample; every picture is decoded, so damage is found here.

    Raises:
        AssetError: a picture is damaged.
    """
    pictures, about = content.decoded(), content.about
    shares = [float(p[3].mean()) if p.shape[0] == 4 else 1.0 for p in pictures]
    front = pictures[_front_view(about, len(pictures))]
    if front.shape[0] == 4:
        front = front[:3] * front[3:] + _GROUND * (1 - front[3:])
    return Entry(
        uid=item.uid,
        content=content.digest,
        pixels=content.pixels,
        stamp=stamp,
        source=item.source,
        captions=tuple(about["captions"]),
        bytes=sum(map(len, content.pictures)),
        views=len(pictures),
        coverage=sum(shares) / len(shares),
        look=look_of(front.to(torch.float32)),
        **told(about),
    )


def told(about: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an `Entry` that a meta.json says by itself."""
    mesh = about.get("mesh") if isinstance(about.get("mesh"), dict) else {}
    return {
        "licence": _text(about, "licence", "license"),
        "author": _text(about, "author", "creator"),
        "origin": _text(about, "source", "url"),
        "faces": _number(mesh, "faces"),
        "textures": _number(mesh, "textures"),
        "bounds": _bounds(mesh),
        "render": render_words(about),
    }


def render_words(about: dict[str, Any]) -> str | None:
    """Return how pictures were made, but for the seed, as JSON; None where it is not said."""
    render = about.get("render")
    if not isinstance(render, dict):
        return None
    return json.dumps({name: value for name, value in sorted(render.items()) if name != "seed"})


def _front_view(about: dict[str, Any], n_pictures: int) -> int:
    """Return the view whose camera is nearest to the front: the one by which renders are compared."""
    views = about.get("views")
    if not isinstance(views, list) or len(views) != n_pictures:
        return 0
    try:
        turns = [abs((float(view["azimuth_deg"]) + 180) % 360 - 180) for view in views]
    except (KeyError, TypeError, ValueError):
        return 0
    return turns.index(min(turns))


def _text(about: dict[str, Any], *names: str) -> str | None:
    return next((about[name] for name in names if isinstance(about.get(name), str) and about[name]), None)


def _number(about: Any, name: str) -> int | None:
    value = about.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**62 else None


def _bounds(about: Any) -> tuple[float, ...] | None:
    try:
        values = tuple(float(value) for corner in about["bounds"] for value in corner)
    except (KeyError, TypeError, ValueError):
        return None
    return values if len(values) == 6 else None
