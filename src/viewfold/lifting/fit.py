"""Fit a representation to posed pictures of one object: the quick path from views to 3D, and where distillation starts.

The soft visual hull of the silhouettes says where to begin, so that a hundred steps suffice.  It is carved where
pictures show a hollow (lifting/carving.py), for what begins filled stays filled: nothing asks a fit to look behind a
surface.  The renders are compared with the pictures (lifting/photometric.py), and the representation's own
regularisation is added, which rounds what no view has seen:

    loss = photometric + prior_loss

Coarse first, then fine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import FitError, InputError
from viewfold.lifting.carving import CarveSettings, at, carve
from viewfold.lifting.descent import REFRESH_EVERY, Progress, make_optimizer
from viewfold.lifting.hull import facing_color, visual_hull
from viewfold.lifting.observation import Observed
from viewfold.lifting.photometric import Photometric
from viewfold.lifting.preview import Look
from viewfold.lifting.ration import Ration
from viewfold.scene.field import lattice
from viewfold.scene.grid import GridSettings
from viewfold.scene.representation import Representation, RepresentationSettings, Solid

COARSE = 0.5
"""Share of the full detail, and of the pictures' size, that a fit begins with."""

COARSE_SHARE = 0.6
"""Share of the steps that are made at `COARSE`, where one costs a quarter."""

SMALLEST = 8
"""Pixels along each side that no shrinking goes below."""

LOOK = 32
"""Points along each axis at which the visual hull is tested for being empty, before the fit."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a representation is fitted to views."""

    steps: int = 80
    """Steps of the optimiser over both details."""

    learning_rate: float = 0.1
    """Adam's, for parameters of order one."""

    alpha_weight: float = 1.0
    """Weight of the squared difference between coverage and silhouette, beside 1 for colour."""

    views_at_once: int = 8
    """Views that a step is compared with, drawn at random where there are more, so that many cost what a few do: of
    16 true views, 6 at once lose 0.2 dB at unseen sides and take half the time of all."""

    carve: CarveSettings | None = CarveSettings()
    """How the first guess is opened where pictures show a hollow (lifting/carving.py); None begins with the hull."""

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 100_000), ("views_at_once", 1, 256)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A representation that looks like the views."""

    representation: Representation

    observed: Observed

    pictures: Photometric | None
    """What it was compared with, at full size; None if there were no views to compare with (lifting/start.py)."""

    loss: float | None
    """The last step's photometric loss; None without views."""

    def state(self) -> dict[str, Any]:
        """Return what was fitted, for a file; see `resume_fit`."""
        return {"representation": self.representation.state(), "loss": self.loss}


def fit(
    observed: Observed,
    *,
    representation: RepresentationSettings | None = None,
    settings: FitSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    look: Look | None = None,
    ration: Ration | None = None,
) -> Fitted:
    """Fit a new representation to views of one object on a plain ground, where the views are.

    Args:
        observed: what `observe` returned.
        representation: which one, and how it is made; None is `GridSettings()`.
        settings: see `FitSettings`.
        generator: of everything random.
        progress: see `Progress`; the stage is "fit".
        look: see `Look`.
        ration: of what is rendered at once; None begins a new one.

    Raises:
        FitError: views that share no volume, or a fit that diverged.
    """
    settings = settings or FitSettings()
    progress = progress or (lambda stage, step, total: None)
    ration = ration or Ration()
    pictures = Photometric.of(observed, alpha_weight=settings.alpha_weight)
    photometric = total = pictures.rgb.new_zeros(())
    made = (representation or GridSettings()).begin(
        first_guess(observed, carving=settings.carve), detail=COARSE, device=observed.views.rgb.device
    )
    n_coarse = round(COARSE_SHARE * settings.steps)
    for first, last, detail in ((0, n_coarse, COARSE), (n_coarse, settings.steps, 1.0)):
        made.set_detail(detail)
        target = pictures.shrunk(max(SMALLEST, int(detail * pictures.size)))
        optimizer = make_optimizer(made, settings.learning_rate)
        for step in range(first, last):
            progress("fit", step, settings.steps)
            if look is not None:
                look(made, "fit", step, settings.steps)
            if step % REFRESH_EVERY == 0:
                made.refresh()
                _check(total, step)
            descend = partial(_descend, made, target, optimizer, settings.views_at_once, ration, generator)
            photometric, total = ration.attempt(descend, generator=generator)
            optimizer.step()
    _check(total, settings.steps)
    made.refresh()
    progress("fit", settings.steps, settings.steps)
    if look is not None:
        look(made, "fit", settings.steps, settings.steps)
    return Fitted(representation=made, observed=observed, pictures=pictures, loss=float(photometric.detach()))


def resume_fit(
    observed: Observed, state: dict[str, Any], *, representation: RepresentationSettings, settings: FitSettings
) -> Fitted:
    """Return what `fit` made of the same views with the same settings, from the state that it was kept as."""
    made = representation.begin(first_guess(observed), device=observed.views.rgb.device)
    made.resume(state["representation"])
    pictures = Photometric.of(observed, alpha_weight=settings.alpha_weight)
    return Fitted(representation=made, observed=observed, pictures=pictures, loss=state["loss"])


def _descend(
    made: Representation,
    target: Photometric,
    optimizer: torch.optim.Optimizer,
    views_at_once: int,
    ration: Ration,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Put the gradients of a step in place; return its photometric and its whole loss."""
    photometric = target.some(views_at_once, generator=generator).loss(ration.of(made), generator=generator)
    total = photometric + made.prior_loss()
    optimizer.zero_grad()
    total.backward()
    return photometric.detach(), total.detach()


def first_guess(observed: Observed, *, carving: CarveSettings | None = None) -> Solid:
    """Return the soft visual hull of the silhouettes, carved if asked, coloured by the views that face each point.

    Raises:
        FitError: the silhouettes share no volume.
    """
    rgb, cameras, foreground = observed.opaque(), observed.views.cameras, observed.foreground
    known = torch.where(foreground.certainty < 1, torch.ones_like(foreground.alpha), foreground.alpha)
    if float(visual_hull(known, cameras, lattice(LOOK, device=known.device)).max()) < 0.5:
        raise FitError(
            "`views` must show one object from their cameras; the silhouettes share no volume. Try a new seed."
        )

    gone = None
    if carving is not None:
        n = carving.resolution
        hull = visual_hull(known, cameras, lattice(n, device=known.device)).reshape(n, n, n)
        gone = carve(Photometric.of(observed), hull, carving)

    def solid(points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        inside = visual_hull(known, cameras, points)
        if gone is not None:
            inside = inside * (1 - at(gone, points))
        return inside, facing_color(rgb, cameras, points)

    return solid


def _check(loss: Tensor, step: int) -> None:
    """Refuse a loss that is not finite; asked every few steps, because the host has to wait for it.

    A representation of NaN may render as nothing at all, which is finite; its `prior_loss`, in `loss`, is not.
    """
    if not float(loss.detach()) < float("inf"):
        raise FitError(
            f"the fit must stay finite; its loss was {float(loss.detach())} by step {step}. Try another seed."
        )
