"""Is what one view shows found in the next one, where its camera says that it must lie?  Epipolar geometry, in colours.

A point that a pixel p of view u shows lies on p's ray, so view v shows it on the ray's image, p's epipolar line:

    cost(p)  = min over points x on the ray of |patch_u(p) - patch_v(x)|       root mean square over 3 x 3 pixels, sRGB
    chance   = the same with the line of another pixel of the object instead of its own
    epipolar = mean cost / mean chance over the pixels of the object, v the nearest view of u; mean over u

0 is perfect, 1 is no relation between the views at all.  What the nearest view does not see costs something in true
views, too: figures are to be read beside theirs.  Knows nothing of outlines beyond where the object is, so it sees what
`consistency.py` may not, and the other way round; the idea is that of TSED (arXiv 2304.10700), with colours instead of
matches of key points, which toys without texture have none of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, grid_sample, normalize, unfold

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation.sightlines import project_rays

SIZE = 64
"""Pixels a side that views are brought to: patches are of the object, not of its grain."""

PIXELS = 256
"""Of an object that are looked for, evenly chosen."""

MOST = 0.5
"""No patch is further from another: one that is off the object costs this."""


@dataclass(frozen=True, kw_only=True)
class Epipolar:
    """How far views contradict each other along epipolar lines."""

    ratio: float
    """Mean cost as a share of chance, 0 (perfect) to about 1 (no relation)."""

    cost: float
    """Mean root mean square difference of a patch from its best match, sRGB, 0 to `MOST`."""

    worst_view: int
    """The view that costs most, counted from 0."""

    worst_cost: float
    """What that one costs."""


@torch.no_grad()
def measure_epipolar(
    rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, coverage: Float[Tensor, "v 1 h w"]
) -> Epipolar | None:
    """Compare each view with the nearest other one along epipolar lines; None where no view shows an object.

    Args:
        rgb: sRGB in [0, 1] on a plain ground, square.
        cameras: of the views; the object lies within `OBJECT_RADIUS` of the origin.
        coverage: of the object (`find_coverage`).

    Raises:
        InputError: fewer than two views, or not as many cameras as views.
    """
    if len(rgb) != len(cameras) or len(rgb) < 2:
        raise InputError(f"`cameras` must be one per view, two or more; got {len(cameras)} for {len(rgb)} views.")
    small, covered = (adaptive_avg_pool2d(x, SIZE) if x.shape[-1] > SIZE else x for x in (rgb, coverage))
    patches = unfold(small, 3, padding=1).unflatten(-1, small.shape[-2:])  # v 27 h w
    toward = normalize(cameras.position.to(rgb), dim=-1)
    nearest = (toward @ toward.T).fill_diagonal_(-2).argmax(dim=1).tolist()
    costs: dict[int, tuple[float, float]] = {}
    for u, v in enumerate(nearest):
        if (found := _compare(patches, covered, cameras, u, v)) is not None:
            costs[u] = found
    if not costs:
        return None
    cost, chance = torch.tensor(list(costs.values()), dtype=torch.float64).mean(dim=0).tolist()
    worst = max(costs, key=lambda u: costs[u][0])
    return Epipolar(ratio=cost / max(chance, 1e-6), cost=cost, worst_view=worst, worst_cost=costs[worst][0])


def _compare(
    patches: Float[Tensor, "v 27 h w"], covered: Float[Tensor, "v 1 h w"], cameras: Cameras, u: int, v: int
) -> tuple[float, float] | None:
    """Return what view u costs in view v, and what it would by chance; None where u shows no object."""
    inside = covered[u, 0] > 0.5
    if not bool(inside.any()):
        return None
    origin, direction = (t[0][inside] for t in cameras[u].rays(inside.shape[-1]))
    chosen = torch.linspace(0, len(origin) - 1, min(PIXELS, len(origin)), device=origin.device).round().long()
    wanted = patches[u][:, inside][:, chosen]  # 27 r
    lines = project_rays(cameras[[v]], origin[chosen], direction[chosen])
    on_line = grid_sample(patches[[v]], lines, align_corners=False)[0]  # 27 r s
    off = grid_sample(covered[[v]], lines, align_corners=False)[0, 0] < 0.5
    other = torch.arange(len(chosen), device=origin.device).roll(len(chosen) // 2)
    own, strange = (
        (seen - wanted[:, :, None]).square().mean(dim=0).sqrt().masked_fill(gone, MOST).amin(dim=-1).clamp(max=MOST)
        for seen, gone in ((on_line, off), (on_line[:, other], off[other]))
    )
    return float(own.mean()), float(strange.mean())
