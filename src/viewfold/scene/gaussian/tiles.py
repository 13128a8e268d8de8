"""The fast rasteriser of 3D Gaussians, in plain PyTorch: tiles, each with the Gaussians that reach it, nearest first.

Alpha compositing from front to back (Kerbl et al. 2023, equations 2 and 3), of colour, depth and normals alike:

    alpha_k = opacity_k exp(-(x - c_k)^T Sigma'_k^-1 (x - c_k) / 2)          0 below 1/255, 0.99 at most
    out = sum_k f_k alpha_k prod_{j<k} (1 - alpha_j)

The exponents of a tile are one product of matrices: in the pixels' coordinates about its middle they are quadratic.
scene/gaussian/reference.py draws the same slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.gaussian.projection import LEAST_ALPHA, MOST_ALPHA, Splats, project
from viewfold.scene.rendering import Rendering

TILE = 8
"""Pixels along each side of a tile.  The released CUDA code has 16; on a CPU 8 wastes less on small Gaussians."""

AT_ONCE = 2**19
"""Pairs of a Gaussian and a pixel that are composited at once, of one tile at least: 2 MiB a number, which the cache of
a CPU holds (2^21 takes 1.5 times as long).  The list of who reaches which tile is made at once: 24 bytes an entry.
"""

LOWEST = -40.0
"""Logarithms of alpha and of transmittance go no lower, for numbers below float32's normal ones take ten times as long.
"""

MAX_SIZE = 4096
"""Pixels along each side of a picture."""


def draw_gaussians(gaussians: Gaussians, cameras: Cameras, *, size: int, normals: bool = False) -> Rendering:
    """Draw a cloud; differentiable once in all of its numbers.

    Args:
        gaussians: on the cameras' device.
        cameras: where from.
        size: pixels along each side.
        normals: also draw normals, of the shortest axes; otherwise they are zero.

    Raises:
        InputError: a size out of range.
    """
    check_size(size)
    splats = project(gaussians, cameras, size=size, normals=normals)
    n_tiles = -(-size // TILE)
    table = torch.cat(
        [
            splats.center,
            splats.conic,
            splats.log_opacity[None, :, None].expand(len(cameras), -1, 1),
            splats.features,
            torch.ones_like(splats.center[..., :1]),
        ],
        dim=-1,
    ).flatten(0, 1)
    nobody = functional.pad(
        table.new_full((1, 1), 2 * LOWEST), (5, table.shape[-1] - 6)
    )  # for the rest of a tile's list
    table, n_channels = torch.cat([table, nobody]), table.shape[-1] - 6
    row, tile, first, count = _pairs(splats, n_tiles)
    places, drawn = [tile.new_zeros(0)], [table.new_zeros(0, TILE * TILE, n_channels)]
    basis = _basis(table)
    for chosen in _portions(count):
        slot = torch.arange(int(count[chosen.start]), device=row.device)
        index = (first[chosen, None] + slot).clamp(max=len(row) - 1)
        index = torch.where(slot < count[chosen, None], row[index.flatten()].unflatten(0, index.shape), len(table) - 1)
        some = table.index_select(0, index.flatten()).unflatten(0, index.shape)
        exponent = _exponent(some, tile[chosen], n_tiles)
        places.append(tile[chosen])
        drawn.append(_Composite.apply(exponent, some[..., 6:], basis))
    canvas = table.new_zeros(len(cameras) * n_tiles**2, TILE * TILE, n_channels)
    canvas = canvas.index_copy(0, torch.cat(places), torch.cat(drawn))
    canvas = canvas.reshape(len(cameras), n_tiles, n_tiles, TILE, TILE, n_channels).permute(0, 5, 1, 3, 2, 4)
    return as_rendering(canvas.reshape(len(cameras), n_channels, n_tiles * TILE, n_tiles * TILE)[..., :size, :size])


def as_rendering(channels: Float[Tensor, "v d h w"]) -> Rendering:
    """Return composited channels as pictures: colour, depth, perhaps a normal, and last what was absorbed."""
    alpha = channels[:, -1:]
    depth = channels[:, 3:4] / alpha.clamp_min(1e-6)
    normal = channels[:, 4:7] if channels.shape[1] == 8 else torch.zeros_like(channels[:, :3])
    return Rendering(rgb=channels[:, :3], alpha=alpha, depth=depth, normal=normal)


def check_size(size: int) -> None:
    """Refuse a picture that cannot be drawn.

    Raises:
        InputError: a size out of range.
    """
    if not 1 <= size <= MAX_SIZE:
        raise InputError(f"`size` must lie between 1 and {MAX_SIZE}; got {size}.")


@torch.no_grad()
def _pairs(
    splats: Splats, n_tiles: int
) -> tuple[Int[Tensor, "q"], Int[Tensor, "t"], Int[Tensor, "t"], Int[Tensor, "t"]]:
    """Return the row of each Gaussian in each tile that its box touches, sorted by tile and by depth within.

    And of the tiles that have any, those with the most first: their number (view by view, row by row), their first pair
    and their count.
    """
    n_views, n_gaussians = splats.visible.shape
    order = splats.features[..., 3].argsort(dim=1, stable=True)
    order = (order + n_gaussians * torch.arange(n_views, device=order.device)[:, None]).flatten()
    order = order[splats.visible.flatten()[order]]
    center, reach = splats.center.flatten(0, 1)[order], splats.reach.flatten(0, 1)[order]
    low = ((center - reach) / TILE).floor().clamp(0, n_tiles).long()
    high = ((center + reach) / TILE).floor().add(1).clamp(0, n_tiles).long()
    wide, tall = (high - low).clamp_min(0).unbind(dim=-1)
    n_touched = wide * tall
    pair = torch.arange(len(order), device=order.device).repeat_interleave(n_touched)
    place = torch.arange(len(pair), device=order.device) - (n_touched.cumsum(0) - n_touched)[pair]
    x, y = low[pair, 0] + place % wide[pair], low[pair, 1] + place // wide[pair]
    tile, by_tile = (order[pair] // n_gaussians * n_tiles**2 + y * n_tiles + x).sort(stable=True)
    numbers, count = torch.unique_consecutive(tile, return_counts=True)
    most = count.argsort(descending=True, stable=True)
    return order[pair[by_tile]], numbers[most], (count.cumsum(0) - count)[most], count[most]


def _portions(count: Int[Tensor, "t"]) -> Iterator[slice]:
    """Cut tiles, those with the most Gaussians first, into portions that fit into memory, padded to their first."""
    counts, start = count.tolist(), 0
    while start < len(counts):
        yield slice(start, start := start + max(1, AT_ONCE // (counts[start] * TILE * TILE)))


def _basis(like: Tensor) -> Float[Tensor, "p 6"]:
    """Return (1, x, y, x^2, x y, y^2) at a tile's pixels, from its middle."""
    axis = torch.arange(TILE, dtype=like.dtype, device=like.device) + 0.5 - TILE / 2
    y, x = (a.flatten() for a in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)


