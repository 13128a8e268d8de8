"""Trilinear interpolation of features at the nodes of cubic lattices, of which fine ones share rows by a hash.

One gather and one scatter serve the dense grid (scene/grid.py) and the hash grid (scene/hashgrid.py).  On a CPU the
scatter is several times faster than `grid_sample`'s backward pass (`benchmarks/field.py`).  Knows no field.

Layout decides the speed: features lie one after the other, the eight corners of all points one after the other, so
that every operation runs along points.  The gradient is added up unsorted: sorting costs more than the misses it saves.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PRIMES = (1, 2_654_435_761, 805_459_861)
"""pi_1, pi_2, pi_3 of the hash (Instant NGP, below equation 4)."""


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Which rows of a table hold the features at the nodes of a lattice over the unit cube."""

    resolution: int
    """Cells along each axis."""

    first: int
    """Its first row."""

    rows: int
    """How many rows it has: (resolution + 1)^3, or a power of two that its nodes are hashed into."""

    @property
    def hashed(self) -> bool:
        """Whether nodes share rows, because there are more of them."""
        return (self.resolution + 1) ** 3 > self.rows

    @property
    def strides(self) -> tuple[int, int, int]:
        """What a step along x, y, z changes: the row, or the term of the hash.

        Only the hash's last bits are used, and those of a product depend on the last bits of its factors alone.
        """
        if self.hashed:
            return PRIMES[0], PRIMES[1] % self.rows, PRIMES[2] % self.rows
        nodes = self.resolution + 1
        return 1, nodes, nodes**2


def interpolate(
    at: Float[Tensor, "p 3"], table: Float[Tensor, "d rows"], lattices: Sequence[Lattice]
) -> Float[Tensor, "p q"]:
    """Return the features at places of the unit cube, one lattice after the other; outside, those of the border.

    Differentiable once, in the table and in the places.
    """
    return _Interpolate.apply(at, table, tuple(lattices), False)  # type: ignore[return-value]


def interpolate_with_slope(
    at: Float[Tensor, "p 3"], table: Float[Tensor, "d rows"], lattices: Sequence[Lattice]
) -> tuple[Float[Tensor, "p q"], Float[Tensor, "p 3 q"]]:
    """Return the features and their derivatives along x, y, z per side of the cube, from one gather.

    Both are linear in the table, and differentiable in it alone: losses of analytic normals need no second derivative.
    """
    return _Interpolate.apply(at.detach(), table, tuple(lattices), True)  # type: ignore[return-value]


