"""How a number changes over the steps of a fit: which noise levels distillation may draw, and loss weights.

Pure arithmetic; knows no tensors but the one it draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A straight line from `start` at step 0 to `end` at step `steps`, constant afterwards."""

    start: float
    """Value at step 0."""

    end: float
    """Value at step `steps` and later."""

    steps: int
    """How many steps the change takes; 0 is `end` from the beginning."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"`steps` must not be negative; got {self.steps}.")

    def at(self, step: int) -> float:
        """Return the value at `step`."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * max(step / self.steps, 0.0)


@dataclass(frozen=True, kw_only=True)
class NoiseRange:
    """The interval of noise levels, as fractions of the schedule, that a step draws its t from."""

    low: Anneal
    """Smallest fraction, 0 to 1."""

    high: Anneal
    """Largest fraction, 0 to 1."""

    def at(self, step: int, *, n_levels: int = 1000) -> tuple[int, int]:
        """Return the smallest and the largest t at `step`, both included: int(n_levels x fraction), as released."""
        low, high = (int(n_levels * anneal.at(step)) for anneal in (self.low, self.high))
        if not 0 <= low <= high < n_levels:
            raise InputError(f"`NoiseRange` must stay within 0 and {n_levels - 1}; got [{low}, {high}] at step {step}.")
        return low, high

    def draw(
        self, step: int, *, n_objects: int, n_levels: int = 1000, generator: torch.Generator | None = None
    ) -> Int[Tensor, "b"]:
        """Draw one t, uniform in the interval, and use it for all objects of the batch, as released."""
        low, high = self.at(step, n_levels=n_levels)
        t = torch.randint(low, high + 1, (1,), generator=generator)
        return t.expand(n_objects).clone()
