"""Speed, waiting time, time left and memory of a run, for progress bars and reports.  Knows no network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from viewfold.device import peak_memory_mib
from viewfold.training.settings import LoopSettings

HALF_LIFE_STEPS = 20
"""Speeds are averaged over about this many of the last steps."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run after a step."""

    step: int
    """Steps done, those of earlier runs included."""
    steps: int
    """Steps at which the run ends, by its number of steps or, as far as can be told, by its minutes."""
    scalars: dict[str, float]
    """The terms of the loss (mean over processes), "norm" of the gradient and "lr"."""
    samples_per_s: float
    """Of all processes."""
    waiting: float
    """Share of the time in which the step waited for its data."""
    left_s: float
    """Until the end."""
    memory_mib: int | None
    """The most that was held so far (`peak_memory_mib`)."""


Progress = Callable[[Status], None]


class Meter:
    """Times the parts of a step."""

    def __init__(self, settings: LoopSettings, *, samples: int, device: torch.device) -> None:
        """Start the clock of a run whose steps take `samples` each."""
        self._settings, self._samples, self._device = settings, samples, device
        self.started = time.monotonic()
        self._step_s = self._wait_s = self._weight = 0.0
        self._waited = 0.0
        self.steps, self.busy_s, self.waited_s = 0, 0.0, 0.0
        self._last = self.started

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run, or its resumption, began."""
        return time.monotonic() - self.started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a block as waiting for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def pause(self) -> None:
        """Leave out what was done since the last step (a checkpoint, a check)."""
        self._last = time.monotonic()

    def step(self) -> None:
        """Count what was done since the last one as a step."""
        now = time.monotonic()
        spent, self._last = now - self._last, now
        self.steps += 1
        self.busy_s += spent
        self.waited_s += self._waited
        if self.steps > 1 or self._settings.steps == 1:  # the first one compiles, allocates and counts operations
            keep = 0.5 ** (1 / HALF_LIFE_STEPS)
            self._step_s, self._wait_s = keep * self._step_s + spent, keep * self._wait_s + self._waited
            self._weight = keep * self._weight + 1
        self._waited = 0.0

    @property
    def seconds_a_step(self) -> float:
        """Of late; 0 before there was a step to go by."""
        return self._step_s / self._weight if self._weight else 0.0

    def status(self, done: int, scalars: dict[str, float]) -> Status:
        """Return what to show after `done` steps."""
        pace = self.seconds_a_step
        left_s, steps = pace * (self._settings.steps - done), self._settings.steps
        if self._settings.minutes is not None:
            until = max(60 * self._settings.minutes - self.elapsed_s, 0.0)
            if pace == 0.0 or until < left_s:
                left_s, steps = until, done + round(until / pace) if pace else steps
        return Status(
            step=done,
            steps=steps,
            scalars=scalars,
            samples_per_s=self._samples / pace if pace else 0.0,
            waiting=self._wait_s / self._step_s if self._step_s else 0.0,
            left_s=left_s,
            memory_mib=peak_memory_mib(self._device),
        )
