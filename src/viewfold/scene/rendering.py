"""What every renderer returns: colour, coverage, depth and normals of a set of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras

SAMPLED = ("pixel", "weight", "rgb", "position", "distance", "normal", "direction")
"""The tensors of `RaySamples`."""


@runtime_checkable
class Drawable(Protocol):
    """What can be drawn: all that a comparison with pictures asks of a representation (scene/representation.py)."""

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        """Draw it; differentiable in its parameters."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RaySamples:
    """The samples of all rays that a volume's picture was composited from, without those that no light reaches.

    Whoever sums `weight` times something over the samples of each `pixel` composites it as the renderer does colour.
    """

    pixel: Int[Tensor, "p"]
    """Which pixel of "v h w" a sample belongs to, counted view by view and row by row."""

    weight: Float[Tensor, "p"]
    """Share of its pixel; a ray's weights sum to the pixel's alpha."""

    rgb: Float[Tensor, "p 3"]
    """sRGB colour in [0, 1], not weighed."""

    position: Float[Tensor, "p 3"]
    """In the world."""

    distance: Float[Tensor, "p"]
    """From the camera, along the ray."""

    normal: Float[Tensor, "p 3"]
    """Unit, world frame, away from the dense side; not turned towards the camera."""

    direction: Float[Tensor, "p 3"]
    """Unit, away from the camera."""

    n_rays: int
    """How many rays have a sample."""

    @classmethod
    def cat(cls, parts: Sequence[Rendering]) -> RaySamples:
        """Join the samples of pictures that are joined: pixels are counted through all of them."""
        each = [part.samples for part in parts if part.samples is not None]
        joined = {name: torch.cat([getattr(one, name) for one in each]) for name in SAMPLED}
        first, pixel = 0, []
        for part, one in zip(parts, each, strict=True):
            pixel.append(one.pixel + first)
            first += part.alpha.numel()
        return cls(**joined | {"pixel": torch.cat(pixel)}, n_rays=sum(one.n_rays for one in each))

    def to(self, device: torch.device | str) -> RaySamples:
        """Return the same samples on another device."""
        moved = {name: getattr(self, name).to(device) for name in SAMPLED}
        return RaySamples(**moved, n_rays=self.n_rays)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """Pictures of a scene, one per camera; row 0 is the top."""

    rgb: Float[Tensor, "v 3 h w"]
    """sRGB colour in [0, 1], premultiplied by alpha (the picture over black)."""

    alpha: Float[Tensor, "v 1 h w"]
    """Share of the pixel that the scene covers."""

    depth: Float[Tensor, "v 1 h w"]
    """Distance along the camera's axis, averaged over the covered part of the pixel; 0 where nothing is."""

    normal: Float[Tensor, "v 3 h w"]
    """World-frame normal, facing the camera, premultiplied by alpha."""

    samples: RaySamples | None = None
    """What a volume with normals was composited from; for losses that are sums over samples."""

    def over(self, background: float | Sequence[float] | Tensor) -> Float[Tensor, "v 3 h w"]:
        """Return the pictures over a background: a grey, a colour of 3 numbers, or images "3 h w" or "v 3 h w"."""
        behind = torch.as_tensor(background, dtype=self.rgb.dtype, device=self.rgb.device)
        if behind.ndim == 1:
            behind = behind[:, None, None]
        return self.rgb + (1 - self.alpha) * behind

    @classmethod
    def cat(cls, parts: Sequence[Rendering]) -> Rendering:
        """Join pictures of one size, in order, and their samples if they have any."""
        names = ("rgb", "alpha", "depth", "normal")
        samples = RaySamples.cat(parts) if all(part.samples is not None for part in parts) else None
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, samples=samples)

    def to(self, device: torch.device | str) -> Rendering:
        """Return the same pictures on another device."""
        return Rendering(
            rgb=self.rgb.to(device),
            alpha=self.alpha.to(device),
            depth=self.depth.to(device),
            normal=self.normal.to(device),
            samples=None if self.samples is None else self.samples.to(device),
        )
