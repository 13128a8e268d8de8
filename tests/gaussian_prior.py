"""A prior whose every answer is known: latents are normal numbers, with a mean for each text.

GaussianPrior({"a mug": 1.0, "": 0.0}, std=0.5)      reads text; its noise prediction is exact
prior.learner(rank=4)                                a copy of it that learns another mean
prior.noise(x, t, mean)                              what it predicts for one mean, to work with by hand
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from lift_fakes import BETAS
from torch import Tensor, nn

from viewfold.camera import Cameras


class GaussianPrior:
    """Believes that x ~ N(mean of the text, std^2), every number by itself; std 0 is a prior that is sure.

    Then x_t ~ N(sqrt(a) mean, a std^2 + 1 - a); E[noise | x_t] = sqrt(1 - a) (x_t - sqrt(a) mean) / (that variance).
    Double precision.  `calls` keeps the texts, levels and cameras of each call.
    """

    image_size = 8
    device = torch.device("cpu")
    alphas_cumprod = (1 - BETAS).cumprod(0)

    def __init__(self, means: dict[str, Tensor | float], *, std: float = 0.5) -> None:
        self.means = {text: torch.as_tensor(mean, dtype=torch.float64) for text, mean in means.items()}
        self.std = std
        self.calls: list[tuple[list[str], list[int], Cameras | None]] = []
        self.learners: list[GaussianLearner] = []

    def condition(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def noise(self, x: Tensor, t: Tensor | int, mean: Tensor | float) -> Tensor:
        a = self.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * self.std**2 + 1 - a)

    def predict_noise(self, x: Tensor, t: Tensor, condition: list[str], cameras: Cameras | None) -> Tensor:
        assert len(condition) == len(x) == len(t)
        self.calls.append((condition, t.tolist(), cameras))
        means = torch.stack([self.means[text].expand(x.shape[1:]) for text in condition])
        return self.noise(x, t, means)

    def learner(self, *, rank: int, generator: torch.Generator | None = None) -> GaussianLearner:
        self.learners.append(GaussianLearner(self, rank=rank))
        return self.learners[-1]


class GaussianLearner:
    """The same, with its mean moved by `shift`, which is trained: of latents that are all x it ends at x - mean."""

    def __init__(self, prior: GaussianPrior, *, rank: int) -> None:
        self.prior, self.rank = prior, rank
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.calls: list[tuple[list[str], list[int], Cameras | None]] = []

    def parameters(self) -> list[nn.Parameter]:
        return [self.shift]

    def predict_noise(self, x: Tensor, t: Tensor, condition: list[str], cameras: Cameras | None) -> Tensor:
        assert len(condition) == len(x) == len(t)
        self.calls.append((condition, t.tolist(), cameras))
        means = torch.stack([self.prior.means[text].expand(x.shape[1:]) for text in condition])
        return self.prior.noise(x, t, means + self.shift)


A = GaussianPrior.alphas_cumprod.tolist()


def climb(prior: GaussianPrior, x: Tensor, levels: list[int], mean: float) -> tuple[Tensor, Tensor]:
    """Follow DDIM's equation from level to level, written out; return where it ends and the last noise."""
    noise = x
    for s, t in zip(levels, levels[1:], strict=False):
        noise = prior.noise(x, s, mean)
        x = math.sqrt(A[t] / A[s]) * (x - math.sqrt(1 - A[s]) * noise) + math.sqrt(1 - A[t]) * noise
    return x, noise
