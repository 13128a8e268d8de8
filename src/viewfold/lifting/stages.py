"""FLOW 2 from end to end: views -> field -> distilled -> surface -> texture -> asset with a report.

Knows the order of the stages and what to measure, and nothing of how views are sampled: they come in, or a callable
makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch

from viewfold.device import peak_memory_mib
from viewfold.errors import FitError, InputError, PromptError
from viewfold.lifting.asset import Asset3D, measure_export
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Progress, Reconstruction, fit_views
from viewfold.lifting.prior import Prior
from viewfold.scene.surface import extract_surface
from viewfold.scene.texture import bake_texture
from viewfold.views import Views

__all__ = ["Asset3D", "DistilSettings", "FitSettings", "LiftSettings", "MeshSettings", "lift"]

MAX_SEEDS = 3
"""Sampled views that show no object are sampled again, with the next seed, up to this many times in all."""


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """How the mesh is taken from the field."""

    resolution: int = 96
    """Nodes of marching cubes along each axis."""

    faces: int = 4000
    """The mesh is thinned out to this number."""

    texture_size: int = 512
    """Texels along each side."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("faces", 4, 10_000_000), ("texture_size", 16, 8192)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class LiftSettings:
    """Everything that the lift can be told; saved with each result."""

    fit: FitSettings = field(default_factory=FitSettings)
    distil: DistilSettings = field(default_factory=DistilSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)


def lift(
    model: Prior,
    prompt: str,
    *,
    views: Views | None = None,
    sample: Callable[[int], Views] | None = None,
    seed: int = 0,
    settings: LiftSettings | None = None,
    progress: Progress | None = None,
) -> Asset3D:
    """Make a 3D object of a prompt, where the model is: this is the one place that says where things of a lift lie.

    Views come from anywhere, and are put on `model.device` with everything that is made of them.  What is returned is
    on the CPU.

    Args:
        model: the prior that the field is distilled against.
        prompt: what the views show.
        views: pictures with cameras; None samples them.
        sample: makes views from a seed, if none are given; asked again with the next seed if they show no object.
        seed: decides everything random.
        settings: see `LiftSettings`.
        progress: called with (stage, step, total); stages are generate, fit, distil, mesh, texture, check.

    Raises:
        PromptError: an empty prompt.
        InputError: neither views nor a way to sample them, or views with NaN or infinity.
        FitError: no object in the views, a diverged fit, an empty surface.
    """
    if not prompt.strip():
        raise PromptError("`prompt` must say what to make; it is empty.")
    if views is None and sample is None:
        raise InputError("`views` must be given, or `sample` to make them; got neither.")
    if not 0 <= seed < 2**63 - MAX_SEEDS:
        raise InputError(f"`seed` must lie between 0 and 2^63 - {MAX_SEEDS + 1}; got {seed}.")
    settings = settings or LiftSettings()
    report = progress or (lambda stage, step, total: None)
    clock = _Clock()
    generator = torch.Generator().manual_seed(seed)
    fitted, used_seed = _fit(views, sample, seed, settings, generator, report, clock, device=model.device)
    with clock.stage("distil"):
        rollbacks = distil(
            fitted, model, prompt, settings=settings.distil, fit=settings.fit, generator=generator, progress=report
        )
    report("mesh", 0, 1)
    with clock.stage("mesh"):
        surface = extract_surface(
            fitted.field,
            resolution=settings.mesh.resolution,
            max_faces=settings.mesh.faces,
            device=model.device,
        )
    report("mesh", 1, 1)
    report("texture", 0, 1)
    with clock.stage("texture"):
        field = fitted.field.to("cpu")  # the mesh and its texture are made there
        mesh = bake_texture(surface.mesh, field, size=settings.mesh.texture_size, max_faces=settings.mesh.faces)
    report("texture", 1, 1)
    report("check", 0, 1)
    with clock.stage("check"):
        kept = fitted.views.to("cpu")
        ground = fitted.foreground.background.mean(dim=0)
        measured = measure_export(mesh, field, ground=ground, like=kept.cameras)
    report("check", 1, 1)
    return Asset3D(
        mesh=mesh,
        field=field,
        views=kept,
        prompt=prompt,
        report={
            **measured,
            "watertight": surface.watertight,
            "components": surface.components_kept,
            "components_dropped": surface.components_found - surface.components_kept,
            "faces": len(mesh.faces),
            "threshold": round(surface.threshold, 3),
            "fit_loss": round(fitted.loss, 6),
            "rollbacks": rollbacks,
            "fov_deg": round(float(kept.cameras.fov_deg.mean()), 2),
            "seed": used_seed,
            "seconds": {name: round(spent, 2) for name, spent in clock.seconds.items()},
            "peak_memory_mib": peak_memory_mib(model.device),
            "settings": asdict(settings),
        },
    )


def _fit(
    views: Views | None,
    sample: Callable[[int], Views] | None,
    seed: int,
    settings: LiftSettings,
    generator: torch.Generator,
    report: Progress,
    clock: _Clock,
    *,
    device: torch.device,
) -> tuple[Reconstruction, int]:
    """Fit the views, or views sampled with the first seed that shows an object; return that seed too."""
    for attempt in range(seed, seed + MAX_SEEDS):
        given = views
        if given is None:
            assert sample is not None
            with clock.stage("generate"):
                given = sample(attempt)
        if not bool(given.rgb.isfinite().all()):
            raise InputError("`views` must hold finite pixels; they hold NaN or infinity. Make them again.")
        given = replace(given, rgb=given.rgb.detach().float()).to(device)
        try:
            with clock.stage("fit"):
                return fit_views(given, settings=settings.fit, generator=generator, progress=report), attempt
        except FitError:
            if views is not None or attempt == seed + MAX_SEEDS - 1:
                raise
    raise AssertionError("unreachable")


class _Clock:
    """Adds up the seconds of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
