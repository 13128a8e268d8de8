"""Pictures that are shown to an encoder, one after the other: of folders of views, and of folders of any pictures.

What cannot be read is told to `skip` and left out; of millions of pictures one is held at a time.  Shards are opened by
others (`viewfold.cli.fidelity`), who yield the same `Shown`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import AssetError
from viewfold.formats import VIEW_RECORDS
from viewfold.picture import read_image
from viewfold.store import read_json
from viewfold.views import GROUND, SUFFIXES, list_pictures

Skip = Callable[[str, str], None]
"""(what could not be used, why): called for each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One picture, with what is known of it."""

    name: str
    """Within its source, "mug/000.png"; no two of a source have the same."""

    rgb: Float[Tensor, "3 h w"]
    """sRGB in [0, 1], opaque."""

    subject: str = ""
    """Of which object it is a view: the folder."""

    prompt: str = ""
    """What it was made from; "" where nobody says."""


def opaque(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "3 h w"]:
    """Return a picture of 3 channels, or of 4 with straight alpha over the grey that views stand on."""
    return picture if len(picture) == 3 else picture[:3] * picture[3:] + GROUND * (1 - picture[3:])


def read_pictures(path: str | Path, *, skip: Skip) -> Iterator[Shown]:
    """Yield the pictures at a path, sorted by name: of a folder, and of all folders within it.

    Of a folder of views these are the ones that its cameras name, not its contact sheet; links to folders are not
    followed.

    Args:
        path: a folder, or one picture.
        skip: told of each picture that cannot be read, of each folder of views whose file of cameras cannot be, and of
            a path that holds no picture.
    """
    path, found = Path(path), False
    if path.is_file():
        files: Iterator[tuple[Path, str]] = iter([(path, "")])
    else:
        files = _walk(path, skip)
    for file, prompt in files:
        found = True
        try:
            rgb = opaque(read_image(file))
        except AssetError as error:
            skip(str(file), str(error))
            continue
        name = file.name if file == path else file.relative_to(path).as_posix()
        yield Shown(name=name, rgb=rgb, subject=str(file.parent), prompt=prompt)
    if not found:
        skip(str(path), "it holds no picture" if path.is_dir() else "there is no such folder or picture")


def list_names(path: str | Path) -> Iterator[str]:
    """Yield the names that the pictures of a folder have, without opening any."""
    path = Path(path)
    return (file.relative_to(path).as_posix() for file, _ in _walk(path, lambda what, why: None))


def list_prompts(path: str | Path) -> list[str]:
    """Return the different prompts of the folders of views at a path; opens no picture, and damaged ones say none."""
    folders = (Path(folder) for folder, _, names in os.walk(path) if set(names) & set(VIEW_RECORDS))
    return list(dict.fromkeys(prompt for folder in folders if (prompt := _prompt(folder))))


def _walk(root: Path, skip: Skip) -> Iterator[tuple[Path, str]]:
    """Yield each picture's file and prompt; a folder of views is not looked into any deeper."""
    for name, folders, names in os.walk(root):
        folder = Path(name)
        folders.sort()
        if not set(names) & set(VIEW_RECORDS):
            yield from ((folder / file, "") for file in sorted(names) if _is_picture(file))
            continue
        folders.clear()
        try:
            files, prompt = list_pictures(folder), _prompt(folder)
        except AssetError as error:
            skip(str(folder), str(error))
            continue
        yield from ((root / file.relative_to(root.resolve()), prompt) for file in files)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _prompt(folder: Path) -> str:
    try:
        told = read_json(folder / "run.json").get("prompt") if (folder / "run.json").is_file() else ""
    except AssetError:
        return ""
    return told if isinstance(told, str) else ""  # a stranger's null is no word "None" to be compared with
