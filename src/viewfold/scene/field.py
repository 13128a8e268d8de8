"""A field: density and colour at every point of space, held in a dense voxel grid.

Flow 2 fits this to views and distils it against the prior.  `GridField` is a leaf of optimisation and nothing else: it
knows no cameras (scene/volume.py renders it) and no mesh (scene/surface.py extracts one).  Anything that satisfies
`Field` can take its place: the renderer and the extraction only call it.

On a CPU trilinear interpolation of a dense grid is the cheapest encoder that PyTorch has; empty space costs nothing
because the renderer never asks for it.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from viewfold.errors import InputError

BOX_RADIUS = 0.6
"""The grid spans [-0.6, 0.6]^3: the object's bounding sphere of radius 0.5 and a margin."""

DENSITY_SCALE = 25.0
"""Density per unit length where the softplus is 1; one step of 1.1/64 through it absorbs a third of the light."""

EMPTY_LOGIT = -8.0
"""The lowest logit of a fresh field: density 0.008, so a ray through the whole box loses less than 1 % of its light."""

BLOB_SLOPE = 10.0
"""Logit at the centre of the first blob; MVDream's `blob_magic3d`: 10 (1 - r / r0)."""

MAX_RESOLUTION = 512
"""Beyond this a grid holds more than 2 GiB."""


@runtime_checkable
class Field(Protocol):
    """What the renderer, the surface and the texture ask of a representation."""

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length, zero or more."""
        ...

    def __call__(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1]."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A field that can say how dense it is at most, so that empty space is skipped and nothing else."""

    def peak_density(self, n_cells: int, *, radius: float) -> Float[Tensor, "z y x"]:
        """Return no less than the largest density in each of `n_cells`^3 equal cells of [-radius, radius]^3."""
        ...


class GridField(nn.Module):
    """A dense voxel grid of one density logit and three colour logits, interpolated trilinearly.

    Density is DENSITY_SCALE x softplus(logit): interpolating before the activation lets a coarse grid hold a sharp
    surface (Sun et al., DVGO, 2022).  Colour is sigmoid(logit), sRGB.  Density outside the box is zero.
    """

    def __init__(self, *, resolution: int = 48, blob_radius: float = 0.3) -> None:
        """Make a soft grey ball.

        Args:
            resolution: nodes along each axis, 2 to 512.
            blob_radius: where the first ball's logit crosses zero, in world units; 0 starts from empty space.

        Raises:
            InputError: a number out of range.
        """
        super().__init__()
        _check_resolution(resolution)
        if not 0 <= blob_radius <= BOX_RADIUS:
            raise InputError(f"`blob_radius` must lie between 0 and {BOX_RADIUS}; got {blob_radius}.")
        grid = torch.zeros(1, 4, resolution, resolution, resolution)
        grid[0, 0] = EMPTY_LOGIT
        if blob_radius > 0:
            radius = lattice(resolution).norm(dim=-1).reshape(resolution, resolution, resolution)
            grid[0, 0] = (BLOB_SLOPE * (1 - radius / blob_radius)).clamp(min=EMPTY_LOGIT)
        self.grid = nn.Parameter(grid)

    @property
    def resolution(self) -> int:
        """The number of nodes along each axis."""
        return self.grid.shape[-1]

    @property
    def voxel(self) -> float:
        """The distance between two nodes, in world units."""
        return 2 * BOX_RADIUS / (self.resolution - 1)

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length at world points; a quarter of the cost of the full call."""
        return self._activate(_interpolate(self.grid[:, :1], points)[:, 0], points)

    def forward(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1] at world points."""
        logits = _interpolate(self.grid, points)
        return self._activate(logits[:, 0], points), logits[:, 1:].sigmoid()

    @torch.no_grad()
    def peak_density(self, n_cells: int, *, radius: float) -> Float[Tensor, "z y x"]:
        """Return no less than the largest density in each cell, and little more; see `Bounded`.

        An axis at a time, the logit's maximum along a piece of a line is at its ends or at a node between them.  To
        take it before the other axes are interpolated can only raise it.
        """
        peak = self.grid[0, 0]
        for axis in range(3):
            peak = self._peak_along(peak, axis, n_cells, radius)
        return DENSITY_SCALE * functional.softplus(peak)

    def _peak_along(self, values: Float[Tensor, "z y x"], axis: int, n_cells: int, radius: float) -> Tensor:
        """Return the maximum in each cell along one axis of values that are interpolated between nodes there."""
        edge = torch.linspace(-radius, radius, n_cells + 1, dtype=torch.float64)
        edge = ((edge / BOX_RADIUS + 1) / 2 * (self.resolution - 1)).clamp(0, self.resolution - 1)  # in nodes
        low, high = edge[:-1, None], edge[1:, None]
        between = low.floor() + torch.arange(1, math.ceil(float((high - low).max())) + 1)
        place = torch.cat([low, torch.minimum(between, high), high], dim=1)  # cells x places
        lower = place.floor().clamp(max=self.resolution - 2)
        share = (place - lower).flatten().reshape(-1, *[1] * (2 - axis)).to(values)
        node = lower.long().flatten().to(values.device)
        found = torch.lerp(values.index_select(axis, node), values.index_select(axis, node + 1), share)
        return found.unflatten(axis, (n_cells, -1)).amax(dim=axis + 1)

    def upsample(self, resolution: int) -> None:
        """Interpolate onto a grid of another resolution, in place: coarse to fine.

        `grid` becomes a new parameter, so make the optimiser anew.
        """
        _check_resolution(resolution)
        size = (resolution, resolution, resolution)
        grid = functional.interpolate(self.grid.detach(), size=size, mode="trilinear", align_corners=True)
        self.grid = nn.Parameter(grid)

    @staticmethod
    def _activate(logit: Float[Tensor, "p"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        inside = points.detach().abs().amax(dim=-1) <= BOX_RADIUS
        return DENSITY_SCALE * functional.softplus(logit) * inside


def lattice(resolution: int, *, radius: float = BOX_RADIUS, device: torch.device | str = "cpu") -> Float[Tensor, "p 3"]:
    """Return the nodes of a cubic grid over [-radius, radius]^3 as (x, y, z), x fastest and z slowest."""
    axis = torch.linspace(-radius, radius, resolution, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3)


def _interpolate(grid: Float[Tensor, "1 d z y x"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p d"]:
    """Interpolate trilinearly; x runs along the last axis of the grid, beyond the box the border's value holds."""
    where = (points / BOX_RADIUS)[None, :, None, None]
    values = functional.grid_sample(grid, where, mode="bilinear", padding_mode="border", align_corners=True)
    return values[0, :, :, 0, 0].T


def _check_resolution(resolution: int) -> None:
    if not 2 <= resolution <= MAX_RESOLUTION:
        raise InputError(f"`resolution` must lie between 2 and {MAX_RESOLUTION}; got {resolution}.")
