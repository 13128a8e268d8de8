"""How long, how fast and on how many processes to train; the rate at every step.  Pure numbers, no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from viewfold.errors import InputError

OptimizerName = Literal["muon", "adamw"]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "bf16", "fp32"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """One run of the loop."""

    steps: int = 10_000
    """Optimiser steps in all, those of earlier runs included."""
    minutes: float | None = None
    """Stop (and checkpoint) after this long, wherever it is; None runs to `steps`."""
    optimizer: OptimizerName | str = "muon"
    """"muon" learns more from a step (docs/training.md); "adamw" is the paper's."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 200
    """Steps over which the rate rises linearly."""
    schedule: Schedule | str = "constant"
    """What follows the warm-up: the peak rate, or a fall to zero at the last step, straight or as half a cosine."""
    cooldown: int = 0
    """With a constant rate: last steps, over which it falls linearly to zero; averaged weights make it optional."""
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.997
    """Decay of the averaged weights; reached gradually.  0.997 looks back 330 steps: half of a cool-down or less."""
    accumulate: int = 1
    """Batches a process and step, whose gradients are averaged: a larger batch in the same memory."""
    parallel: Parallel | str = "ddp"
    """With several processes: "ddp" keeps the whole network on each, "fsdp" a part (AdamW alone)."""
    precision: Precision | str = "auto"
    """"bf16" computes under autocast with float32 weights; "fp32" does not; "auto" is "bf16" where a device has it."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay on the disk."""
    check_steps: int = 500
    """Steps between two checks with the averaged weights (held-out error, sample sheets), if there are any."""
    read_ahead: int = 3
    """Batches a process that are read before their steps ask, in threads; 0 reads each when its step asks."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("optimizer", OptimizerName),
            ("schedule", Schedule),
            ("parallel", Parallel),
            ("precision", Precision),
        ):
            if getattr(self, name) not in get_args(kind):
                known = " or ".join(f'"{value}"' for value in get_args(kind))
                raise InputError(f'`{name}` must be {known}; got "{getattr(self, name)}".')
        for name, least in (("steps", 0), ("warmup", 0), ("cooldown", 0), ("accumulate", 1), ("keep", 1),
                            ("check_steps", 1), ("read_ahead", 0), ("seed", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"`minutes` must be above 0; got {self.minutes}.")
        if not self.checkpoint_minutes >= 0:
            raise InputError(f"`checkpoint_minutes` must be at least 0; got {self.checkpoint_minutes}.")
        for name, most in (("lr", 10.0), ("clip", math.inf)):
            if not 0 < getattr(self, name) < most:
                raise InputError(f"`{name}` must lie between 0 and {most}; got {getattr(self, name)}.")
        for name in ("ema", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 0 and below 1; got {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"`weight_decay` must be a finite number of at least 0; got {self.weight_decay}.")
        if self.cooldown and self.schedule != "constant":
            raise InputError(
                f"`cooldown` must be 0 with the {self.schedule} schedule, which falls by itself; got {self.cooldown}."
            )
        if self.cooldown > self.steps:
            raise InputError(f"`cooldown` must be at most the {self.steps} `steps`; got {self.cooldown}.")


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Return the rate at a step s, 0 to steps - 1: linear warm-up, then what `settings.schedule` says.

    rate = lr min((s + 1) / warmup, f),   left = steps - s,
    f = min(1, left / cooldown) (constant), left / steps (linear), (1 - cos(pi left / steps)) / 2 (cosine)
    """
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    left = settings.steps - step  # `steps` at the first step, 1 at the last
    match settings.schedule:
        case "linear":
            fall = left / max(settings.steps, 1)
        case "cosine":
            fall = 0.5 * (1 - math.cos(math.pi * left / max(settings.steps, 1)))
        case _:
            fall = min(1.0, left / settings.cooldown) if settings.cooldown else 1.0
    return settings.lr * min(rise, fall)
