"""From a prompt to a 3D asset in one call: joins `pipeline` and `lifting`, which do not know each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from viewfold.lifting.stages import Asset3D, LiftSettings
from viewfold.lifting.stages import lift as lift_views
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline import MultiViewPipeline, generate
from viewfold.pipeline.generation import made_by
from viewfold.pipeline.hook import OriginHook
from viewfold.views import Views


def lift(
    model: MultiViewPipeline,
    prompt: str,
    *,
    views: Views | None = None,
    seed: int = 0,
    settings: LiftSettings | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Callable[[str, int, int], None] | None = None,
) -> Asset3D:
    """Make a 3D asset of a prompt: generate views where none are given, then fit, distil and extract.

    Args:
        model: what `load` returned.
        prompt: what to make.
        views: pictures to start from, with their cameras; None generates four, unless `settings` start from a blob.
        seed: of everything random, the views included.
        settings: of the fit and the distillation; None is what the defaults say.
        origin: see `generate`; a marked model's turntable is marked, meshes and textures are not.
        progress: called with (stage, steps done, steps in all).

    Raises:
        InputError, PromptError: the prompt, the views or the settings cannot be used, or `origin` refuses.
        FitError: the fit diverged or found no surface.
    """
    if origin is not None:
        origin.check_prompt(prompt)
    report = progress or (lambda stage, done, total: None)

    settings = settings or LiftSettings()

    def sample(seed: int) -> Views:
        def drawn(done: int, total: int) -> None:
            report("generate", done, total)

        return generate(model, prompt, seed=seed, origin=origin, progress=drawn)

    asset = lift_views(model, prompt, views=views, sample=sample, seed=seed, settings=settings, progress=report)
    if origin is None:
        return asset
    # Without distillation the views alone decide: renders and photographs stay what they are.
    label = origin.label(asset.views, made_by(model, prompt, seed=seed) if settings.distil.steps else None)
    return replace(asset, label=label, report=asset.report | label.report())
