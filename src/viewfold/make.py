"""From a prompt to a 3D asset in one call: joins `pipeline` and `lift`, which do not know each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from viewfold.lifting.stages import Asset3D, LiftSettings
from viewfold.lifting.stages import lift as lift_views
from viewfold.origin.record import cleaned
from viewfold.origin.safety import PROMPT_GUARD, Safety
from viewfold.pipeline import MultiViewPipeline, generate
from viewfold.pipeline.generation import describe_origin
from viewfold.views import Views


def lift(
    model: MultiViewPipeline,
    prompt: str,
    *,
    views: Views | None = None,
    seed: int = 0,
    settings: LiftSettings | None = None,
    watermark: bool | None = None,
    safety: Safety | None = PROMPT_GUARD,
    progress: Callable[[str, int, int], None] | None = None,
) -> Asset3D:
    """Make a 3D asset of a prompt: generate views where none are given, then fit, distil and extract.

    Args:
        model: what `load` returned.
        prompt: what to make.
        views: pictures to start from, with their cameras; None generates four.
        seed: of everything random, the views included.
        settings: of the fit and the distillation; None is what the defaults say.
        watermark, safety: see `generate`; a marked model's turntable is marked, meshes and textures are not.
        progress: called with (stage, steps done, steps in all).

    Raises:
        InputError, PromptError: the prompt, the views or the settings cannot be used, or `safety` refuses.
        FitError: the fit diverged or found no surface.
    """
    if safety is not None:
        safety.check_prompt(prompt)
    report = progress or (lambda stage, done, total: None)

    settings = settings or LiftSettings()

    def sample(seed: int) -> Views:
        def drawn(done: int, total: int) -> None:
            report("generate", done, total)

        return generate(model, prompt, seed=seed, watermark=watermark, safety=safety, progress=drawn)

    asset = lift_views(model, prompt, views=views, sample=sample, seed=seed, settings=settings, progress=report)
    origin = cleaned(asset.views.run.get("provenance"))
    if origin and watermark is False:
        origin.pop("watermark", None)
    if settings.distil.steps:  # otherwise the views alone decide: renders and photographs stay what they are
        origin = describe_origin(model, prompt, seed=seed, watermark=watermark)
    return replace(asset, report=asset.report | ({"provenance": origin} if origin else {}))
