"""What an asset's file refers to: opened in its own folder alone, within one budget for all of it.

A mesh from a stranger may name any file, and may ask for any amount of memory: bytes, pixels, vertices and faces are
counted over the whole asset, before they are allocated.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.picture import FORMATS, pixels

if TYPE_CHECKING:
    pass

TEXTURES = (*FORMATS, "MPO", "TGA", "TIFF")
"""Pillow's words for the kinds of textures that are read; MPO is a JPEG with a second picture."""

_LISTED = 20_000
"""Files of an asset's folder that are looked through for one by its name."""


class AssetFiles:
    """The files beside one asset, and how much of everything it may still ask for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._bytes, self._pixels = limits.MESH_BYTES, limits.TEXTURE_PIXELS
        self._faces, self._vertices = limits.MESH_FACES, 3 * limits.MESH_FACES
        self._names: dict[str, str] | None = None
        self.remarks: list[str] = []
        """What is drawn otherwise than its maker may have meant, and is no fault that keeps it from being drawn."""

    def read(self, name: str) -> bytes:
        """Return the content of a file named relative to the asset's folder (a URI may be percent-encoded).

        Raises:
            AssetError: it lies outside of the folder, is not there, is no file, or is too large.
        """
        for candidate in dict.fromkeys((name, unquote(name))):
            path = self._inside(candidate)
            if path.exists():
                return self._read(path, name)
        raise AssetError(f"it refers to `{name}`, which is not there. Put it beside it, or export the asset again.")

    def find(self, name: str) -> str | None:
        """Return where a file is that was named on another machine, relative to the folder; None if it is not there.

        Backslashes are slashes.  A path that is not there as it stands is looked for by its last part in the folder and
        those below, whatever its case.
        """
        name = name.replace("\\", "/").strip().strip('"')
        plain = PurePosixPath(name)
        if name and "\0" not in name and not plain.is_absolute() and ":" not in name:
            path = (self.folder / plain).resolve()
            if path.is_relative_to(self.folder.resolve()) and path.is_file():
                return str(plain)
        return self._listing().get(plain.name.lower())

    def count(self, *, faces: int = 0, vertices: int = 0) -> None:
        """Take faces and vertices from the budget, before they are made."""
        self._faces -= faces
        self._vertices -= vertices
        if self._faces < 0 or self._vertices < 0:
            raise AssetError(f"it must have at most {limits.MESH_FACES} faces, copies counted. Simplify it first.")

    def image(self, content: bytes, name: str) -> Float[Tensor, "h w c"]:
        """Decode a texture: sRGB in [0, 1], 3 channels, or 4 with straight alpha.

        Raises:
            AssetError: it is damaged, of a kind that is not read, or all textures together have too many pixels.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content), formats=TEXTURES) as picture:  # its header
                self._pixels -= picture.width * picture.height
                if self._pixels < 0:
                    raise AssetError(
                        f"its textures must have at most {limits.TEXTURE_PIXELS} pixels together; they have more with "
                        f"{name}. Make them smaller."
                    )
                return torch.from_numpy(pixels(picture))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise AssetError(
                f"its texture {name} cannot be read ({str(error)[:120]}). It must be one of {', '.join(TEXTURES)}: "
                "convert it to PNG."
            ) from error

    def _inside(self, name: str) -> Path:
        if "\0" in name:
            raise AssetError("it refers to a file with a NUL in its name. Export it again.")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise AssetError(f"it refers to `{name}`, which lies outside of its folder. Pack its textures.")
        return path

    def _read(self, path: Path, name: str) -> bytes:
        try:
            content = read_file(path, self._bytes)
        except OSError as error:
            raise AssetError(f"it refers to `{name}`, which cannot be read: {error.strerror or error}.") from error
        self._bytes -= len(content)
        return content

    def _listing(self) -> dict[str, str]:
        """Return the files of the folder and those below by name, lower case; the nearest wins."""
        if self._names is None:
            names: dict[str, str] = {}
            seen = 0
            for top, _, files in os.walk(self.folder):
                for file in sorted(files):
                    names.setdefault(file.lower(), os.path.relpath(os.path.join(top, file), self.folder))
                seen += len(files)
                if seen > _LISTED:
                    break
            self._names = names
        return self._names


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; a pipe or device is not waited for.

    Raises:
        AssetError: it is no file, or has more than `most` bytes.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise AssetError(f"`{path.name}` must be a file; it is a folder, a pipe or a device.")
        if status.st_size > most:
            raise AssetError(
                f"`{path.name}` has {status.st_size} bytes; an asset and all that it refers to may have "
                f"{limits.MESH_BYTES}. Simplify it first."
            )
        return file.read(most + 1)[:most]
