"""Memory that runs out is shared out: fewer views are rendered at once, and the step is tried again.

The pictures of a step are rendered in parts of a few views whose graphs are not kept: each part is rendered a second
time on the way back, with the same random numbers (torch.utils.checkpoint).  So the graph of one part is in memory at
a time, and the result is the same up to the order of sums.  Until memory runs out all is rendered in one go.

Knows what can be drawn, and neither losses nor optimisers.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from viewfold.camera import Cameras
from viewfold.errors import ViewfoldError, is_out_of_memory
from viewfold.scene.rendering import Drawable, Rendering

Result = TypeVar("Result")


class Ration:
    """The share of a step's views that is rendered at once, of all stages of a lift: halved when memory runs out."""

    def __init__(self) -> None:
        self.share = 1.0
        self._most = 0  # views that were rendered at once in this attempt

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin with the share that an earlier run had found, as its state tells; one of before says nothing of it."""
        self.share = min(self.share, state.get("ration", 1.0))

    def of(self, drawable: Drawable) -> Drawable:
        """Return the same thing, which renders as many views at once as there is memory for."""
        return _Rationed(drawable, self)

    def attempt(self, step: Callable[[], Result], *, generator: torch.Generator | None = None) -> Result:
        """Return what a step returns; where memory runs out, halve the share and do it again.

        Args:
            step: renders what `of` returned, and does nothing that cannot be done twice.
            generator: of everything random in it, which begins anew; None is torch's own.

        Raises:
            ViewfoldError: it ran out though one view was rendered at once.
        """
        generator = generator or torch.default_generator
        while True:
            state, self._most = generator.get_state(), 0
            try:
                return step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            # Out of the `except`, whose error keeps what the step had made.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            generator.set_state(state)

    def at_once(self, n_views: int) -> int:
        """Return how many of so many views are rendered at once."""
        number = max(1, int(self.share * n_views))
        self._most = max(self._most, number)
        return number

    def _halve(self, error: BaseException) -> None:
        if self._most <= 1:
            raise ViewfoldError(
                "memory must suffice for the picture of one view; it ran out. Take a smaller representation or smaller "
                "pictures (--quality draft), a model that needs less memory (--offload), or --device cpu."
            ) from error
        if self.share == 1.0:
            warnings.warn(
                "memory ran out: fewer views are rendered at once from here on. That is slower, with the same result.",
                stacklevel=1,
            )
        self.share /= 2


@dataclass(frozen=True)
class _Rationed:
    """Draws a few views at a time, and keeps no graph of them but their pictures."""

    drawable: Drawable
    ration: Ration

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        """Draw it as the drawable does; what is random is drawn in the same order."""
        number = self.ration.at_once(len(cameras))

        def draw(part: Cameras, source: torch.Generator | None) -> Rendering:
            return self.drawable.render(part, size=size, generator=source, quality=quality, normals=normals)

        if number >= len(cameras):
            return draw(cameras, generator)
        parts = [cameras[first : first + number] for first in range(0, len(cameras), number)]
        if not torch.is_grad_enabled():
            return Rendering.cat([draw(part, generator) for part in parts])
        return Rendering.cat([_draw_twice(draw, part, generator) for part in parts])


def _draw_twice(
    draw: Callable[[Cameras, torch.Generator | None], Rendering], part: Cameras, generator: torch.Generator | None
) -> Rendering:
    """Draw now, and again on the way back, then with a copy of the generator as it was."""
    kept = None if generator is None else generator.clone_state()
    fresh = [generator]

    def drawn() -> Rendering:
        return draw(part, fresh.pop() if fresh else kept and kept.clone_state())

    return checkpoint(drawn, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]
