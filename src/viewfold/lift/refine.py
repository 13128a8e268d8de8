"""Distil a fitted field against the prior, from cameras that the views did not have.

Four views leave corners that no silhouette cuts and sides that no picture shows; the prior knows what belongs there.
Every third step is held to the pictures, so that the object stays the one that was sampled.  A guard watches coverage
and gradients and goes back to the last good state when the field fills, empties or turns to NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lift.distill import reconstruction_loss
from viewfold.lift.prior import Prior
from viewfold.lift.reconstruct import OCCUPANCY_EVERY, FitSettings, Progress, Reconstruction, Target, shape_loss
from viewfold.lift.schedule import Anneal, NoiseRange
from viewfold.scene.field import GridField
from viewfold.scene.volume import OccupancyGrid, render_volume

MAX_ROLLBACKS = 3
"""After so many returns to a good state the distillation ends: in an error if NaN was the reason."""

LOWEST_LOGIT, HIGHEST_LOGIT = -9.0, 5.0
"""Density logits stay between these: opaque within a voxel or two, and near enough for a phantom to be undone."""

PHOTOMETRIC_EVERY = 3
"""Steps between two comparisons with the pictures."""

EMPTY_BELOW, FULL_ABOVE = 0.25, 2.5
"""Coverage, as a multiple of the silhouettes', beyond which the field counts as collapsed."""


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How a field is distilled."""

    steps: int = 60
    """Steps of the optimiser; 0 leaves the fit as it is."""

    guidance: float = 3.0
    """Classifier-free guidance; MVDream's 50 is for a start from nothing.  From a fit, 10 for 140 steps speckled the
    shipped model's chair with colours that no view has (re-render 21.6 dB instead of 23.2)."""

    rescale: float = 0.5
    """0 to 1: how far contrast is brought back to the unguided one's (MVDream-threestudio)."""

    negative: str = ""
    """What to keep away from."""

    noise_at_start: tuple[float, float] = (0.30, 0.60)
    """Range of noise levels at the first step, as fractions of the schedule; low ones keep the shape of the fit."""

    noise_at_end: tuple[float, float] = (0.02, 0.30)
    """Range of noise levels at the last step; both ends move in straight lines, as MVDream's do."""

    views: int = 4
    """Cameras of a step, spread evenly around the object, as the prior was trained."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the cameras' elevation, one for all views of a step (MVDream: 0 to 30)."""

    learning_rate: float = 0.05
    """Adam's at the first step, on logits of density and colour; it falls to a fifth."""

    photometric_weight: float = 30.0
    """Weight of the pictures beside the prior; they are compared every third step."""

    samples: int = 48
    """Samples along a ray across the scene."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"`steps` must not be negative; got {self.steps}.")
        if not 1 <= self.views <= 64:
            raise InputError(f"`views` must lie between 1 and 64; got {self.views}.")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(f"`guidance` must be a finite number of at least 0; got {self.guidance}.")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"`rescale` must lie between 0 and 1; got {self.rescale}.")
        low, high = self.elevation_deg
        if not -89 <= low <= high <= 89:
            raise InputError(f"`elevation_deg` must be a range within -89 to 89; got {self.elevation_deg}.")
        for name in ("noise_at_start", "noise_at_end"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise InputError(f"`{name}` must be a range within 0 to 1, without 1; got {getattr(self, name)}.")

    @property
    def noise(self) -> NoiseRange:
        """The range of noise levels over the run."""
        (low, high), (last_low, last_high) = self.noise_at_start, self.noise_at_end
        return NoiseRange(
            low=Anneal(start=low, end=last_low, steps=self.steps),
            high=Anneal(start=high, end=last_high, steps=self.steps),
        )


def refine(
    reconstruction: Reconstruction,
    prior: Prior,
    prompt: str,
    *,
    settings: DistilSettings | None = None,
    fit: FitSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> int:
    """Improve the reconstruction's field in place; return how often it had to go back to a good state.

    Raises:
        FitError: the prior returned NaN, or gradients stayed NaN after every return.
    """
    settings, fit = settings or DistilSettings(), fit or FitSettings()
    progress = progress or (lambda stage, step, total: None)
    if settings.steps == 0:
        return 0
    grid = reconstruction.field
    views, foreground = reconstruction.views, reconstruction.foreground
    device = grid.grid.device
    text = prior.embed([prompt, settings.negative])
    target = Target.of(views, foreground, size=min(prior.image_size, views.rgb.shape[-1]))
    ground = foreground.background.mean(dim=0)
    noise, decay = settings.noise, Anneal(start=1.0, end=0.2, steps=settings.steps)
    guard = Guard(grid, coverage=float(foreground.alpha.mean()), learning_rate=settings.learning_rate)
    occupancy = OccupancyGrid.of(grid, device=device)
    for step in range(settings.steps):
        progress("distil", step, settings.steps)
        if step % OCCUPANCY_EVERY == 0:
            occupancy = OccupancyGrid.of(grid, device=device)
        cameras = _draw_cameras(views.cameras, settings, generator)
        rendered = render_volume(
            grid, cameras, size=prior.image_size, n_samples=settings.samples, occupancy=occupancy, generator=generator
        )
        latents = prior.encode(rendered.over(ground))[None]
        loss = reconstruction_loss(
            latents,
            prior=prior,
            text=text[:1],
            negative=text[1:],
            cameras=cameras.code()[None],
            t=noise.draw(step, n_objects=1, n_levels=len(prior.alphas_cumprod), generator=generator).to(device),
            noise=torch.randn(latents.shape, generator=generator).to(latents),
            guidance=settings.guidance,
            rescale=settings.rescale,
        )
        loss = loss / latents[0, 0].numel() + shape_loss(grid, fit)
        if step % PHOTOMETRIC_EVERY == 0 and settings.photometric_weight > 0:
            loss = loss + settings.photometric_weight * target.loss(
                grid, n_samples=settings.samples, occupancy=occupancy, settings=fit, generator=generator
            )
        if not guard.step(loss, coverage=float(rendered.alpha.detach().mean()), decay=decay.at(step)):
            if guard.rollbacks > MAX_ROLLBACKS:
                break
            occupancy = OccupancyGrid.of(grid, device=device)
    guard.finish()
    progress("distil", settings.steps, settings.steps)
    return guard.rollbacks


def _draw_cameras(like: Cameras, settings: DistilSettings, generator: torch.Generator | None) -> Cameras:
    """Spread cameras around the object at a random azimuth and elevation, with the views' own lens and distance."""
    low, high = settings.elevation_deg
    azimuth, elevation = torch.rand(2, generator=generator).tolist()
    return Cameras.orbit(
        settings.views,
        elevation_deg=low + (high - low) * elevation,
        azimuth_deg=360 * azimuth,
        fov_deg=float(like.fov_deg.mean()),
        distance=float(like.position.norm(dim=-1).mean()),
    ).to(like.fov_deg.device)


