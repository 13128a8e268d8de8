"""What the prior sees behind the object in a step of distillation: a ground, a solid colour, or a learned one.

A prior that is shown one ground alone lets the object hide in it, as fog of its colour; MVDream therefore paints a
background along, and shows a random solid colour instead in half of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.background import Background


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """Backgrounds that change from step to step."""

    solid_share: float = 0.5
    """Share of the steps, 0 to 1, with a random solid colour (MVDream-threestudio: `random_aug`, whose share is 0.5).

    Never different between the views of an object, to which it would look like four places."""

    shared: Literal["object", "batch"] | str = "object"
    """What one solid colour is behind: the views of an object, or of all objects of a batch (MVDream-threestudio:
    `share_aug_bg`)."""

    learned: bool = True
    """Whether a background is learned along for the other steps; without, they show the ground."""

    rate: float = 0.01
    """Learning rate of the learned background, as a share of `DistilSettings.learning_rate`; that of a hash grid's
    networks, as released."""

    def __post_init__(self) -> None:
        if not 0 <= self.solid_share <= 1:
            raise InputError(f"`solid_share` must lie between 0 and 1; got {self.solid_share}.")
        if self.shared not in ("object", "batch"):
            raise InputError(f'`shared` must be "object" or "batch"; got "{self.shared}".')
        if not 0 <= self.rate < float("inf"):
            raise InputError(f"`rate` must be a finite number of at least 0; got {self.rate}.")


def draw_solid(
    backdrop: Backdrop, *, n_objects: int, n_views: int, generator: torch.Generator | None = None
) -> Float[Tensor, "n 3 1 1"] | None:
    """Return random solid sRGB colours, one for each picture of "b v", or None in the steps that show none."""
    if float(torch.rand((), generator=generator)) >= backdrop.solid_share:
        return None
    n_colors = n_objects if backdrop.shared == "object" else 1
    color = torch.rand(n_colors, 3, 1, 1, generator=generator)
    return color.expand(n_objects, 3, 1, 1).repeat_interleave(n_views, dim=0)


def paint_background(background: Background, cameras: Cameras, *, size: int) -> Float[Tensor, "n 3 h w"]:
    """Return what is behind each pixel, where the cameras are; differentiable in the background."""
    return background(cameras.rays(size)[1]).permute(0, 3, 1, 2)
