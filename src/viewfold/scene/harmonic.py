"""A distant light of any kind as nine numbers: what a matt surface reflects of it, as a function of the normal alone.

It is what is estimated of the light in pictures (lifting/light.py), and the rasteriser draws in it as in `Light`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.light import Light

FAINTEST = 0.05
"""No light is weaker than this, so that albedo can be divided out of it."""


@dataclass(frozen=True, kw_only=True)
class HarmonicLight:
    """Real spherical harmonics up to order 2, which hold 98 % of what any distant light does to a matt surface.

    Source: Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", 2001.
    """

    coefficients: tuple[float, ...]
    """Nine, of `harmonics`."""

    def __post_init__(self) -> None:
        if len(self.coefficients) != 9:
            raise InputError(f"`coefficients` must be 9 numbers; got {len(self.coefficients)}.")

    def shade(self, normal: Float[Tensor, "p 3"]) -> Float[Tensor, "p 1"]:
        """Return the factor on the albedo for unit world normals: the sum of the harmonics, at least `FAINTEST`."""
        return (harmonics(normal) @ normal.new_tensor(self.coefficients)[:, None]).clamp_min(FAINTEST)

    def polish(
        self,
        albedo: Float[Tensor, "p 3"],
        normal: Float[Tensor, "p 3"],
        to_eye: Float[Tensor, "p 3"],
        roughness: Float[Tensor, "p 1"],
        metallic: Float[Tensor, "p 1"],
    ) -> Float[Tensor, "p 3"]:
        """Return the lit colour: matt whatever the finish, for so low an order holds nothing to be mirrored."""
        return albedo * self.shade(normal)


AnyLight = Light | HarmonicLight
"""What the rasteriser draws in."""


def harmonics(normal: Float[Tensor, "p 3"]) -> Float[Tensor, "p 9"]:
    """Return the nine harmonics of unit vectors (x, y, z), orthonormal over the sphere.

        0.282095;  0.488603 (y, z, x);  1.092548 (xy, yz, xz);  0.315392 (3 z^2 - 1);  0.546274 (x^2 - y^2)

    in the order 1, y, z, x, xy, yz, 3 z^2 - 1, xz, x^2 - y^2 (eq. 3 of the source).
    """
    x, y, z = normal.unbind(-1)
    one = torch.ones_like(x)
    return torch.stack(
        [
            0.282095 * one,
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        dim=-1,
    )
