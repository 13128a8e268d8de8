"""Small pictures for a page: strips of views, and meshes as they turn, as files within the page (`data:` addresses).

They are made when they are written and kept by nobody, so that a page of a thousand sets needs no more memory than one
of ten.  Their files say nothing beside what they show: the names of models that pictures carry are left behind.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.formats import READ_MESHES
from viewfold.picture import contact_sheet, to_pil
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import GROUND, Views

if TYPE_CHECKING:
    from PIL import Image

VIEW_PX, MOST_VIEWS = 160, 8
"""Pixels a side of a view in a strip, at most, and how many views; of more, evenly some."""

FRAMES, FRAME_PX, ELEVATION_DEG = 24, 160, 15.0
"""Of a mesh that turns."""

QUALITY = 80
"""Of WebP: a strip of four views of 64 px takes some 3 kB, a mesh that turns 50 kB."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture in a page."""

    uri: str
    """`data:image/webp;base64,...`"""

    width: int
    height: int
    frames: int = 1
    """Side by side in the picture, of a mesh that turns; 1 of views."""


Draw = Callable[[str], Thumbnail]
"""Gives the picture of a path."""


def draw_thumbnail(path: str | Path, *, columns: int | None = None, most: int = MOST_VIEWS) -> Thumbnail:
    """Return a small picture of a folder of views or a mesh's file, read again from the disk.

    Args:
        path: what was measured.
        columns: of views; by default all in one row.
        most: views that are shown.

    Raises:
        AssetError, InputError, MissingExtraError: it cannot be read any more.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were said when it was measured
        if path.suffix.lower() in READ_MESHES:
            return turning(load_mesh(path))
        return strip(Views.load(path), columns=columns, most=most)


def strip(views: Views, *, columns: int | None = None, most: int = MOST_VIEWS, side: int | None = None) -> Thumbnail:
    """Return views side by side, each at most `VIEW_PX` wide, or exactly `side` whatever they were."""
    rgb = views.over()
    rgb = rgb[spread(len(rgb), most)]
    rgb = shrunk(rgb) if side is None else interpolate(rgb, size=(side, side), mode="bilinear", antialias=True)
    return _webp(contact_sheet(rgb, columns=columns or len(rgb)))


def spread(count: int, most: int) -> list[int]:
    """Return the indices of at most `most` of `count`, evenly spread, the first among them."""
    some = min(count, most)
    return [index * count // some for index in range(some)]


def shrunk(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 small_h small_w"]:
    """Return pictures that are at most `VIEW_PX` along their longer side."""
    longer = max(rgb.shape[-2:])
    if longer <= VIEW_PX:
        return rgb
    height, width = (max(1, round(edge * VIEW_PX / longer)) for edge in rgb.shape[-2:])
    return interpolate(rgb, size=(height, width), mode="area")


def turning(mesh: Mesh) -> Thumbnail:
    """Return a mesh from all around: `FRAMES` pictures side by side, which a page shows one after the other.

    Raises:
        InputError: it has no face that can be seen.
    """
    cameras = Cameras.orbit(FRAMES, elevation_deg=ELEVATION_DEG)
    drawn = rasterize(mesh.fit_sphere(OBJECT_RADIUS), cameras, size=FRAME_PX, shape=False).over(GROUND)
    return _webp(to_pil(torch.cat(list(drawn), dim=-1)), frames=FRAMES)


def _webp(picture: Image.Image, *, frames: int = 1) -> Thumbnail:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(uri=uri, width=picture.width, height=picture.height, frames=frames)