def _exponent(rows: Float[Tensor, "t k c"], tile: Int[Tensor, "t"], n_tiles: int) -> Float[Tensor, "t k 6"]:
    """Return the coefficients of log alpha in `_basis`."""
    column, line = tile % n_tiles, tile % n_tiles**2 // n_tiles
    x = rows[..., 0] - (TILE * column + TILE / 2)[:, None]
    y = rows[..., 1] - (TILE * line + TILE / 2)[:, None]
    a, b, c, log_opacity = rows[..., 2:6].unbind(dim=-1)
    along_x, along_y = a * x + b * y, b * x + c * y
    constant = log_opacity - (x * along_x + y * along_y) / 2
    return torch.stack([constant, along_x, along_y, -a / 2, -b, -c / 2], dim=-1)


class _Composite(torch.autograd.Function):
    """Composite the Gaussians of tiles; the backward pass computes alphas anew instead of keeping them.

    With q_k = sum of the output's gradient times f_k, and w_k = alpha_k prod_{j<k} (1 - alpha_j):

        dL / d log alpha_k = w_k q_k - alpha_k / (1 - alpha_k) sum_{j>k} w_j q_j
    """

    @staticmethod
    def forward(ctx: Any, exponent: Tensor, features: Tensor, basis: Tensor) -> Tensor:
        """Return "t p d" from "t k 6", "t k d" and "p 6"."""
        ctx.save_for_backward(exponent, features, basis)
        alpha, _ = _alphas(exponent, basis)
        return _weights(1 - alpha) @ features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of exponent and features."""
        exponent, features, basis = ctx.saved_tensors
        alpha, free = _alphas(exponent, basis)
        passed = 1 - alpha
        weight = _weights(passed)
        of_features = weight.mT @ gradient
        pulled = (gradient @ features.mT).mul_(weight)
        behind = pulled.sum(dim=-1, keepdim=True) - pulled.cumsum(dim=-1)
        of_log_alpha = pulled.sub_(behind.mul_(alpha).div_(passed)).mul_(free)
        return of_log_alpha.mT @ basis, of_features, None


def _alphas(exponent: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return alphas "t p k", and where they are free to change: neither left out nor at most."""
    log_alpha = basis @ exponent.mT
    seen = log_alpha >= math.log(LEAST_ALPHA)
    alpha = log_alpha.clamp_(min=LOWEST).exp_().mul_(seen).clamp_(max=MOST_ALPHA)
    return alpha, seen & (alpha < MOST_ALPHA)


def _weights(passed: Tensor) -> Tensor:
    """Return alpha_k prod_{j<k} (1 - alpha_j), of 1 - alpha along the last axis."""
    left = passed.cumprod(dim=-1)
    return torch.cat([1 - left[..., :1], left[..., :-1] - left[..., 1:]], dim=-1)
