"""Which cells may hold something, for fields that can only be asked at points: a running maximum of their opacity.

As Instant NGP (appendix E.2) and nerfacc's `OccGridEstimator` keep it: each look asks one place in every cell, what was
seen before fades, and cells that are thinner than a threshold are skipped (scene/volume.py).

The places are not drawn at random.  Each look shifts the one place of all cells by another member of a sequence that
leaves no wide gap on any axis, so that thin parts are found for certain: after n looks a plate across an axis has been
met if it is thicker than `widest_gap(n)` of a cell, at most 2.2 / n of it, wherever it lies.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from viewfold.scene.field import Field
from viewfold.scene.volume import SCENE_RADIUS

STEP = ((5**0.5 - 1) / 2, 2**0.5 - 1, 3**0.5 - 1)
"""How far the place moves along x, y and z from one look to the next, in cells and modulo one.

The fractional parts of the multiples of a quadratic irrational are spread as evenly as numbers can be; the golden ratio
is the best of them.  The three are independent over the rationals, so that the places fill the cell.
"""

OPAQUE_ENOUGH = 0.01
"""A cell counts if one step through it absorbs this share of the light (nerfacc's `occ_thre`), or the mean of all."""


def place_of(look: int) -> tuple[float, float, float]:
    """Return where in its cell each is asked at a look, as shares of its sides: look times STEP, modulo one."""
    x, y, z = ((0.5 + look * step) % 1.0 for step in STEP)
    return x, y, z


def widest_gap(looks: int) -> float:
    """Return the widest stretch of any axis of a cell, repeated in the next, that no place fell into so far."""
    widest = 0.0
    for axis in range(3):
        met = sorted(place_of(look)[axis] for look in range(looks))
        met.append(met[0] + 1)
        widest = max(widest, *(after - before for before, after in zip(met[:-1], met[1:], strict=True)))
    return widest


@torch.no_grad()
def look_again(
    field: Field, peak: Float[Tensor, "z y x"], look: int, *, delta: float, decay: float
) -> Float[Tensor, "z y x"]:
    """Return the running maximum of opacity in each cell after another look.

        peak <- max(decay peak, 1 - exp(-density(place) delta))

    Args:
        field: asked once in each cell that the scene's sphere reaches.
        peak: of the looks before, over the cube of radius 0.55; zeros at first.
        look: the number of looks before this one.
        delta: the length of ray that opacity is of.
        decay: how fast what was seen before is forgotten; nerfacc's is 0.95.
    """
    n_cells = len(peak)
    where = _reached(n_cells, peak.device).nonzero()
    place = torch.tensor(place_of(look)).to(peak)
    points = (where.flip(-1) + place) * (2 * SCENE_RADIUS / n_cells) - SCENE_RADIUS
    opacity = -torch.expm1(-field.density(points) * delta)
    seen = torch.zeros_like(peak).index_put(tuple(where.T), opacity.to(peak))
    return torch.maximum(decay * peak, seen)


def occupied(peak: Float[Tensor, "z y x"], *, dilation: int = 1) -> Bool[Tensor, "z y x"]:
    """Return the cells whose peak passes min(OPAQUE_ENOUGH, mean), and `dilation` cells about them.

    A surface can grow into those around before the next look, and what is thinner than a cell is found in a neighbour.
    """
    mean = peak[_reached(len(peak), peak.device)].mean()
    cells = (peak > mean.clamp(max=OPAQUE_ENOUGH)).to(peak)[None, None]
    return functional.max_pool3d(cells, kernel_size=2 * dilation + 1, stride=1, padding=dilation)[0, 0] > 0


def _reached(n_cells: int, device: torch.device) -> Bool[Tensor, "z y x"]:
    """Return the cells of the cube that have a part inside the sphere: those whose nearest corner is."""
    edge = torch.linspace(-SCENE_RADIUS, SCENE_RADIUS, n_cells + 1, device=device)
    low, high = edge[:-1], edge[1:]
    nearest = torch.where(low > 0, low, torch.where(high < 0, high, torch.zeros_like(low))).square()
    return nearest[:, None, None] + nearest[:, None] + nearest <= SCENE_RADIUS**2
