"""What a cloud of 3D Gaussians holds at points in space: opacity and colour, added up at the nodes of a grid.

So that surfaces and textures are taken from it as from any other field.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.surface import OPACITY_STEP
from viewfold.scene.voxel import check_resolution, interpolate

WIDTH = 3.0
"""Standard deviations beyond which a Gaussian is not added."""

THINNEST = 1.5
"""Standard deviation, in distances between nodes, that every Gaussian is widened by: what is thinner than a node's
distance to the next would fall between them, and make a surface lumpy."""

AT_ONCE = 2**21
"""Pairs of a Gaussian and a node that are in memory at once."""


class CloudField:
    """A `Field`: density and colour of a cloud at the nodes of a grid, interpolated between them.

        density = sum_i opacity_i exp(-d_i^2 / 2) / 0.02              d_i: standard deviations from its middle
        colour  = mean of theirs, weighted so

    A point that one opaque Gaussian covers is opaque within 0.02 units, whatever the grid.
    """

    @torch.no_grad()
    def __init__(self, gaussians: Gaussians, *, resolution: int) -> None:
        """Add up a cloud, of which what is not finite is left out.

        Args:
            gaussians: on any device; the part of their colours that depends on the view is left out.
            resolution: nodes along each axis of the box, 2 to 512.

        Raises:
            InputError: a resolution out of range.
        """
        check_resolution(resolution)
        gaussians = gaussians[gaussians.is_finite()]
        spacing = 2 * BOX_RADIUS / (resolution - 1)
        # in nodes from the box's corner
        mean = (gaussians.mean.detach() + BOX_RADIUS) / spacing
        covariance = gaussians.covariance().detach() / spacing**2
        covariance = covariance + THINNEST**2 * torch.eye(3, device=mean.device)
        inverse = torch.linalg.inv(covariance.double()).to(mean)
        opacity, color = gaussians.opacity().detach(), gaussians.color()[0].detach()
        reach = WIDTH * covariance.diagonal(dim1=1, dim2=2).sqrt()
        low = (mean - reach).ceil().clamp(0, resolution).long()
        shape = ((mean + reach).floor().clamp(-1, resolution - 1).long() + 1 - low).clamp_min(0)
        total = mean.new_zeros(resolution**3, 4)
        for gaussian, node in _pairs(low, shape):
            away = node.to(mean) - mean[gaussian]
            squared = ((inverse[gaussian] * away[:, None]).sum(dim=2) * away).sum(dim=1)
            weight = opacity[gaussian] * (-squared / 2).exp()
            place = (node[:, 2] * resolution + node[:, 1]) * resolution + node[:, 0]
            total.index_add_(
                0, place, weight[:, None] * torch.cat([torch.ones_like(weight)[:, None], color[gaussian]], 1)
            )
        self._values = total.T.reshape(1, 4, resolution, resolution, resolution)

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length at world points; zero outside the box."""
        inside = points.abs().amax(dim=-1) <= BOX_RADIUS
        return interpolate(self._values[:, :1], points)[:, 0] / OPACITY_STEP * inside

    def __call__(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1] at world points."""
        weight, *color = interpolate(self._values, points).unbind(dim=1)
        inside = points.abs().amax(dim=-1) <= BOX_RADIUS
        rgb = torch.stack(color, dim=1) / weight.clamp_min(1e-8)[:, None]
        return weight / OPACITY_STEP * inside, rgb.clamp(0, 1)


def _pairs(low: Int[Tensor, "g 3"], shape: Int[Tensor, "g 3"]) -> Iterator[tuple[Int[Tensor, "q"], Int[Tensor, "q 3"]]]:
    """Yield Gaussians with each node (x, y, z) of their boxes, some at a time."""
    count = shape.prod(dim=1)
    ends = count.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, AT_ONCE):
        pair = torch.arange(start, min(start + AT_ONCE, total), device=low.device)
        gaussian = torch.searchsorted(ends, pair, right=True)
        rest = pair - (ends - count)[gaussian]
        wide, tall = shape[gaussian, 0], shape[gaussian, 1]
        node = torch.stack([rest % wide, rest // wide % tall, rest // (wide * tall)], dim=1)
        yield gaussian, low[gaussian] + node
