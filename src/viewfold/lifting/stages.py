"""FLOW 2 from end to end: views -> foreground -> representation -> refined -> mesh -> texture -> asset with a report.

    survey    -         -> Views      lifting/survey.py        what is asked for, where no views are given
    observe   Views     -> Observed   lifting/observation.py   which pixels are the object
              (given views: lifting/inspection.py, which refuses what cannot be fitted)
    lens      Observed  -> Observed   lifting/lens.py          the field of view, where it is to be searched
    fit       Observed  -> Fitted     lifting/fit.py           a representation that looks like the views
    distil    Fitted    -> Refined    lifting/distillation.py  and elsewhere like what the prior believes
    extract   Refined   -> Extracted  lifting/extraction.py    its surface as triangles
    polish    Extracted -> Extracted  lifting/polish.py        moved until its pictures are the views
    paint     Extracted -> Painted    lifting/paint.py         the views' colours as a texture, without their light
    assemble  Painted   -> Asset3D    here                     with what was measured of the file

Knows the order of the stages and what to report, and nothing of how views are sampled: they come in, or a callable
makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from viewfold.device import peak_memory_mib
from viewfold.errors import FitError, InputError, PromptError
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.check import measure_export
from viewfold.lifting.descent import Progress
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.extraction import MeshSettings, extract
from viewfold.lifting.fit import FitSettings, Fitted, fit, resume_fit
from viewfold.lifting.inspection import check_pixels, inspect
from viewfold.lifting.keeping import Keeper, Note, hash_views, stoppable
from viewfold.lifting.lens import find_lens
from viewfold.lifting.observation import ObserveSettings, observe
from viewfold.lifting.paint import Painted, PaintSettings, paint
from viewfold.lifting.polish import PolishSettings, polish
from viewfold.lifting.preview import Look, Preview, Previews
from viewfold.lifting.prior import Prior
from viewfold.lifting.ration import Ration
from viewfold.lifting.score import check_score
from viewfold.lifting.start import FromBlob, FromViews, Start, begin_blob
from viewfold.lifting.survey import Survey
from viewfold.scene.grid import GridSettings
from viewfold.scene.representation import RepresentationSettings
from viewfold.scene.standing import Standing
from viewfold.scene.surface import SurfaceResult
from viewfold.store import finite
from viewfold.views import Views

__all__ = [
    "Asset3D",
    "DistilSettings",
    "FitSettings",
    "GridSettings",
    "LiftSettings",
    "MeshSettings",
    "PaintSettings",
    "PolishSettings",
    "Survey",
    "lift",
]

MAX_SEEDS = 3
"""Sampled views that show no object are sampled again, with the next seed, up to this many times in all."""


@dataclass(frozen=True, kw_only=True)
class LiftSettings:
    """All settings of a lift, a group for each stage; saved with each result."""

    start: Start = field(default_factory=FromViews)
    """From views, or from a blob; the latter skips `observe` and `fit`."""

    survey: Survey = field(default_factory=Survey)
    """Which views are asked for; where views are given, nobody asks."""

    observe: ObserveSettings = field(default_factory=ObserveSettings)
    representation: RepresentationSettings = field(default_factory=GridSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    distil: DistilSettings = field(default_factory=lambda: DistilSettings(steps=0))
    mesh: MeshSettings = field(default_factory=MeshSettings)
    polish: PolishSettings = field(default_factory=PolishSettings)
    paint: PaintSettings = field(default_factory=PaintSettings)
    standing: Standing = field(default_factory=Standing)

    @property
    def bare(self) -> bool:
        """Whether colours hold no light: all of them were distilled, and lit anew in each step."""
        return isinstance(self.start, FromBlob) and self.distil.shading is not None


def lift(
    model: Prior,
    prompt: str,
    *,
    views: Views | None = None,
    sample: Callable[[int], Views] | None = None,
    seed: int = 0,
    settings: LiftSettings | None = None,
    progress: Progress | None = None,
    previews: Callable[[Preview], None] | None = None,
    preview_every_s: float = 10.0,
    note: Note | None = None,
    keeper: Keeper | None = None,
) -> Asset3D:
    """Make a 3D object of a prompt, on the model's device.

    Views on any device are moved to `model.device`, and everything made of them stays there: no other function of the
    flow chooses a device.  What is returned is on the CPU.

    Args:
        model: the prior that what is fitted is distilled against.
        prompt: what the views show.
        views: pictures with cameras; None samples them, or needs none if `settings.start` is a blob.
        sample: makes views from a seed, if none are given; asked again with the next seed if they show no object.
        seed: decides everything random.
        settings: see `LiftSettings`.
        progress: called with (stage, step, total); stages are those above.
        previews: called with the object as it stands, at the end of fit and distillation, and in the midst of them.
        preview_every_s: seconds between two previews.
        note: told what whoever watches should read: that the distillation went back to a good state, and why.
        keeper: keeps the work, and is asked for what an earlier run left; it was told what decides the result
            (`Keeper.begin`).  The result is the same either way.

    Raises:
        PromptError: an empty prompt.
        InputError: neither views nor a way to sample them, views that no object can be fitted to
            (lifting/inspection.py), views for a start from a blob, which has no use for them, or a score that the model
            cannot give.
        FitError: no object in sampled views, a diverged fit, an empty surface.
        Stopped: a signal that the keeper heard; what it keeps goes on from there.
    """
    if not prompt.strip():
        raise PromptError("`prompt` must say what to make; it is empty.")
    settings = settings or LiftSettings()
    settings = replace(settings, paint=settings.paint.resolved(known=False, bare=settings.bare))
    from_blob = isinstance(settings.start, FromBlob)
    if views is None and sample is None and not from_blob:
        raise InputError("`views` must be given, or `sample` to make them; got neither.")
    if views is not None and from_blob:
        raise InputError("`views` must be None for a start from a blob; got views. Use FromViews() as `start`.")
    if not 0 <= seed < 2**63 - MAX_SEEDS:
        raise InputError(f"`seed` must lie between 0 and 2^63 - {MAX_SEEDS + 1}; got {seed}.")
    if settings.distil.steps > 0:
        check_score(settings.distil.score, model)
    watch, generator, ration = _Watch(progress, keeper), torch.Generator().manual_seed(seed), Ration()
    look = None if previews is None else Previews(previews, every_s=preview_every_s)
    match settings.start:
        case FromViews():
            fitted, used_seed = _fit_first(
                views, sample, seed, settings, generator, watch, ration, device=model.device, look=look, keeper=keeper
            )
        case FromBlob() as blob:
            used_seed = seed
            fitted = begin_blob(blob, representation=settings.representation, device=model.device)
    with watch.timed("distil"):
        refined = distil(
            fitted,
            model,
            prompt,
            settings=settings.distil,
            generator=generator,
            progress=watch.progress,
            look=look,
            note=note,
            keeper=keeper,
            ration=ration,
        )
    with watch.reported("mesh"):
        extracted = extract(refined, settings=settings.mesh)
    if isinstance(settings.start, FromViews):
        with watch.timed("polish"):
            extracted = polish(
                extracted, settings=settings.polish, generator=generator, progress=watch.progress, ration=ration
            )
    with watch.reported("texture"):
        painted = paint(
            extracted,
            size=settings.mesh.texture_size,
            settings=settings.paint,
            prompt=prompt,
            distilled=settings.distil.steps > 0,
            from_views=not from_blob,
        )
    with watch.reported("check"):
        asset = assemble(painted, prompt=prompt, standing=settings.standing)
    report = {
        **asset.report,
        **_describe(extracted.surface, faces=len(asset.mesh.faces)),
        "light": painted.found.how,
        "start": settings.start.kind,
        "fit_loss": None if fitted.loss is None else round(fitted.loss, 6),
        "rollbacks": refined.rollbacks,
        "ration": ration.share,
        "fov_deg": round(fitted.observed.lens[0], 2),
        "seed": used_seed,
        "seconds": {name: round(spent, 2) for name, spent in watch.seconds.items()},
        "peak_memory_mib": peak_memory_mib(model.device),
        "settings": asdict(settings),
    }
    return replace(asset, report=finite(report))


def assemble(painted: Painted, *, prompt: str, standing: Standing) -> Asset3D:
    """Return the asset; its report says how closely the exported file matches the representation."""
    observed = painted.observed
    measured = measure_export(
        painted.mesh,
        painted.representation,
        ground=observed.ground,
        lens=observed.lens,
        light=painted.found.light,
        standing=standing,
    )
    return Asset3D(
        mesh=painted.mesh,
        representation=painted.representation,
        views=observed.views.to("cpu"),
        prompt=prompt,
        report=measured,
        standing=standing,
    )


def _describe(surface: SurfaceResult, *, faces: int) -> dict[str, Any]:
    """Return what a report says of a surface and of the mesh that came of it."""
    return {
        "watertight": surface.watertight,
        "components": surface.components_kept,
        "components_dropped": surface.components_found - surface.components_kept,
        "faces": faces,
        "threshold": round(surface.threshold, 3),
    }


def _fit_first(
    views: Views | None,
    sample: Callable[[int], Views] | None,
    seed: int,
    settings: LiftSettings,
    generator: torch.Generator,
    watch: _Watch,
    ration: Ration,
    *,
    device: torch.device,
    look: Look | None,
    keeper: Keeper | None,
) -> tuple[Fitted, int]:
    """Fit the views, or views sampled with the first seed that shows an object; return that seed too."""
    kept = None if keeper is None else keeper.load("fit")
    for attempt in range(seed if kept is None else kept["seed"], seed + MAX_SEEDS):
        given = views
        if given is None:
            assert sample is not None
            with watch.timed("generate"):
                given = sample(attempt)
        check_pixels(given)
        given = replace(given, rgb=given.rgb.detach().float()).to(device)
        try:
            with watch.timed("fit"):
                if views is None:
                    observed = observe(given)
                else:
                    known = settings.observe.lens == "cameras"
                    observed = inspect(given, lens_known=known, one_side=settings.distil.steps > 0)
                observed = find_lens(observed, settings=settings.observe, progress=watch.progress)
                if keeper is not None and kept is not None:
                    keeper.check_views(given, kept["views"])
                    generator.set_state(kept["generator"])
                    ration.resume(kept)
                    return resume_fit(
                        observed, kept["fit"], representation=settings.representation, settings=settings.fit
                    ), attempt
                fitted = fit(
                    observed,
                    representation=settings.representation,
                    settings=settings.fit,
                    generator=generator,
                    progress=watch.progress,
                    look=look,
                    ration=ration,
                )
                if keeper is not None:
                    drawn = {"seed": attempt, "views": hash_views(given), "generator": generator.get_state()}
                    keeper.save("fit", {"fit": fitted.state(), "ration": ration.share, **drawn})
                return fitted, attempt
        except FitError:
            if views is not None or attempt == seed + MAX_SEEDS - 1:
                raise
    raise AssertionError("unreachable")


class _Watch:
    """Adds up the seconds of named stages, and reports the progress of those that have no steps to report."""

    def __init__(self, progress: Progress | None, keeper: Keeper | None) -> None:
        self.progress = stoppable(progress, keeper)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def reported(self, name: str) -> Iterator[None]:
        """Time a block, and report when it begins and ends."""
        self.progress(name, 0, 1)
        with self.timed(name):
            yield
        self.progress(name, 1, 1)
