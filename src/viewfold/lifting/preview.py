"""Previews: the object as it stands in the middle of a fit or a distillation, for whoever watches.

Nothing random is drawn for them and nothing is changed, so that a lift that is watched ends as one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.representation import Representation
from viewfold.views import GROUND

SIDES, ELEVATION_DEG, SIZE = 4, 15.0, 128
"""Of the pictures: how many, from what height, and their pixels along each side."""

Look = Callable[[Representation, str, int, int], None]
"""look(representation, stage, step, total): called before each step of a fit or a distillation and at its end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """What an object looks like so far."""

    stage: str
    """ "generate", "fit" or "distil"."""

    step: int
    """Steps that are made."""

    total: int
    """Steps in all."""

    rgb: Float[Tensor, "v 3 h w"]
    """Opaque pictures from all around in [0, 1], on the CPU; while views are drawn, those."""


class Previews:
    """A `Look` that shows a preview every so many seconds, and at the end of a stage."""

    def __init__(self, show: Callable[[Preview], None], *, every_s: float) -> None:
        self.show, self.every_s = show, every_s
        self._shown_s = time.monotonic()

    def __call__(self, representation: Representation, stage: str, step: int, total: int) -> None:
        """Draw and show, if it is time."""
        if step < total and time.monotonic() - self._shown_s < self.every_s:
            return
        self.show(Preview(stage=stage, step=step, total=total, rgb=draw_preview(representation)))
        self._shown_s = time.monotonic()


@torch.no_grad()
def draw_preview(representation: Representation) -> Float[Tensor, "v 3 h w"]:
    """Return pictures of a representation from all sides, over the grey that views are drawn on."""
    cameras = Cameras.orbit(SIDES, elevation_deg=ELEVATION_DEG).to(representation.device)
    return representation.render(cameras, size=SIZE).over(GROUND).clamp(0, 1).cpu()
