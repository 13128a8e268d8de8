"""Are views from different sides different pictures?  What a model does that draws the front on every side.

    d(u, v)      = root of the mean over the object of |rgb_u - rgb_v|^2 / 3, both shrunk to `SIDE` pixels a side
    distinctness = mean over pairs of views from sides at least `APART_DEG` apart of min(1, d(u, v) / ALIKE)

Agreement of the views (consistency.py) cannot see this: four copies of one picture agree, as an object would that has
the same face all round.  Light alone makes the sides of a round thing differ by more than `ALIKE`; a thing that is the
same all round in light that is the same all round has none, so that a low figure asks for a look, and no more.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation.consistency import find_coverage

ALIKE = 0.015
"""Difference (root mean square, sRGB) of two sides that count as fully different: sides of true toys differ by more,
all of 32 score 1.000 (`benchmarks/calibration.py`)."""

SIDE = 16
"""Pixels that pictures are shrunk to, so that noise makes no difference."""

APART_DEG = 20.0
"""Views from sides nearer to each other may look alike."""


@torch.no_grad()
def measure_distinctness(
    rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, coverage: Float[Tensor, "v 1 h w"] | None = None
) -> float | None:
    """Return how far views from different sides differ, 0 (copies) to 1; None where no two are from different sides.

    Args:
        rgb: sRGB in [0, 1] on a plain ground.
        cameras: of the views, around an object at the origin.
        coverage: of the object, where it is known better than by colour.

    Raises:
        InputError: not as many cameras as views.
    """
    if len(rgb) != len(cameras):
        raise InputError(f"`cameras` must be one per view; got {len(cameras)} for {len(rgb)} views.")
    small = adaptive_avg_pool2d(rgb, SIDE)
    covered = adaptive_avg_pool2d(find_coverage(rgb) if coverage is None else coverage, SIDE)
    toward = torch.nn.functional.normalize(cameras.position.to(rgb), dim=-1)
    u, v = torch.triu_indices(len(rgb), len(rgb), offset=1, device=rgb.device)
    apart = (toward[u] * toward[v]).sum(dim=-1) < math.cos(math.radians(APART_DEG))
    u, v = u[apart], v[apart]
    if not len(u):
        return None
    weight = covered[u].maximum(covered[v])
    squares = (small[u] - small[v]).square().mean(dim=1, keepdim=True)
    mean = (squares * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return float((mean.sqrt() / ALIKE).clamp(max=1).mean())
