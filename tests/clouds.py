"""Clouds of 3D Gaussians, drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor

from viewfold.scene.gaussian.cloud import Gaussians

NUMBERS = [field.name for field in fields(Gaussians)]


def cloud(count: int = 40, *, seed: int = 0, degree: int = 1, size: float = 0.06) -> Gaussians:
    """Some of all kinds: faint and opaque, needles and discs, coloured by side."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        mean=0.2 * drawn(count, 3),
        log_scale=math.log(size) + 0.7 * drawn(count, 3),
        rotation=drawn(count, 4),
        opacity_logit=1 + 2 * drawn(count),
        sh=0.5 * drawn(count, (degree + 1) ** 2, 3),
    )


def single(**numbers: list[float]) -> Gaussians:
    """One grey Gaussian at the origin, as wide as 0.1 and quite opaque, but for what is given."""
    usual = {"mean": [0.0, 0, 0], "log_scale": [math.log(0.1)] * 3, "rotation": [1.0, 0, 0, 0], "opacity_logit": 0.0}
    made = {name: torch.tensor([value]) for name, value in {**usual, **numbers}.items()}
    return Gaussians(sh=torch.zeros(1, 1, 3), **made)
