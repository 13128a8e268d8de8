"""Distil a fitted representation against the prior, from cameras that the views did not have.

Four views leave corners that no silhouette cuts and sides that no picture shows; the prior knows what belongs there.
Every third step is held to the pictures, so that the object stays the one that was sampled; a guard (lifting/guard.py)
goes back to the last good state when the object fills the scene, empties or turns to NaN.

    loss = score / (latent numbers of a view) + prior_loss + [every third step] photometric_weight photometric
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.errors import FitError, InputError
from viewfold.lifting.descent import REFRESH_EVERY, Progress
from viewfold.lifting.fit import Fitted
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard, largest_coverage
from viewfold.lifting.observation import Observed
from viewfold.lifting.prior import Prior
from viewfold.lifting.score import Reconstruction, Score, begin, check_score
from viewfold.scene.representation import Representation

PHOTOMETRIC_EVERY = 3
"""Steps between two comparisons with the pictures."""


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How a representation is distilled."""

    steps: int = 60
    """Steps of the optimiser; 0 leaves the fit as it is."""

    guidance: float = 3.0
    """Classifier-free guidance; MVDream's 50 is for a start from nothing.  From a fit, 10 for 140 steps speckled the
    shipped model's chair with colours that no view has (re-render 21.6 dB instead of 23.2)."""

    score: Score | str = Reconstruction()
    """The loss that is minimised: `Reconstruction(rescale=...)`, as MVDream does, or another of lifting/score."""

    negative: str = ""
    """What to keep away from."""

    noise_at_start: tuple[float, float] = (0.30, 0.60)
    """Range of noise levels at the first step, as fractions of the schedule; low ones keep the shape of the fit."""

    noise_at_end: tuple[float, float] = (0.02, 0.30)
    """Range of noise levels at the last step of the anneal; both ends move in straight lines, as MVDream's do."""

    anneal_steps: int | None = None
    """Steps over which the noise levels move, constant afterwards; None: all steps (MVDream: 8,000 of 10,000)."""

    views: int = 4
    """Cameras of a step, spread evenly around the object, as the prior was trained."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the cameras' elevation, one for all views of a step (MVDream: 0 to 30)."""

    learning_rate: float = 0.05
    """Adam's at the first step, for parameters of order one; it falls to a fifth."""

    photometric_weight: float = 30.0
    """Weight of the pictures beside the prior; they are compared every third step."""

    precision: Literal["float32", "bfloat16"] | str = "float32"
    """What the prior's network computes in; "bfloat16" is faster where the device has it natively
    (`benchmarks/distillation.py`).  The representation, and pictures on their way to latents, stay as they are."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f'`precision` must be "float32" or "bfloat16"; got "{self.precision}".')
        if self.steps < 0:
            raise InputError(f"`steps` must not be negative; got {self.steps}.")
        if not 1 <= self.views <= 64:
            raise InputError(f"`views` must lie between 1 and 64; got {self.views}.")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(f"`guidance` must be a finite number of at least 0; got {self.guidance}.")
        check_score(self.score)
        low, high = self.elevation_deg
        if not -89 <= low <= high <= 89:
            raise InputError(f"`elevation_deg` must be a range within -89 to 89; got {self.elevation_deg}.")
        if self.anneal_steps is not None and self.anneal_steps < 0:
            raise InputError(f"`anneal_steps` must not be negative; got {self.anneal_steps}.")
        for name in ("noise_at_start", "noise_at_end"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise InputError(f"`{name}` must be a range within 0 to 1, without 1; got {getattr(self, name)}.")

    @property
    def noise(self) -> NoiseRange:
        """The range of noise levels over the run."""
        (low, high), (last_low, last_high) = self.noise_at_start, self.noise_at_end
        steps = self.steps if self.anneal_steps is None else self.anneal_steps
        return NoiseRange(
            low=Anneal(start=low, end=last_low, steps=steps), high=Anneal(start=high, end=last_high, steps=steps)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """A representation that looks like the views, and from everywhere else like what the prior believes."""

    representation: Representation

    observed: Observed

    rollbacks: int
    """How often it had to go back to a good state."""


def distil(
    fitted: Fitted,
    prior: Prior,
    prompt: str,
    *,
    settings: DistilSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Refined:
    """Improve what was fitted, in place.

    Args:
        fitted: where the prior is.
        prior: the frozen model.
        prompt: what the views show.
        settings: see `DistilSettings`.
        generator: of everything random.
        progress: see `Progress`; the stage is "distil".

    Raises:
        FitError: the prior returned NaN, or gradients stayed NaN after every return.
        InputError: the prior cannot give this score.
    """
    settings = settings or DistilSettings()
    progress = progress or (lambda stage, step, total: None)
    representation, observed = fitted.representation, fitted.observed
    if settings.steps == 0:
        return Refined(representation=representation, observed=observed, rollbacks=0)
    device, lens, ground = representation.device, observed.lens, observed.ground
    told = {"prompts": [prompt], "negatives": [settings.negative], "guidance": settings.guidance}
    score = begin(settings.score, prior=prior, **told, generator=generator)
    pictures = fitted.pictures.shrunk(min(prior.image_size, fitted.pictures.size))
    noise, decay = settings.noise, Anneal(start=1.0, end=0.2, steps=settings.steps)
    coverage = float(observed.foreground.alpha.mean())
    guard = Guard(representation, coverage=coverage, most=largest_coverage(*lens), learning_rate=settings.learning_rate)
    for step in range(settings.steps):
        progress("distil", step, settings.steps)
        if step % REFRESH_EVERY == 0:
            representation.refresh()
        cameras = _draw_cameras(*lens, settings, generator).to(device)
        rendered = representation.render(cameras, size=prior.image_size, generator=generator)
        latents = prior.encode(rendered.over(ground))[None]
        t = noise.draw(step, n_objects=1, n_levels=len(prior.alphas_cumprod), generator=generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            distilled = score(latents, cameras=cameras, t=t.to(device))
        loss = distilled / latents[0, 0].numel() + representation.prior_loss()
        if step % PHOTOMETRIC_EVERY == 0 and settings.photometric_weight > 0:
            loss = loss + settings.photometric_weight * pictures.loss(representation, generator=generator)
        if not guard.step(loss, coverage=rendered.alpha.detach().mean(), decay=decay.at(step)):
            _blame_prior(rendered.rgb, latents, distilled, t)
            if guard.rollbacks > MAX_ROLLBACKS:
                break
    guard.finish()
    representation.refresh()
    progress("distil", settings.steps, settings.steps)
    return Refined(representation=representation, observed=observed, rollbacks=guard.rollbacks)


def _blame_prior(pictures: Tensor, latents: Tensor, distilled: Tensor, t: Tensor) -> None:
    """Say so if a step failed because the prior turned finite pictures into something that is not finite.

    Asked after a step has failed, so that no other step has to wait for the answer.
    """
    advice = "Check the weights, and use float32 if half precision overflows."
    if not bool(pictures.detach().isfinite().all()):
        return
    if not bool(latents.detach().isfinite().all()):
        raise FitError(f"`prior` must encode pictures to finite latents; its VAE gave NaN or infinity. {advice}")
    if not bool(distilled.detach().isfinite()):
        raise FitError(f"`prior` must return finite noise; got NaN or infinity at t = {t.tolist()}. {advice}")


def _draw_cameras(
    fov_deg: float, distance: float, settings: DistilSettings, generator: torch.Generator | None
) -> Cameras:
    """Spread cameras around the object at a random azimuth and elevation, with the views' own lens and distance."""
    low, high = settings.elevation_deg
    azimuth, elevation = torch.rand(2, generator=generator).tolist()
    return Cameras.orbit(
        settings.views,
        elevation_deg=low + (high - low) * elevation,
        azimuth_deg=360 * azimuth,
        fov_deg=fov_deg,
        distance=distance,
    )
