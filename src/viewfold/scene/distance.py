"""Signed distances at the nodes of a grid over the scene's box: of a solid, and how true and how smooth they are.

Negative inside, in world units, along z, y, x.  The losses are means over the neighbourhood of the surface, so that
their weights depend neither on the grid's resolution nor on how much of the box is empty.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from viewfold.scene.field import BOX_RADIUS


def distance_to_border(inside: Bool[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return the signed distance of each node to the border of a solid (exact Euclidean distance transform).

    The border is taken to lie half a voxel before the nearest node on the other side.  Where all nodes are on one side
    it is as far away as the box is wide.
    """
    from scipy.ndimage import distance_transform_edt

    voxel = 2 * BOX_RADIUS / (inside.shape[0] - 1)
    mask = inside.cpu().numpy()
    if mask.all() or not mask.any():
        far = -2 * BOX_RADIUS if mask.all() else 2 * BOX_RADIUS
        return torch.full(inside.shape, far, device=inside.device)
    outer, inner = (torch.from_numpy(distance_transform_edt(side)).float() for side in (~mask, mask))
    return (torch.where(torch.from_numpy(mask), 0.5 - inner, outer - 0.5) * voxel).to(inside.device)


def eikonal(distance: Float[Tensor, "z y x"], *, voxel: float, within: float) -> Float[Tensor, ""]:
    """Return the mean of (|grad f| - 1)^2 over the cells where |f| < `within`: zero for a true distance.

    In the middle of a cell each component of the gradient is the mean of the differences along the cell's four edges
    of that direction, which is exact for values interpolated trilinearly.  Source: Gropp et al., IGR, 2020;
    NeuS equation 16.
    """
    components = [_averaged(distance.diff(dim=axis), but=axis).square() for axis in range(3)]
    slope = (components[0] + components[1] + components[2] + 1e-12).sqrt() / voxel
    near = _averaged(distance.detach(), but=None).abs() < within
    return _mean((slope - 1).square(), near)


def curvature(distance: Float[Tensor, "z y x"], *, voxel: float, within: float) -> Float[Tensor, ""]:
    """Return the mean of |laplacian f| voxel over the inner nodes where |f| < `within`.

    The Laplacian is the sum of the six neighbours less six times the value, over voxel^2.  Of a distance it is twice
    the mean curvature: 2 / r for a sphere of radius r.  Times a voxel, noise of a share of a voxel counts alike at
    every resolution.  Source: Li et al., Neuralangelo, 2023, section 3.3.
    """
    middle = distance[1:-1, 1:-1, 1:-1]
    bend = -6 * middle
    for axis in range(3):
        inner = distance
        for other in {0, 1, 2} - {axis}:
            inner = inner.narrow(other, 1, inner.shape[other] - 2)
        bend = bend + inner.narrow(axis, 0, middle.shape[axis]) + inner.narrow(axis, 2, middle.shape[axis])
    return _mean(bend.abs() / voxel, middle.detach().abs() < within)


def _averaged(values: Float[Tensor, "z y x"], *, but: int | None) -> Float[Tensor, "i j k"]:
    """Return the means of neighbours along each axis, or each but one."""
    for axis in {0, 1, 2} - {but}:
        n = values.shape[axis] - 1
        values = (values.narrow(axis, 0, n) + values.narrow(axis, 1, n)) / 2
    return values


def _mean(values: Float[Tensor, "i j k"], where: Bool[Tensor, "i j k"]) -> Float[Tensor, ""]:
    """Return the mean of some values; NaN elsewhere is not passed over."""
    share = where.to(values)
    return (values * share).sum() / share.sum().clamp(min=1)
