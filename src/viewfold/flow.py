"""From a prompt to a 3D asset in one call: joins `pipeline` and `lift`, which do not know each other."""

from __future__ import annotations

from collections.abc import Callable

from viewfold.image import Views
from viewfold.lift.optimize import Asset3D, LiftSettings
from viewfold.lift.optimize import lift as lift_views
from viewfold.pipeline import MultiViewPipeline, generate


def lift(
    model: MultiViewPipeline,
    prompt: str,
    *,
    views: Views | None = None,
    seed: int = 0,
    settings: LiftSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Asset3D:
    """Make a 3D asset of a prompt: generate views where none are given, then fit, distil and extract.

    Args:
        model: what `load` returned.
        prompt: what to make.
        views: pictures to start from, with their cameras; None generates four.
        seed: of everything random, the views included.
        settings: of the fit and the distillation; None is what the defaults say.
        progress: called with (stage, steps done, steps in all).

    Raises:
        InputError, PromptError: the prompt, the views or the settings cannot be used.
        FitError: the fit diverged or found no surface.
    """
    report = progress or (lambda stage, done, total: None)

    def sample(seed: int) -> Views:
        return generate(model, prompt, seed=seed, progress=lambda done, total: report("generate", done, total))

    return lift_views(model, prompt, views=views, sample=sample, seed=seed, settings=settings, progress=report)
