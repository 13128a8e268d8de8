"""Does the object show the same face on several sides?  A proxy for what is called the Janus problem.

Each view is cut to its object, scaled to one size, and compared with the views from other sides:

    r(u, v)    = correlation of the colours of u and v where both show the object, -1 to 1
    repetition = mean over views of the largest r(u, v) with a view from a side at least `APART_DEG` apart

A front drawn on every side repeats, turned a little or with noise of its own as well; so does an object that really has
one face all round, which agrees with itself (consistency.py) and is a wrong object all the same.  So does a thing that
is the same all round by right, a ball or a cake: figures are to be read beside those of true things of the same kind,
and a high one asks for a look.  A mirror image does not count: left and right of most things are that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize, pad

from viewfold.camera import Cameras
from viewfold.errors import InputError

APART_DEG = 60.0
"""Views from sides nearer to each other may look alike."""

SIDE = 24
"""Pixels that an object is scaled to."""

LEAST = 5.0
"""Pixels of those that two views must share to be compared."""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """How alike sides look."""

    mean: float
    """Mean over views of how well the likeliest other side repeats each, -1 to 1."""

    most: float
    """That of the pair that is most alike."""

    views: tuple[int, int]
    """Which pair that is."""


@torch.no_grad()
def measure_repetition(
    rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, coverage: Float[Tensor, "v 1 h w"]
) -> Repetition | None:
    """Return how far views from different sides repeat each other; None where no two with an object can be compared.

    Args:
        rgb: sRGB in [0, 1] on a plain ground.
        cameras: of the views, around an object at the origin.
        coverage: of the object (`find_coverage`).

    Raises:
        InputError: not as many cameras as views.
    """
    if len(rgb) != len(cameras):
        raise InputError(f"`cameras` must be one per view; got {len(cameras)} for {len(rgb)} views.")
    cut = [_cut(picture, cover) for picture, cover in zip(rgb, coverage, strict=True)]
    toward = normalize(cameras.position.to(rgb), dim=-1)
    apart = toward @ toward.T < math.cos(math.radians(APART_DEG))
    likeness = torch.full((len(rgb), len(rgb)), -math.inf)
    for u, v in apart.triu(1).nonzero().tolist():
        one, other = cut[u], cut[v]
        found = None if one is None or other is None else _correlate(one, other)
        if found is not None:
            likeness[u, v] = likeness[v, u] = found
    each = likeness.amax(dim=1)
    each = each[each.isfinite()]
    if not len(each):
        return None
    u, v = divmod(int(likeness.argmax()), len(rgb))
    return Repetition(mean=float(each.mean()), most=float(likeness.amax()), views=(min(u, v), max(u, v)))


def _cut(picture: Float[Tensor, "3 h w"], coverage: Float[Tensor, "1 h w"]) -> Float[Tensor, "4 s s"] | None:
    """Return the square around an object, scaled to `SIDE`: colours and coverage; None where there is no object."""
    rows, columns = (coverage[0] > 0.5).nonzero(as_tuple=True)
    if not len(rows):
        return None
    top, bottom, left, right = (int(n) for n in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    edge = max(bottom - top, right - left)
    above, before = (edge - (bottom - top)) // 2, (edge - (right - left)) // 2
    margins = (before, edge - (right - left) - before, above, edge - (bottom - top) - above)
    seen = torch.cat([picture * coverage, coverage])[:, top:bottom, left:right]
    small = adaptive_avg_pool2d(pad(seen, margins), SIDE)
    return torch.cat([small[:3] / small[3:].clamp_min(1e-3), small[3:]])


def _correlate(one: Float[Tensor, "4 s s"], other: Float[Tensor, "4 s s"]) -> float | None:
    """Return the correlation of colours where both show the object; None where they share too little or are plain."""
    weight = one[3:] * other[3:]
    if float(weight.sum()) < LEAST:
        return None
    a, b = ((x[:3] - (x[:3] * weight).sum((1, 2), keepdim=True) / weight.sum()) for x in (one, other))
    spread = ((a.square() * weight).sum() * (b.square() * weight).sum()).sqrt()
    return float((a * b * weight).sum() / spread) if float(spread) > 1e-6 else None
