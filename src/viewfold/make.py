"""From a prompt to a 3D asset in one call: joins `pipeline` and `lifting`, which do not know each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from viewfold.camera import Cameras
from viewfold.device import peak_memory_mib
from viewfold.errors import InputError
from viewfold.lifting.keeping import Keeper, hash_views, stoppable
from viewfold.lifting.presets import STANDARD
from viewfold.lifting.preview import Preview
from viewfold.lifting.retexture import RetextureSettings
from viewfold.lifting.retexture import retexture as retexture_mesh
from viewfold.lifting.stages import MAX_SEEDS, Asset3D, LiftSettings
from viewfold.lifting.stages import lift as lift_views
from viewfold.lifting.start import FromViews
from viewfold.lifting.survey import Survey
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline import MultiViewPipeline, generate
from viewfold.pipeline.generation import describe_run, made_by, orbit
from viewfold.pipeline.hook import OriginHook
from viewfold.pipeline.redraw import redraw
from viewfold.pipeline.tries import Scorer, best_of, check_tries
from viewfold.scene.mesh import Mesh
from viewfold.views import Views


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the views of a lift are drawn, where not as the model draws by itself; see `generate`."""

    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None


def lift(
    model: MultiViewPipeline,
    prompt: str,
    *,
    views: Views | None = None,
    seed: int = 0,
    tries: int = 1,
    scorer: Scorer | None = None,
    settings: LiftSettings | None = None,
    drawing: Drawing | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Callable[[str, int, int], None] | None = None,
    previews: Callable[[Preview], None] | None = None,
    preview_every_s: float = 10.0,
    note: Callable[[str], None] | None = None,
    keeper: Keeper | None = None,
) -> Asset3D:
    """Make a 3D asset of a prompt: generate views where none are given, fit them, and extract, refine, paint a mesh.

    Args:
        model: what `load` returned.
        prompt: what to make.
        views: pictures to start from, with their cameras; None generates those of `settings.survey`, or none if
            `settings.start` is a blob.
        seed: of everything random, the views included.
        tries: sets of first views that are generated, from seeds of their own, of which the best is lifted.
        scorer: says which is best; needed for more than one try.
        settings: None is `presets.STANDARD`.
        drawing: of the views; it must be left out where `views` are given.
        origin: see `generate`; a marked model's turntable is marked, meshes and textures are not.
        progress: called with (stage, steps done, steps in all).
        previews, preview_every_s: called with the views while they are drawn, and with pictures of the object as it
            stands (lifting/preview.py).
        note: told that the distillation went back to a good state, and why.
        keeper: what `lifting.keeping.keeping(folder)` yields; a lift that was stopped or killed goes on from its folder
            and ends in the same result, if model, prompt, seed, settings and `scorer` are the same.

    Raises:
        InputError, PromptError: the prompt, the views or the settings cannot be used, or `origin` refuses.
        FitError: the fit diverged or found no surface.
        Stopped: by a signal that `keeper` heard.
    """
    if origin is not None:
        origin.check_prompt(prompt)
    settings, defaults = settings or STANDARD, model.defaults
    draws = views is None and isinstance(settings.start, FromViews)
    _check_tries(tries, scorer, drawn=draws)
    if drawing is not None and not draws:
        raise InputError("`drawing` must be left out where `views` are given or a blob is the start: none are drawn.")
    drawing = drawing or Drawing()
    report = stoppable(progress, keeper)
    survey = settings.survey.resolved(views=defaults.lift_views, around=defaults.lift_around)
    drawn = views is None or views.run.get("weights_sha256") == made_by(model, prompt, seed=seed).weights_sha256
    paint = settings.paint.resolved(known=defaults.known_light and drawn, bare=settings.bare)
    settings = replace(settings, survey=survey, paint=paint)
    draw = _Draw(model, prompt, survey, drawing, report, previews, keeper)

    def sample(seed: int) -> Views:
        drawn = draw.best(seed, tries, scorer) if scorer is not None and tries > 1 else draw.all(seed)
        return drawn if origin is None else origin.sign(drawn, made_by(model, prompt, seed=seed))

    if keeper is not None:
        decides = _decides(model, prompt, views=views, seed=seed, tries=tries, settings=settings)
        keeper.begin({**decides, "drawing": asdict(drawing)})
    asset = lift_views(
        model,
        prompt,
        views=views,
        sample=sample,
        seed=seed,
        settings=settings,
        progress=report,
        previews=previews,
        preview_every_s=preview_every_s,
        note=note,
        keeper=keeper,
    )
    if origin is None:
        return asset
    # Without distillation the views alone decide: renders and photographs stay what they are.
    label = origin.label(asset.views, made_by(model, prompt, seed=seed) if settings.distil.steps else None)
    return replace(asset, label=label, report=asset.report | label.report())


