"""Polish the extracted mesh: its vertices are moved until its pictures are the views, outlines above all.

A field is fitted through a grid and its surface is smoothed and thinned out, which rounds what the views show sharply;
the mesh itself is differentiated here (scene/soft.py), with large steps that stay smooth (scene/large_steps.py).
Colours of the vertices are optimised beside them, so that colour pulls at the shape too, and are thrown away: colours
are painted afterwards.

A mesh is opaque, so it is compared with the views over their own grounds, and guessed silhouettes play no part: what
the fit carved away because it has the ground's colour comes back here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from viewfold.diffusion.schedule import Anneal
from viewfold.errors import FitError, InputError
from viewfold.lifting.descent import Progress
from viewfold.lifting.extraction import Extracted
from viewfold.lifting.photometric import Photometric
from viewfold.lifting.ration import Ration
from viewfold.scene.large_steps import UniformAdam
from viewfold.scene.meshform import MeshForm, MeshFormSettings

END_RATE = 0.2
"""Learning rates fall to this share of the first, in a straight line."""

FARTHEST = 0.1
"""No vertex moves further than this in all, in world units: a fifth of the object's radius."""


@dataclass(frozen=True, kw_only=True)
class PolishSettings:
    """How the mesh is refined against the views."""

    steps: int = 80
    """Steps of the optimiser; 0 leaves the mesh as it was extracted."""

    learning_rate: float = 0.02
    """Largest change of a spread vertex in the first step, in world units; vertices themselves move less."""

    color_rate: float = 0.05
    """Adam's, for the vertices' colours before they are squashed into [0, 1]."""

    smoothness: float = 3.0
    """How far a step spreads over the mesh; see `scene.large_steps`."""

    evenness: float = 10.0
    """Weight of `regularize.unevenness` of the vertices, which keeps faces from turning over."""

    views_at_once: int = 8
    """Views that a step is compared with, drawn at random where there are more."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 0, 100_000),
            ("smoothness", 0, 1e6),
            ("evenness", 0, 1e6),
            ("views_at_once", 1, 256),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high:g}; got {getattr(self, name)}.")
        for name in ("learning_rate", "color_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"`{name}` must be a positive, finite number; got {getattr(self, name)}.")


def polish(
    extracted: Extracted,
    *,
    settings: PolishSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    ration: Ration | None = None,
) -> Extracted:
    """Return the same with a mesh whose pictures are closer to the views; its faces stay the same, and closed.

    A mesh that is not closed is returned as it is.

    Args:
        extracted: where the views are; the mesh may be elsewhere.
        settings: see `PolishSettings`.
        generator: of everything random.
        progress: see `Progress`; the stage is "polish".
        ration: of what is rendered at once; None begins a new one.

    Raises:
        FitError: the loss turned to NaN or infinity.
    """
    settings = settings or PolishSettings()
    surface = extracted.surface
    if settings.steps == 0 or not surface.watertight:
        return extracted
    progress = progress or (lambda stage, step, total: None)
    pictures = Photometric.of(extracted.observed)
    form = _form(extracted, settings=settings, device=pictures.rgb.device)
    shape, paint = UniformAdam(form.spread), torch.optim.Adam([form.tint], lr=settings.color_rate)
    decay = Anneal(start=1.0, end=END_RATE, steps=settings.steps)
    ration = ration or Ration()

    def descend() -> float:
        """Put the gradients of a step in place."""
        form.spread.grad = form.tint.grad = None
        loss = (
            pictures.some(settings.views_at_once, generator=generator).opaque_loss(ration.of(form)) + form.prior_loss()
        )
        loss.backward()
        return float(loss.detach())

    for step in range(settings.steps):
        progress("polish", step, settings.steps)
        loss = ration.attempt(descend, generator=generator)
        if not loss < float("inf"):
            raise FitError(f"the polish must stay finite; its loss was {loss} at step {step}.")
        paint.param_groups[0]["lr"] = settings.color_rate * decay.at(step)
        shape.step(settings.learning_rate * decay.at(step))
        paint.step()
    progress("polish", settings.steps, settings.steps)
    mesh = replace(surface.mesh, vertices=form.finished().to(surface.mesh.vertices.device))
    return replace(extracted, surface=replace(surface, mesh=mesh))


def _form(extracted: Extracted, *, settings: PolishSettings, device: torch.device) -> MeshForm:
    """Begin with the extracted mesh in the colours of what it was taken from."""
    mesh = extracted.surface.mesh.to(device)
    normals = torch.zeros_like(mesh.vertices).index_add(0, mesh.faces.flatten(), mesh.normals().reshape(-1, 3))
    colors = extracted.representation.surface_color(mesh.vertices, functional.normalize(normals, dim=-1))
    how = MeshFormSettings(smoothness=settings.smoothness, evenness_weight=settings.evenness)
    return MeshForm(mesh, colors.clone(), settings=how, farthest=FARTHEST)
