"""Do views with known cameras show one and the same object?  Measured by geometry and colour, with no network.

Outlines.  A pixel of the object is allowed by the other views if somewhere along its ray lies a point that all of them
see inside their outlines (silhouette coherence; Hernandez et al., PAMI 2007).  The area that is not allowed, divided by
the length of the outline, is how far the outlines are apart on average: `gap_px`.

    gap     = sum over object pixels (1 - max_s min_u coverage_u(x_s)) / outline pixels x 64 / size
    outline = exp(-gap)

with x_s the points on the pixel's ray and u the other views.

Colours.  A pixel is matched if near the front of that stretch of its ray another view shows its colour.

    color   = mean over object pixels max_s min_u coverage_u(x_s) exp(-min_u |rgb_u(x_s) - rgb|^2 / (2 x 0.25^2))

over points at most `DEPTH` behind the front, with coverage widened by a pixel.  A view scores outline x color.

True renders do not reach 1 exactly (pixels are coarse, shade comes close to the ground's grey, some sides are seen by
one view alone), so figures are given beside theirs.  docs/evaluation.md has what known damage does to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation.sightlines import SAMPLES, SPACING, project_rays
from viewfold.ground import distance_to, ground_color

NEAR_GROUND, FAR_FROM_GROUND = 0.05, 0.13
"""Distance from the ground's colour (Euclidean, sRGB) where coverage begins and where it is full.

Not the lift's (lifting/foreground.py), which cleans up after itself: published figures are counted with these, and with
a border of one pixel; of twelve sets of the shipped model's views one scores otherwise with the lift's border."""

COLOR_TOLERANCE = 0.25
"""Difference of colours (Euclidean, sRGB) at which a match counts exp(-1/2); light and shade differ by less."""

DEPTH = 0.3
"""How far behind the hull's front a colour is looked for: the hull is larger than the object."""

UNIT = 64
"""`gap_px` is counted in pixels of pictures of this size, whatever the size."""

CROWDED = 0.9
"""A picture with more object than this has no ground; it scores as an empty one does."""

RAYS = 2**14
"""Looked along at once; bounds memory, changes nothing else."""

NOTHING_PX = 64.0
"""The gap of a picture without object or without ground."""


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """How well views agree."""

    gap_px: float
    """Mean distance by which the outlines contradict each other, in 64ths of the picture, 0 or more."""

    outline: float
    """exp(-gap_px), mean over views, 0 to 1."""

    color: float
    """Share of the object's pixels whose colour another view shows where it may, mean over views, 0 to 1."""

    score: float
    """outline * color of each view, mean over views, 0 to 1."""

    worst_view: float
    """outline * color of the worst view."""

    coverage: float
    """Share of the pictures that is object; a view that is empty or full scores 0."""


def find_coverage(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 1 h w"]:
    """Return how much each pixel differs from the median colour of its picture's border: 0 ground, 1 object."""
    distance = distance_to(ground_color(rgb, width=1), rgb)
    return ((distance - NEAR_GROUND) / (FAR_FROM_GROUND - NEAR_GROUND)).clamp(0, 1)


@torch.no_grad()
def measure_consistency(
    rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, coverage: Float[Tensor, "v 1 h w"] | None = None
) -> Consistency:
    """Compare each view with all others.

    Args:
        rgb: sRGB in [0, 1] on a plain ground, square.
        cameras: of the views; the object lies within `OBJECT_RADIUS` of the origin.
        coverage: of the object, where it is known better than by colour.

    Raises:
        InputError: fewer than two views, or not as many cameras as views.
    """
    if len(rgb) != len(cameras) or len(rgb) < 2:
        raise InputError(f"`cameras` must be one per view, two or more; got {len(cameras)} for {len(rgb)} views.")
    coverage = find_coverage(rgb) if coverage is None else coverage
    gaps, colors = zip(*(_compare(rgb, coverage, cameras, view) for view in range(len(rgb))), strict=True)
    gap, color = torch.tensor(gaps, dtype=torch.float64), torch.tensor(colors, dtype=torch.float64)
    outline = torch.exp(-gap)
    return Consistency(
        gap_px=float(gap.mean()),
        outline=float(outline.mean()),
        color=float(color.mean()),
        score=float((outline * color).mean()),
        worst_view=float((outline * color).amin()),
        coverage=float(coverage.mean()),
    )


def _compare(rgb: Tensor, coverage: Tensor, cameras: Cameras, view: int) -> tuple[float, float]:
    """Return the gap of a view's outline against the others', and the share of its pixels that they match in colour."""
    others = [u for u in range(len(rgb)) if u != view]
    inside = coverage[view, 0] > 0.5
    if not 0 < float(inside.float().mean()) < CROWDED:
        return NOTHING_PX, 0.0
    known = torch.cat([coverage[others], max_pool2d(coverage[others], 3, stride=1, padding=1), rgb[others]], dim=1)
    origin, direction = (t[0][inside] for t in cameras[view].rays(rgb.shape[-1]))
    rays = zip(origin.split(RAYS), direction.split(RAYS), rgb[view][:, inside].T.split(RAYS), strict=True)
    strict, match = zip(*(_along(known, cameras[others], *some) for some in rays), strict=True)
    crowded = avg_pool2d(inside[None].float(), 3, stride=1, padding=1)[0] > 0.99
    gap = (1 - torch.cat(strict)).sum() / (inside & ~crowded).sum() * (UNIT / rgb.shape[-1])
    return float(gap), float(torch.cat(match).mean())


def _along(
    known: Float[Tensor, "u 5 h w"],
    cameras: Cameras,
    origin: Float[Tensor, "r 3"],
    direction: Float[Tensor, "r 3"],
    color: Float[Tensor, "r 3"],
) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Return how far the other views allow rays to meet the object, and how well they match their colours, 0 to 1.

    Args:
        known: of the other views: coverage, coverage widened by a pixel, and colours.
        cameras: of the other views.
        origin, direction: of the rays.
        color: that the view shows there.
    """
    seen = grid_sample(known, project_rays(cameras, origin, direction), align_corners=False)  # u 5 r s
    strict, loose = seen[:, 0].amin(0), seen[:, 1].amin(0)
    front = (loose > 0.5).float().argmax(-1, keepdim=True)
    depth = (torch.arange(SAMPLES, device=origin.device) - front) * SPACING
    difference = (seen[:, 2:] - color.T[None, :, :, None]).square().sum(1).amin(0)
    match = loose * torch.exp(-0.5 * difference / COLOR_TOLERANCE**2) * (depth <= DEPTH)
    return strict.amax(-1), match.amax(-1)
