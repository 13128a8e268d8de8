"""Values at the nodes of a dense grid over the scene's box: read between the nodes, and bounded within cells.

What the representations on a grid share.  Grids run along z, y, x; knows nothing of what the values stand for.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from viewfold.errors import InputError
from viewfold.scene import trilinear
from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.trilinear import Lattice

MAX_RESOLUTION = 512
"""Beyond this a grid of four channels holds more than 2 GiB."""


def interpolate(grid: Float[Tensor, "1 d z y x"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p d"]:
    """Interpolate trilinearly; x runs along the last axis of the grid, beyond the box the border's value holds.

    With a gradient `trilinear.interpolate` is by far the faster on a CPU; without one, `grid_sample`.
    """
    if points.device.type != "cuda" and torch.is_grad_enabled() and grid.requires_grad:
        nodes = grid.shape[-1]
        whole = Lattice(resolution=nodes - 1, first=0, rows=nodes**3)
        return trilinear.interpolate((points / BOX_RADIUS + 1) / 2, grid.reshape(grid.shape[1], -1), [whole])
    where = (points / BOX_RADIUS)[None, :, None, None]
    values = functional.grid_sample(grid, where, mode="bilinear", padding_mode="border", align_corners=True)
    return values[0, :, :, 0, 0].T


def resample(grid: Float[Tensor, "1 d z y x"], resolution: int) -> Float[Tensor, "1 d k k k"]:
    """Interpolate onto a grid of another resolution over the same box.

    Raises:
        InputError: a resolution out of range.
    """
    check_resolution(resolution)
    size = (resolution, resolution, resolution)
    return functional.interpolate(grid, size=size, mode="trilinear", align_corners=True)


@torch.no_grad()
def cell_peaks(values: Float[Tensor, "z y x"], n_cells: int, *, radius: float) -> Float[Tensor, "k k k"]:
    """Return no less than the largest interpolated value in each of `n_cells`^3 cells of [-radius, radius]^3.

    An axis at a time, the maximum along a piece of a line is at its ends or at a node between them.  To take it before
    the other axes are interpolated can only raise it, and by little.
    """
    for axis in range(3):
        values = _peaks_along(values, axis, n_cells, radius)
    return values


def _peaks_along(values: Float[Tensor, "z y x"], axis: int, n_cells: int, radius: float) -> Float[Tensor, "i j k"]:
    """Return the maximum in each cell along one axis of values that are interpolated between nodes there."""
    resolution = values.shape[axis]
    edge = torch.linspace(-radius, radius, n_cells + 1, dtype=torch.float64)
    edge = ((edge / BOX_RADIUS + 1) / 2 * (resolution - 1)).clamp(0, resolution - 1)  # in nodes
    low, high = edge[:-1, None], edge[1:, None]
    between = low.floor() + torch.arange(1, math.ceil(float((high - low).max())) + 1)
    place = torch.cat([low, torch.minimum(between, high), high], dim=1)  # cells x places
    lower = place.floor().clamp(max=resolution - 2)
    share = (place - lower).flatten().reshape(-1, *[1] * (2 - axis)).to(values)
    node = lower.long().flatten().to(values.device)
    found = torch.lerp(values.index_select(axis, node), values.index_select(axis, node + 1), share)
    return found.unflatten(axis, (n_cells, -1)).amax(dim=axis + 1)


def checked_detail(detail: float) -> float:
    """Return a share of the detail that lies above 0 and is 1 at most.

    Raises:
        InputError: it does not.
    """
    if not 0 < detail <= 1:
        raise InputError(f"`detail` must lie above 0, and be 1 at most; got {detail}.")
    return detail


def check_resolution(resolution: int) -> None:
    """Refuse a number of nodes along each axis that makes no grid, or one too large for memory.

    Raises:
        InputError: it lies outside of 2 to 512.
    """
    if not 2 <= resolution <= MAX_RESOLUTION:
        raise InputError(f"`resolution` must lie between 2 and {MAX_RESOLUTION}; got {resolution}.")
