"""Space carving: what of the visual hull cannot be there, because the views that see it show different colours.

Outlines say nothing of a hollow.  Pictures into a mug do: a lid over its mouth would have one colour at each place, and
views from different sides show different parts of the wall behind it there.  So, from the hull inwards, a point of the
surface goes if the views that see it cannot agree on it, until they do (Kutulakos and Seitz 2000):

    lo_v, hi_v   the least and the greatest colour of view v within a pixel of the point, so that an edge between two
                 colours is no disagreement
    spread       the greatest over the channels of  max_v lo_v - min_v hi_v,  without the outermost views at either end

Where the carved shape no longer covers a part of an outline, the hull is put back.  Only a matt surface under a light
that stays has one colour for all views; a gloss is an outlier in few of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d, max_pool3d

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.hull import sample_pictures
from viewfold.lifting.photometric import Photometric
from viewfold.scene.field import BOX_RADIUS, lattice

SIZE = 64
"""Pixels along each side of the pictures that are compared; larger ones are shrunk."""

BINS = 5 / 6
"""Of the points along an axis: how many bins a view has along each side; of more, a surface would leave some empty."""

BEHIND = 2.0
"""A point is seen if it is no more than this many spacings of the points behind the nearest one in its bin."""

SURE = 0.9
"""A colour counts if this share of the pixel and of all its neighbours is the object."""


@dataclass(frozen=True, kw_only=True)
class CarveSettings:
    """How a visual hull is carved."""

    resolution: int = 48
    """Points along each axis."""

    tolerance: float = 0.02
    """A greater spread is a disagreement; sRGB in [0, 1]."""

    outliers: float = 0.2
    """Share of the views that see a point that is ignored at either end, highlights among them."""

    least_views: int = 6
    """Views that must see a point before it may go; fewer views than that carve nothing."""

    sweeps: int = 24
    """Layers that are looked at, each of which may take a point from all of the surface."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 256), ("least_views", 2, 10_000), ("sweeps", 0, 1_000)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")
        for name, high in (("tolerance", 1.0), ("outliers", 0.49)):
            if not 0 <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between 0 and {high}; got {getattr(self, name)}.")


def carve(
    pictures: Photometric, hull: Float[Tensor, "z y x"], settings: CarveSettings
) -> Float[Tensor, "1 1 z y x"] | None:
    """Return how much of a visual hull is carved away, at the points of a lattice over the scene.

    Args:
        pictures: of the object.
        hull: how sure each point of `lattice(settings.resolution)` is inside the outlines, in [0, 1].
        settings: see `CarveSettings`.

    Returns:
        1 where a point is gone and 0 elsewhere, for `at`; None if nothing is.
    """
    if len(pictures.rgb) < settings.least_views:
        return None
    pictures = pictures.shrunk(min(SIZE, pictures.size))
    n, inside = len(hull), (hull > 0.5).flatten().nonzero()[:, 0]
    points = lattice(n, device=hull.device)[inside]
    views = _Seen.of(pictures.cameras, points, bins=int(BINS * n))
    low, high = -_highest(-pictures.rgb), _highest(pictures.rgb)
    sure = -_highest(-pictures.alpha * (pictures.certainty >= 1))
    looked_at = torch.cat([low, high, sure], dim=1)
    left = torch.ones(len(inside), dtype=torch.bool, device=hull.device)
    for _ in range(settings.sweeps):
        skin = _skin(left, inside, n)
        seen = views.seen(skin, left, depth=BEHIND * 2 * BOX_RADIUS / (n - 1))
        lows, highs, whole = sample_pictures(looked_at, pictures.cameras, points[skin]).split([3, 3, 1], dim=-1)
        seen &= whole[..., 0] > SURE
        goes = (_spread(lows, highs, seen, settings.outliers) > settings.tolerance) & (
            seen.sum(dim=0) >= settings.least_views
        )
        if not goes.any():
            break
        left[skin[goes]] = False
    gone = ~(left | views.on_bare_bins(left))
    if not gone.any():
        return None
    result = hull.new_zeros(n**3)
    result[inside[gone]] = 1
    return result.reshape(1, 1, n, n, n)


def at(grid: Float[Tensor, "1 1 z y x"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
    """Interpolate trilinearly what lies on `lattice`."""
    where = (points / BOX_RADIUS)[None, :, None, None]
    return grid_sample(grid, where, padding_mode="border", align_corners=True)[0, 0, :, 0, 0]


def _highest(pictures: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Return the greatest value among each pixel and its eight neighbours."""
    return max_pool2d(pictures, 3, stride=1, padding=1)


def _skin(left: Bool[Tensor, "p"], inside: Int[Tensor, "p"], n: int) -> Int[Tensor, "k"]:
    """Return which of the points that are left have one of 26 neighbours that is not."""
    empty = torch.ones(n**3, device=left.device)
    empty[inside[left]] = 0
    beside = max_pool3d(empty.reshape(1, 1, n, n, n), 3, stride=1, padding=1).flatten()
    return (left & (beside[inside] > 0)).nonzero()[:, 0]


def _spread(
    lows: Float[Tensor, "v k 3"], highs: Float[Tensor, "v k 3"], seen: Bool[Tensor, "v k"], outliers: float
) -> Float[Tensor, "k"]:
    """Return by how much the views that see a point disagree; at most 0 if they agree."""
    ignored = (outliers * seen.sum(dim=0)).long()[None, :, None].expand(1, -1, lows.shape[-1])
    most = lows.masked_fill(~seen[..., None], -torch.inf).sort(dim=0, descending=True).values.gather(0, ignored)
    least = highs.masked_fill(~seen[..., None], torch.inf).sort(dim=0).values.gather(0, ignored)
    return (most - least)[0].amax(dim=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """Where points lie in the views."""

    bin: Int[Tensor, "v p"]
    depth: Float[Tensor, "v p"]
    bins: int
    """Of a view, in all."""

    @classmethod
    def of(cls, cameras: Cameras, points: Float[Tensor, "p 3"], *, bins: int) -> _Seen:
        """Look at points with cameras of `bins` by `bins` bins; what is beside the picture is put into the last one."""
        uv, depth = cameras.project(points)
        x, y = ((uv + 1) / 2 * bins).long().clamp(0, bins - 1).unbind(dim=-1)
        return cls(bin=y * bins + x, depth=depth, bins=bins * bins)

    def seen(self, which: Int[Tensor, "k"], left: Bool[Tensor, "p"], *, depth: float) -> Bool[Tensor, "v k"]:
        """Tell which views see which points: none that is left lies before them by more than `depth`."""
        near = self.depth.new_full((len(self.bin), self.bins), torch.inf)
        near.scatter_reduce_(1, self.bin[:, left], self.depth[:, left], "amin")
        return self.depth[:, which] <= near.gather(1, self.bin[:, which]) + depth

    def on_bare_bins(self, left: Bool[Tensor, "p"]) -> Bool[Tensor, "p"]:
        """Tell which points lie, in any view, where all points together cover the picture and those left do not."""
        covered = torch.zeros(len(self.bin), self.bins, dtype=torch.bool, device=left.device)
        covered.scatter_(1, self.bin[:, left], True)
        return (~covered.gather(1, self.bin)).any(dim=0)
