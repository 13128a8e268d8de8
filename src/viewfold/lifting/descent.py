"""Shared by the two optimisations of a lift, fit and distillation: Adam, the refresh interval, progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from viewfold.scene.representation import Representation

Progress = Callable[[str, int, int], None]
"""progress(stage, step, total): called before each step and once at the end."""

REFRESH_EVERY = 10
"""Steps between two calls of `Representation.refresh`, which finds the parts of the scene that are empty."""

BETAS = (0.9, 0.99)
"""Adam's; 0.99 rather than the usual 0.999, because a fit has a hundred steps, not thousands."""


def make_optimizer(representation: Representation, learning_rate: float) -> torch.optim.Adam:
    """Return Adam over all that the representation lets be optimised."""
    return torch.optim.Adam(representation.groups(learning_rate), lr=learning_rate, betas=BETAS)