class Guard:
    """Steps a grid's optimiser and keeps the last state that was neither collapsed nor NaN."""

    SAVE_EVERY = 10

    def __init__(self, grid: GridField, *, coverage: float, learning_rate: float) -> None:
        """Watch `grid`; `coverage` is the share of a picture that a healthy field fills."""
        self.grid, self.coverage, self.learning_rate = grid, coverage, learning_rate
        self.rollbacks = 0
        self._steps = 0
        self._good: Tensor = grid.grid.detach().clone()
        self._optimizer = self._fresh_optimizer()

    def step(self, loss: Tensor, *, coverage: float, decay: float = 1.0) -> bool:
        """Descend once; return False if the field went back to its last good state instead.

        `coverage` is the mean alpha of the render that `loss` was computed from: it judges the state before the step.
        `decay` multiplies the learning rate.

        Raises:
            FitError: NaN again after `MAX_ROLLBACKS` returns.
        """
        self._optimizer.zero_grad()
        loss.backward()
        gradient = self.grid.grid.grad
        finite = bool(torch.isfinite(loss.detach())) and gradient is not None and bool(torch.isfinite(gradient).all())
        healthy = EMPTY_BELOW * self.coverage <= coverage <= max(FULL_ABOVE * self.coverage, 0.5)
        if not (finite and healthy):
            self._roll_back()
            if not finite and self.rollbacks > MAX_ROLLBACKS:
                raise FitError(
                    f"the distillation must stay finite; it turned to NaN {self.rollbacks} times. "
                    "Try another seed, less guidance or float32."
                )
            return False
        if self._steps % self.SAVE_EVERY == 0:
            self._good.copy_(self.grid.grid.detach())
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * decay
        self._optimizer.step()
        with torch.no_grad():
            self.grid.grid[:, :1].clamp_(LOWEST_LOGIT, HIGHEST_LOGIT)
        self._steps += 1
        return True

    def finish(self) -> None:
        """Undo the last steps if they left something that is not finite."""
        if not bool(torch.isfinite(self.grid.grid.detach()).all()):
            self._roll_back()

    def _roll_back(self) -> None:
        self.rollbacks += 1
        self.learning_rate /= 2
        with torch.no_grad():
            self.grid.grid.copy_(self._good)
        self._optimizer = self._fresh_optimizer()

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.grid.grid], lr=self.learning_rate, betas=(0.9, 0.99))