def interpolate_plainly(
    at: Float[Tensor, "p 3"], table: Float[Tensor, "d rows"], lattices: Sequence[Lattice]
) -> Float[Tensor, "p q"]:
    """Return the same as `interpolate`, as the paper writes it and as slowly: what the fast one is tested against.

    features = sum over corners c of  prod over axes (1 - |x - c|)  table[row(c)]
    row(c)   = (XOR over axes c_i pi_i) mod rows                                       (Instant NGP, equation 4)
    """
    found = []
    for lattice in lattices:
        place = at.clamp(0, 1) * lattice.resolution
        low = place.detach().floor().clamp(max=lattice.resolution - 1)
        features = at.new_zeros(len(at), len(table))
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).to(low):
            node = low + corner
            x, y, z = node.long().unbind(-1)
            if lattice.hashed:
                row = ((x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) % lattice.rows
            else:
                row = x + (lattice.resolution + 1) * (y + (lattice.resolution + 1) * z)
            weight = (1 - (place - node).abs()).prod(dim=-1)
            features = features + weight[:, None] * table[:, lattice.first + row].T
        found.append(features)
    return torch.cat(found, dim=-1)


def _locate(at: Float[Tensor, "3 p"], lattice: Lattice) -> tuple[Int[Tensor, "q"], Float[Tensor, "3 p"]]:
    """Return the rows of the corners around each place, x fastest and z slowest, and where it lies between them.

    The products of a hash may pass 2^31 and wrap around, which leaves their last bits as they are.
    """
    place = at * lattice.resolution
    low = place.to(torch.int32).clamp_(max=lattice.resolution - 1)
    steps = [part * stride for part, stride in zip(low, lattice.strides, strict=True)]
    x, y, z = (torch.stack([step, step + stride]) for step, stride in zip(steps, lattice.strides, strict=True))
    join = operator.xor if lattice.hashed else operator.add
    row = join(z[:, None, None], join(y[:, None], x))
    return (row & (lattice.rows - 1) if lattice.hashed else row).reshape(-1), place - low


def _blend(
    corner: Float[Tensor, "2 2 2 p"], share: Float[Tensor, "3 p"]
) -> tuple[Float[Tensor, "2 2 p"], Float[Tensor, "2 p"], Float[Tensor, "p"]]:
    """Interpolate along x, then y, then z, and return all three."""
    along_x = torch.lerp(corner[:, :, 0], corner[:, :, 1], share[0])
    along_y = torch.lerp(along_x[:, 0], along_x[:, 1], share[1])
    return along_x, along_y, torch.lerp(along_y[0], along_y[1], share[2])


def _slope(
    corner: Float[Tensor, "2 2 2 p"],
    along_x: Float[Tensor, "2 2 p"],
    along_y: Float[Tensor, "2 p"],
    share: Float[Tensor, "3 p"],
) -> Float[Tensor, "3 p"]:
    """Return the derivatives along x, y, z per cell."""
    x = corner[:, :, 1] - corner[:, :, 0]
    x = torch.lerp(x[:, 0], x[:, 1], share[1])
    y = along_x[:, 1] - along_x[:, 0]
    return torch.stack([torch.lerp(x[0], x[1], share[2]), torch.lerp(y[0], y[1], share[2]), along_y[1] - along_y[0]])


def _spread(
    gradient: Float[Tensor, "p"], slope: Float[Tensor, "3 p"] | None, side: Float[Tensor, "3 2 p"], resolution: int
) -> Float[Tensor, "2 2 2 p"]:
    """Return what a gradient of the value, and of its slope per side of the cube, means for each corner."""
    x, y, z = side
    spread = (gradient * z)[:, None, None] * (y[:, None] * x)
    if slope is not None:
        sign = torch.tensor([-resolution, resolution]).to(side)[:, None]
        spread = spread + (slope[0] * z)[:, None, None] * (y[:, None] * sign)
        spread = spread + (slope[1] * z)[:, None, None] * (sign[:, None] * x)
        spread = spread + (slope[2] * sign)[:, None, None] * (y[:, None] * x)
    return spread


class _Interpolate(torch.autograd.Function):
    """See `interpolate` and `interpolate_with_slope`."""

    @staticmethod
    def forward(ctx: Any, at: Tensor, table: Tensor, lattices: tuple[Lattice, ...], with_slope: bool) -> Any:
        planar, values, slopes, kept = at.clamp(0, 1).T.contiguous(), [], [], []
        for lattice in lattices:
            row, share = _locate(planar, lattice)
            kept += [row, share]
            for feature in table[:, lattice.first : lattice.first + lattice.rows]:
                corner = feature.index_select(0, row).view(2, 2, 2, -1)
                along_x, along_y, value = _blend(corner, share)
                values.append(value)
                if with_slope:
                    slopes.append(_slope(corner, along_x, along_y, share) * lattice.resolution)
        ctx.save_for_backward(*((at, table) if ctx.needs_input_grad[0] else ()), *kept)
        ctx.lattices, ctx.shape = lattices, table.shape
        features = torch.stack(values).T if values else at.new_zeros(len(at), 0)
        return (features, torch.stack(slopes).permute(2, 1, 0)) if with_slope else features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, slope: Tensor | None = None) -> Any:
        saved, lattices, n_features = list(ctx.saved_tensors), ctx.lattices, ctx.shape[0]
        at, table = (saved.pop(0), saved.pop(0)) if ctx.needs_input_grad[0] else (None, None)
        planar = gradient.T.reshape(len(lattices), n_features, -1).contiguous()
        slopes = None if slope is None else slope.permute(2, 1, 0).reshape(*planar.shape[:2], 3, -1).contiguous()
        for_at = None if at is None else torch.zeros_like(at)
        for_table = gradient.new_zeros(ctx.shape) if ctx.needs_input_grad[1] else None
        for i, lattice in enumerate(lattices):
            row, share = saved[2 * i], saved[2 * i + 1]
            rows = slice(lattice.first, lattice.first + lattice.rows)
            if for_table is not None:
                side, long = torch.stack([1 - share, share], dim=1), row.long()
                for k in range(n_features):
                    spread = _spread(planar[i, k], None if slopes is None else slopes[i, k], side, lattice.resolution)
                    for_table[k, rows].scatter_add_(0, long, spread.reshape(-1))
            if for_at is not None and table is not None:
                for k in range(n_features):
                    corner = table[k, rows].index_select(0, row).view(2, 2, 2, -1)
                    along_x, along_y, _ = _blend(corner, share)
                    slope_here = _slope(corner, along_x, along_y, share) * lattice.resolution
                    for_at += (slope_here * planar[i, k]).T
        if for_at is not None:
            for_at = for_at * ((at >= 0) & (at <= 1))
        return for_at, for_table, None, None