def retexture(
    model: MultiViewPipeline,
    prompt: str,
    mesh: Mesh,
    *,
    seed: int = 0,
    settings: RetextureSettings | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Callable[[str, int, int], None] | None = None,
) -> Asset3D:
    """Texture a mesh that somebody made, as a prompt says: `viewfold lift --mesh`.  Its shape and its place stay.

    Args:
        model: what `load` returned.
        prompt: what the mesh is to be.
        mesh: see `lifting.retexture`; `scene.meshfile.load_mesh` reads one.
        seed: of everything random.
        settings: see `RetextureSettings`; views and light are the model's own where they say nothing.
        origin: as for `lift`.
        progress: called with (stage, steps done, steps in all); stages are generate and texture.

    Raises:
        InputError, PromptError: the prompt or the mesh cannot be used, or `origin` refuses.
        FitError: the model returned something that is not finite.
    """
    if origin is not None:
        origin.check_prompt(prompt)
    settings, defaults = settings or RetextureSettings(), model.defaults
    report = progress or (lambda stage, done, total: None)
    survey = settings.survey.resolved(views=defaults.lift_views, around=False)
    settings = replace(settings, survey=survey, paint=settings.paint.resolved(known=defaults.known_light))
    first = orbit(defaults)[: survey.views]
    others = survey.others(first)

    def draw(views: Views, *, strength: float) -> Views:
        def drawn(done: int, total: int) -> None:
            report("generate", done, total)

        return redraw(model, prompt, views, strength=strength, seed=seed, progress=drawn)

    asset = retexture_mesh(
        mesh,
        prompt,
        redraw=draw,
        cameras=first if others is None else Cameras.cat([first, others]),
        size=model.image_size,
        settings=settings,
        progress=report,
    )
    asset = replace(asset, report=asset.report | {"seed": seed, "peak_memory_mib": peak_memory_mib(model.device)})
    if origin is None:
        return asset
    made = made_by(model, prompt, seed=seed)
    views = origin.sign(asset.views, made)
    label = origin.label(views, made)
    return replace(asset, views=views, label=label, report=asset.report | label.report())


def _decides(
    model: MultiViewPipeline, prompt: str, *, views: Views | None, seed: int, tries: int, settings: LiftSettings
) -> dict[str, Any]:
    """Return what a lift comes out of, for its keeper."""
    told = {name: value for name, value in describe_run(model).items() if name not in ("versions", "peak_memory_mib")}
    return {
        "prompt": prompt,
        "seed": seed,
        "tries": tries,
        "views": None if views is None else hash_views(views),
        "settings": asdict(settings),
        "model": {**told, "scheduler": type(model.scheduler).__name__, "defaults": asdict(model.defaults)},
    }


def _check_tries(tries: int, scorer: Scorer | None, *, drawn: bool) -> None:
    check_tries(tries)
    if tries > 1 and scorer is None:
        raise InputError(f"`scorer` must be given to choose among {tries} tries; got None.")
    if tries > 1 and not drawn:
        raise InputError(
            f"`tries` must be 1 where `views` are given or a blob is the start, for none are drawn; got {tries}."
        )


class _Draw:
    """Draws the views of a survey; unsigned, for all of them are signed together: the model drew the anchors too."""

    def __init__(
        self,
        model: MultiViewPipeline,
        prompt: str,
        survey: Survey,
        drawing: Drawing,
        report: Callable[[str, int, int], None],
        previews: Callable[[Preview], None] | None,
        keeper: Keeper | None,
    ) -> None:
        self.model, self.prompt, self.survey, self.report, self.keeper = model, prompt, survey, report, keeper
        self.told: dict[str, Any] = {**asdict(drawing), "origin": None}
        if previews is not None:
            self.told["previews"] = lambda step, total, rgb: previews(
                Preview(stage="generate", step=step, total=total, rgb=rgb)
            )
        first = orbit(model.defaults)
        self.anchors = first[: survey.views] if (survey.views or len(first)) < len(first) else first
        self.others = survey.others(self.anchors)

    def all(self, seed: int) -> Views:
        """Draw the anchors and the others around them, or all at once."""
        return self._surround(self._first(seed), seed)

    def best(self, seed: int, tries: int, scorer: Scorer) -> Views:
        """Draw from several seeds, and the others around the best; of equals the first."""
        first = best_of(self._first, [seed + MAX_SEEDS * number for number in range(tries)], scorer)
        told = first.run.pop("tries")
        chosen = self._surround(first, told["chosen"])
        return replace(chosen, run=chosen.run | {"tries": told})

    def _first(self, seed: int) -> Views:
        """Draw the anchors, or all views where the survey wants them at once."""
        if self.others is None or self.survey.around:
            return self._draw(seed, cameras=self.anchors)
        return self._draw(seed, cameras=Cameras.cat([self.anchors, self.others]))

    def _surround(self, first: Views, seed: int) -> Views:
        """Draw what is missing around the views that are there."""
        missing = self.others is not None and len(first) == len(self.anchors)
        return self._draw(seed, cameras=self.others, given=first) if missing else first

    def _draw(self, seed: int, *, given: Views | None = None, **settings: Any) -> Views:
        """Draw, or take what the keeper has of these views; the others of a seed depend on its first ones alone."""

        def drawn(done: int, total: int) -> None:
            self.report("generate", done, total)

        told = self.told | {"seed": seed, "given": given, "progress": drawn, **settings}
        make = partial(generate, self.model, self.prompt, **told)
        name = f"{'first' if given is None else 'others'}-{seed}"
        return make() if self.keeper is None else self.keeper.views(name, make)
