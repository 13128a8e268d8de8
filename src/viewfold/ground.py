"""The plain ground that an object stands on: its colour, read off a picture's border, and how far pixels are from it.

The lift asks which pixels are the object (lifting/foreground.py), evaluation asks how well outlines agree
(evaluation/consistency.py): both begin here, and each has thresholds of its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def border_pixels(pictures: Float[Tensor, "v c h w"], *, width: int) -> Float[Tensor, "v c p"]:
    """Return the pixels of a border so many pixels wide."""
    keep = torch.ones(pictures.shape[-2:], dtype=torch.bool)
    keep[width:-width, width:-width] = False
    return pictures[..., keep.to(pictures.device)]


def ground_color(rgb: Float[Tensor, "v 3 h w"], *, width: int) -> Float[Tensor, "v 3"]:
    """Return the median colour of each picture's border, which an object may touch with up to half of it."""
    return border_pixels(rgb, width=width).median(dim=-1).values


def distance_to(color: Float[Tensor, "v 3"], rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 1 h w"]:
    """Return how far each pixel is from a colour per picture (Euclidean, sRGB)."""
    return (rgb - color[:, :, None, None]).norm(dim=1, keepdim=True)
