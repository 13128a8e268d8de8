"""What the tests of scores and of their inversions share: a prior's means, latents, and a path written out."""

from __future__ import annotations

import math

import torch
from gaussian_prior import GaussianPrior
from torch import Tensor

A = GaussianPrior.alphas_cumprod.tolist()
MEANS: dict[str, Tensor | float] = {"mug": 0.7, "bad": -0.4, "": 0.1}
SHAPE = (2, 4, 3, 2, 2)
B_V = 8
GUIDANCE = 3.0
MUG, BAD = 0.7, -0.4
GUIDED = BAD + GUIDANCE * (MUG - BAD)
"""What guidance makes of the two means, for a prior with one deviation."""


def latents(seed: int = 0) -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_()


def climb(prior: GaussianPrior, x: Tensor, levels: list[int], mean: float) -> tuple[Tensor, Tensor]:
    """Follow DDIM's equation from level to level, written out; return where it ends and the last noise."""
    noise = x
    for s, t in zip(levels, levels[1:], strict=False):
        noise = prior.noise(x, s, mean)
        x = math.sqrt(A[t] / A[s]) * (x - math.sqrt(1 - A[s]) * noise) + math.sqrt(1 - A[t]) * noise
    return x, noise
