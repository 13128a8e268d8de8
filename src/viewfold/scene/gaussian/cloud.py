"""A cloud of 3D Gaussians: the numbers that its files hold, and what they stand for.

Each is a density exp(-(x - mean)^T Sigma^-1 (x - mean) / 2) with Sigma = R S S^T R^T (Kerbl et al., "3D Gaussian
Splatting", 2023, equations 4 and 6), an opacity, and a colour that may depend on where it is seen from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from viewfold.errors import InputError

C0, C1 = math.sqrt(1 / (4 * math.pi)), math.sqrt(3 / (4 * math.pi))
"""Of the real spherical harmonics of degree 0 and 1."""

COEFFICIENTS = (1, 4)
"""Of a colour, at degree 0 and 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """The numbers of each Gaussian, before they are activated; all on one device and of one floating type."""

    mean: Float[Tensor, "g 3"]
    """In the world."""

    log_scale: Float[Tensor, "g 3"]
    """Natural logarithms of the standard deviations along its own axes, in world units."""

    rotation: Float[Tensor, "g 4"]
    """Quaternion (w, x, y, z) of any length but zero; takes its own axes to the world's."""

    opacity_logit: Float[Tensor, "g"]
    """Its opacity in the middle is 1 / (1 + e^-logit)."""

    sh: Float[Tensor, "g k 3"]
    """Of the sRGB colour in real spherical harmonics; k is 1 (the same from everywhere) or 4 (degree 1)."""

    def __post_init__(self) -> None:
        if self.sh.shape[1] not in COEFFICIENTS:
            raise InputError(
                f"`sh` must hold 1 coefficient (degree 0) or 4 (degree 1) of each channel; got {self.sh.shape[1]}. "
                "Leave the higher degrees out."
            )

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, chosen: Tensor) -> Gaussians:
        """Return some of them, by their numbers or a mask."""
        return Gaussians(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def to(self, device: torch.device | str) -> Gaussians:
        """Return the same on another device, without gradients."""
        return Gaussians(**{field.name: getattr(self, field.name).detach().to(device) for field in fields(self)})

    def double(self) -> Gaussians:
        """Return the same in float64."""
        return Gaussians(**{field.name: getattr(self, field.name).double() for field in fields(self)})

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Gaussians:
        """Return them scaled and moved as vertices are, x' = s x + t; turned they are not, for colours would turn too.

        Raises:
            InputError: another matrix.
        """
        scale = float(matrix[0, 0])
        plain = torch.eye(3, dtype=matrix.dtype, device=matrix.device) * scale
        if scale <= 0 or not torch.allclose(matrix[:3, :3], plain, atol=1e-6 * abs(scale)):
            raise InputError("`matrix` must scale all axes alike and move; it turns, mirrors or stretches.")
        mean = (scale * self.mean.double() + matrix[:3, 3].to(self.mean.device)).to(self.mean.dtype)
        return replace(self, mean=mean, log_scale=self.log_scale + math.log(scale))

    def axes(self) -> Float[Tensor, "g 3 3"]:
        """Return the rotation matrix R of each; its columns are the Gaussian's own axes in the world."""
        w, x, y, z = functional.normalize(self.rotation, dim=-1).unbind(dim=-1)
        rows = (
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
        )
        return torch.stack(rows, dim=-2)

    def covariance(self) -> Float[Tensor, "g 3 3"]:
        """Return R S S^T R^T."""
        root = self.axes() * self.log_scale.exp()[:, None]
        return root @ root.mT

    def opacity(self) -> Float[Tensor, "g"]:
        """Return the opacity in the middle, 0 to 1."""
        return self.opacity_logit.sigmoid()

    def color(self, directions: Float[Tensor, "v g 3"] | None = None) -> Float[Tensor, "v g 3"]:
        """Return the sRGB colour in [0, 1], seen along unit directions from the camera; None: the part of degree 0.

            0.5 + C0 sh_0 + C1 (-y sh_1 + z sh_2 - x sh_3), clamped

        The order and signs of the released files; without directions there is one view.
        """
        total = 0.5 + C0 * self.sh[None, :, 0]
        if directions is not None:
            total = total.expand(len(directions), -1, -1)
            if self.sh.shape[1] > 1:
                x, y, z = (directions[..., i, None] for i in range(3))
                total = total + C1 * (-y * self.sh[:, 1] + z * self.sh[:, 2] - x * self.sh[:, 3])
        return total.clamp(0, 1)

    def is_finite(self) -> Bool[Tensor, "g"]:
        """Say of each whether all of its numbers are finite."""
        flat = torch.cat([getattr(self, field.name).detach().reshape(len(self), -1) for field in fields(self)], dim=1)
        return flat.isfinite().all(dim=1)
