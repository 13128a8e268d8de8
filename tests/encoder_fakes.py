"""Encoders that are functions of their pictures, which a test can reckon by hand; they record what they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from viewfold.evaluation.encoder import Encoded
from viewfold.evaluation.source import Shown


class GivenEncoder:
    """Features are a function of the pictures."""

    def __init__(self, features: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor] | None = None) -> None:
        self.name, self._features, self._logits = "given", features, logits
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, rgb: Tensor) -> Encoded:
        self.shapes.append(tuple(rgb.shape))
        return Encoded(self._features(rgb), None if self._logits is None else self._logits(rgb))


class ReadingEncoder(GivenEncoder):
    """And prompts have the directions that it was told."""

    def __init__(self, features: Callable[[Tensor], Tensor], directions: dict[str, list[float]]) -> None:
        super().__init__(features)
        self.directions = directions

    def encode_text(self, prompts: list[str]) -> Tensor:
        return torch.tensor([self.directions[prompt] for prompt in prompts])


def mean_color(rgb: Tensor) -> Tensor:
    """Return three features."""
    return rgb.mean(dim=(2, 3))


def shown(n: int, *, seed: int = 0, size: int = 4, name: str = "p") -> list[Shown]:
    """Return pictures of noise."""
    generator = torch.Generator().manual_seed(seed)
    return [Shown(name=f"{name}{i}", rgb=torch.rand(3, size, size, generator=generator)) for i in range(n)]


def named(count: int) -> Sequence[Shown]:
    """Return pictures that differ in their names alone."""
    return [Shown(name=f"{i}.png", rgb=torch.full((3, 2, 2), 0.5)) for i in range(count)]
