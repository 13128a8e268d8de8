"""Shared by the two optimisations of a lift, fit and distillation: the optimiser, the refresh interval, progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from viewfold.errors import InputError
from viewfold.scene.representation import Representation

Progress = Callable[[str, int, int], None]
"""progress(stage, step, total): called before each step and once at the end."""

REFRESH_EVERY = 10
"""Steps between two calls of `Representation.refresh`, which finds the parts of the scene that are empty."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam, or with weight decay AdamW."""

    betas: tuple[float, float] = (0.9, 0.99)
    """0.99 rather than the usual 0.999, because a fit has a hundred steps, not thousands (MVDream-threestudio too)."""

    eps: float = 1e-8
    """Added to the root of the second moment (MVDream-threestudio: 1e-15)."""

    weight_decay: float = 0.0
    """Share of each parameter that a step of rate 1 takes away; MVDream-threestudio leaves AdamW's own, 0.01."""

    last_rate: float = 0.2
    """Share of the learning rate that is left at the last step, in a straight line; 1 keeps it (MVDream)."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"`betas` must lie between 0 and 1, without 1; got {self.betas}.")
        for name, top in (("eps", 1.0), ("weight_decay", 1.0), ("last_rate", 1e3)):
            if not 0 <= getattr(self, name) <= top:
                raise InputError(f"`{name}` must lie between 0 and {top:g}; got {getattr(self, name)}.")


def make_optimizer(
    representation: Representation,
    learning_rate: float,
    settings: OptimizerSettings | None = None,
    *,
    beside: list[dict[str, Any]] | None = None,
) -> torch.optim.Adam:
    """Return Adam or AdamW over all that the representation lets be optimised, and the groups of what is beside it."""
    settings = settings or OptimizerSettings()
    kind = torch.optim.AdamW if settings.weight_decay > 0 else torch.optim.Adam
    return kind(
        [*representation.groups(learning_rate), *(beside or [])],
        lr=learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
