"""What a running job says of itself, in its folder: how far it is, and what it looks like.

    progress.json    the phase, its step, the share of the whole, what is left, notes
    preview.webp     square pictures side by side: views as they denoise, then the object as it takes shape

Written a few times a second at most and renamed, so that who reads sees a whole one; not brought to the disk, for it is
worth nothing after the job.  Files, not rows: a job may run on another machine that shares the folder.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from viewfold.serve.progress import PREVIEW, PROGRESS

EVERY_S = 0.2
"""Between two reports of the same phase."""

SHARES = {
    "load": 1.0, "generate": 3.0, "fit": 6.0, "distil": 4.0, "mesh": 1.0, "polish": 1.0, "texture": 3.0, "check": 1.0,
    "save": 1.0, "poses": 3.0, "prior": 3.0, "train": 10.0,
}  # fmt: skip
"""How long phases take, in parts of each other: a guess, for the bar alone; what is left is measured."""


class Journal:
    """Writes the progress of one job."""

    def __init__(self, folder: Path, *, phases: tuple[str, ...], stopping: Callable[[], None] | None = None) -> None:
        """Begin.

        Args:
            folder: of the job.
            phases: that it goes through, in order.
            stopping: called at each report; raises if the job is to end.
        """
        self.folder, self.phases, self.stopping = folder, phases, stopping
        self.notes: list[str] = []
        self.previews = 0
        self._phase, self._began, self._wrote = "", 0.0, 0.0
        self._said: dict[str, Any] = {}

    def __call__(self, phase: str, step: int, steps: int, **figures: float) -> None:
        """Say how far a phase is."""
        if self.stopping is not None:
            self.stopping()
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._first = phase, now, step
        done = step - self._first
        left = (now - self._began) / done * (steps - step) if done > 0 else None
        self._said = {
            "phase": phase,
            "step": step,
            "steps": steps,
            "share": round(self._share(phase, step / max(steps, 1)), 4),
            "eta_s": None if left is None else round(left, 1),
            "figures": {name: float(f"{value:.4g}") for name, value in figures.items() if math.isfinite(value)},
        }
        if done == 0 or step >= steps or now - self._wrote >= EVERY_S:
            self._write()

    def note(self, line: str) -> None:
        """Say what a person should know."""
        if line not in self.notes:
            self.notes.append(line)
            self._write()

    def show(self, rgb: Float[Tensor, "v 3 h w"]) -> None:
        """Show pictures in [0, 1]."""
        from viewfold.picture import to_pil

        strip = rgb.clamp(0, 1).permute(1, 2, 0, 3).flatten(2)
        self.previews += 1
        self._replace(PREVIEW, lambda path: to_pil(strip).save(path, format="WEBP", quality=80))
        self._write()

    def _share(self, phase: str, within: float) -> float:
        sizes = [SHARES.get(name, 1.0) for name in self.phases]
        if phase not in self.phases:
            return self._said.get("share", 0.0)
        place = self.phases.index(phase)
        return (sum(sizes[:place]) + sizes[place] * min(within, 1.0)) / sum(sizes)

    def _write(self) -> None:
        self._wrote = time.monotonic()
        told = {**self._said, "preview": self.previews, "notes": self.notes}
        self._replace(PROGRESS, lambda path: path.write_text(json.dumps(told)))

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            write(temporary)
            os.replace(temporary, self.folder / name)
        except OSError:  # a full disk: the work itself will say so
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
