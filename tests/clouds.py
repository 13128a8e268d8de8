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
