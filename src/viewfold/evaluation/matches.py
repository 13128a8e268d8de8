"""Do key points of one view lie where the next one's camera says?  SIFT by COLMAP's own code, for textured things.

A pair of neighbouring views agrees if it has enough matches and they lie on each other's epipolar lines (TSED, arXiv
2304.10700: at least 10 matches, a median symmetric distance below 2 pixels).  On what has no texture, or is
small, there are no key points and no verdict.  `epipolar.py`
asks the same of colours, for those.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from viewfold.camera import Cameras
from viewfold.errors import InputError, MissingExtraError

LEAST_PX = 512
"""Pixels a side below which key points are not asked for."""

LEAST_MATCHES = 10
"""Matches without which a pair says nothing (TSED's)."""

FAR_PX = 2.0
"""Median distance from the epipolar lines from which on a pair contradicts itself (TSED's), in pixels of 512."""

RATIO = 0.8
"""How much nearer than the second nearest a match must be (Lowe, IJCV 2004, section 7.1)."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """How key points of neighbouring views lie."""

    agreeing: float
    """Share of the pairs that have matches and agree, of all pairs, 0 to 1."""

    pairs: int
    """Each view and its nearest one, each pair once."""

    with_matches: int
    """Pairs with `LEAST_MATCHES` or more."""

    median_px: float | None
    """Median over those pairs of the median symmetric distance from epipolar lines, in pixels of 512; None without."""

    matches: float
    """Mean number of matches of a pair."""


def measure_matches(rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, coverage: Float[Tensor, "v 1 h w"]) -> Matches:
    """Match key points of each view with those of its nearest one, and see where they lie.

    Args:
        rgb: sRGB in [0, 1], square, of `LEAST_PX` pixels or more.
        cameras: of the views; 15 to 40 degrees apart, for the same points to be recognised.
        coverage: of the object; key points beside it are left out.

    Raises:
        InputError: fewer than two views, not as many cameras, or smaller pictures.
        MissingExtraError: pycolmap is not installed.
    """
    if len(rgb) != len(cameras) or len(rgb) < 2:
        raise InputError(f"`cameras` must be one per view, two or more; got {len(cameras)} for {len(rgb)} views.")
    if rgb.shape[-1] < LEAST_PX:
        raise InputError(
            f"`rgb` must be {LEAST_PX} pixels or more for key points; got {rgb.shape[-1]}. Smaller ones are measured "
            "by the other scores."
        )
    sift = _extractor()
    found = [_key_points(sift, picture, cover) for picture, cover in zip(rgb.cpu(), coverage.cpu(), strict=True)]
    cameras = cameras.to("cpu")
    toward = normalize(cameras.position, dim=-1)
    nearest = (toward @ toward.T).fill_diagonal_(-2).argmax(dim=1).tolist()
    pairs = sorted({(min(u, v), max(u, v)) for u, v in enumerate(nearest)})
    counts, distances = [], []
    for u, v in pairs:
        (points_u, like_u), (points_v, like_v) = found[u], found[v]
        chosen = match(like_u, like_v)
        counts.append(len(chosen))
        if len(chosen) >= LEAST_MATCHES:
            apart = epipolar_distance(cameras[[u, v]], points_u[chosen[:, 0]], points_v[chosen[:, 1]])
            distances.append(float(apart.median()))
    return Matches(
        agreeing=sum(distance < FAR_PX for distance in distances) / len(pairs),
        pairs=len(pairs),
        with_matches=len(distances),
        median_px=median(distances) if distances else None,
        matches=sum(counts) / len(pairs),
    )


def epipolar_distance(
    cameras: Cameras, first: Float[Tensor, "m 2"], second: Float[Tensor, "m 2"]
) -> Float[Tensor, "m"]:
    """Return how far matches lie from each other's epipolar lines, the mean of both ways, in pixels of 512.

    Args:
        cameras: two, that see the first and the second points.
        first, second: places in [-1, 1], x to the right and y up.
    """
    both = []
    turns, places = cameras.world_from_camera[:, :3, :3], cameras.world_from_camera[:, :3, 3]
    slopes = torch.tan(torch.deg2rad(cameras.fov_deg) / 2)
    rays = [_rays(points, slope) for points, slope in zip((first, second), slopes, strict=True)]
    for one, other in ((0, 1), (1, 0)):
        turn, move = turns[other].T @ turns[one], turns[other].T @ (places[one] - places[other])
        lines = torch.linalg.cross(move.expand_as(rays[one]), rays[one] @ turn.T)
        off = (lines * rays[other]).sum(dim=-1).abs() / lines[:, :2].norm(dim=-1).clamp_min(1e-9)
        both.append(off / slopes[other] * (LEAST_PX / 2))
    return (both[0] + both[1]) / 2


def _rays(points: Float[Tensor, "m 2"], slope: Float[Tensor, ""]) -> Float[Tensor, "m 3"]:
    """Return directions in the camera's frame, -1 along its axis."""
    return torch.cat([points * slope, -torch.ones(len(points), 1)], dim=1)


def match(one: Float[Tensor, "a d"], other: Float[Tensor, "b d"]) -> Int[Tensor, "m 2"]:
    """Return which of both are each other's nearest, and nearer than `RATIO` of the second nearest."""
    if len(one) < 2 or len(other) < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    apart = torch.cdist(one, other)
    (first, second), nearest = (t.T for t in apart.topk(2, dim=1, largest=False))
    back = apart.argmin(dim=0)
    mutual = back[nearest[0]] == torch.arange(len(one))
    kept = (mutual & (first < RATIO * second)).nonzero()[:, 0]
    return torch.stack([kept, nearest[0][kept]], dim=1)


def _extractor() -> Any:
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("key points need pycolmap: pip install 'viewfold[matches]'") from error
    pycolmap.logging.minloglevel = 2  # it tells of each extractor that it makes
    return pycolmap.FeatureExtractor.create(device=pycolmap.Device.cpu)


def _key_points(
    sift: Any, picture: Float[Tensor, "3 h w"], coverage: Float[Tensor, "1 h w"]
) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "k d"]]:
    """Return places in [-1, 1], y up, of the key points of the object, and what each looks like."""
    from pycolmap import Bitmap  # pyright: ignore[reportMissingImports]

    luma = (picture * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=0)
    points, looks = sift.extract(Bitmap.from_array((luma * 255).round().byte().contiguous().numpy()))
    places = torch.tensor([[point.x, point.y] for point in points]).reshape(-1, 2)
    looks = torch.tensor(looks.data, dtype=torch.float32)
    height, width = luma.shape
    x, y = places[:, 0], places[:, 1]
    inside = coverage[0, y.long().clamp(0, height - 1), x.long().clamp(0, width - 1)] > 0.5
    return torch.stack([2 * x / width - 1, 1 - 2 * y / height], dim=1)[inside], looks[inside]
