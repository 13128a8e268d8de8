"""The first guess when nothing is known: a soft grey ball of density in the middle of the scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.field import BOX_RADIUS

BLOB_SLOPE = 10.0
"""The logit at the ball's centre (MVDream-threestudio: `density_blob_scale`)."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A `Solid`: a grey ball whose border is soft.

    A representation whose density is an activated logit may begin with this very logit, as the original does, instead
    of asking for points; any other asks how sure the ball is of each of them.
    """

    radius: float = 0.25
    """Where the logit crosses zero, in world units (MVDream-threestudio: `density_blob_std` 0.5 in a scene of radius 1,
    which is ours of radius 0.5)."""

    def __post_init__(self) -> None:
        if not 0 < self.radius <= BOX_RADIUS:
            raise InputError(f"`radius` must lie above 0, and be {BOX_RADIUS} at most; got {self.radius}.")

    def logit(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return 10 (1 - |p| / radius), "blob_magic3d" of threestudio, after Magic3D (Lin et al. 2023)."""
        return BLOB_SLOPE * (1 - points.norm(dim=-1) / self.radius)

    def __call__(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return how surely each point lies inside, 1 / (1 + e^-logit), and grey."""
        return self.logit(points).sigmoid(), torch.full_like(points, 0.5)
