"""A field: density and colour at every point of space.

Anything that satisfies `Field` can be rendered (scene/volume.py), meshed (scene/surface.py) and baked into a texture
(scene/texture.py): they only call it.  `GridField` (scene/grid.py) is one.  Knows no cameras and no mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

BOX_RADIUS = 0.6
"""Fields are evaluated inside [-0.6, 0.6]^3: the object's bounding sphere of radius 0.5 and a margin."""


@runtime_checkable
class Field(Protocol):
    """Density and colour as functions of position: what the volume renderer, the surface and the texture call."""

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length, zero or more."""
        ...

    def __call__(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1]."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A field with an upper bound of its density in any cell, so that space is skipped only where it is empty."""

    def peak_density(self, n_cells: int, *, radius: float) -> Float[Tensor, "z y x"]:
        """Return no less than the largest density in each of `n_cells`^3 equal cells of [-radius, radius]^3."""
        ...


@runtime_checkable
class Oriented(Protocol):
    """A field that knows the normals of its level sets, by its analytic gradient say."""

    def with_normal(
        self, points: Float[Tensor, "p 3"]
    ) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """Return density and colour, as a call does, and unit normals, towards where density falls."""
        ...


def differences(
    values: Callable[[Float[Tensor, "q 3"]], Float[Tensor, "q"]], points: Float[Tensor, "p 3"], *, step: float
) -> Float[Tensor, "p 3"]:
    """Return the gradient of a function of position, by differences at the corners k_i of a tetrahedron.

        grad f = sum_i k_i f(p + step k_i) / (4 step) + O(step^2)

    Four evaluations instead of the six of central differences; differentiable in the function.
    """
    corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], device=points.device)
    found = values((points[None] + step * corners[:, None]).reshape(-1, 3)).reshape(4, -1)
    return found.T @ corners / (4 * step)


def lattice(resolution: int, *, radius: float = BOX_RADIUS, device: torch.device | str = "cpu") -> Float[Tensor, "p 3"]:
    """Return the nodes of a cubic grid over [-radius, radius]^3 as (x, y, z), x fastest and z slowest."""
    axis = torch.linspace(-radius, radius, resolution, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3)
