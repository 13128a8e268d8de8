"""Score distillation via inversion (SDI): the x0-reconstruction loss with the noise found instead of drawn.

With drawn noise every step pulls towards another sample of the prior, and the mean of many is blurred.  The noise that
DDIM inversion finds in a render belongs to that render, so that steps agree.  Lukoianov et al. 2024, "Score
Distillation via Reparametrized DDIM" (arXiv 2405.15891).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import decompose, guide
from viewfold.errors import InputError
from viewfold.lifting.prior import Prior
from viewfold.lifting.score.inversion import invert, levels_up_to
from viewfold.lifting.score.prediction import Noisy, ask, level_of
from viewfold.lifting.score.reconstruction import reconstruction_loss


@dataclass(frozen=True, kw_only=True)
class SDI:
    """Reconstruction with the noise that inverting the render finds (arXiv 2405.15891); two to six times the work.

    Meant for one falling noise level, not a range: `noise_at_start=(0.98, 0.98)` as released.
    """

    steps: int = 10
    """Steps that an inversion of the whole schedule would take; one to a level t takes that share (as released)."""

    inversion_guidance: float | None = None
    """Guidance on the way up; None: 2 - guidance, which is minus it where 0 means no guidance (as released:
    7.5 down and -7.5 up, which are 8.5 and -6.5 here, where 1 means none)."""

    eta: float = 0.3
    """Fresh noise on the way up (as released); 0 is none."""

    rescale: float = 0.0
    """As `Reconstruction.rescale`; the released code has none."""

    kind: Literal["sdi"] = field(default="sdi", init=False)
    """Names the score in records."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"`steps` must be at least 1; got {self.steps}.")
        if not 0 <= self.eta < float("inf"):
            raise InputError(f"`eta` must be a finite number of at least 0; got {self.eta}.")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"`rescale` must lie between 0 and 1; got {self.rescale}.")
        if self.inversion_guidance is not None and not abs(self.inversion_guidance) < float("inf"):
            raise InputError(f"`inversion_guidance` must be finite; got {self.inversion_guidance}.")


def find_noise(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    guidance: float,
    settings: SDI,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b v c h w"]:
    """Return the noise that belongs to the latents at level t: (x_t - sqrt(a_t) x) / sqrt(1 - a_t).

    x_t is where DDIM inversion leads from x, which is taken for level 0 of the schedule.  Other arguments as in
    `sdi_loss`; `guidance` is that of the inversion.
    """

    def predict(x: Tensor, level: Tensor) -> Tensor:
        noisy = Noisy(x, level)
        conditional, unconditional = ask(noisy, noisy, prior=prior, condition=condition, cameras=cameras)
        return guide(conditional, unconditional, scale=guidance)

    x = latents.detach()
    levels = levels_up_to(t, stride=len(prior.alphas_cumprod) // settings.steps)
    alphas, eta = prior.alphas_cumprod, settings.eta
    found = invert(x, levels, predict=predict, alphas_cumprod=alphas, eta=eta, generator=generator)
    return decompose(x, found.noisy, level_of(t, prior=prior, like=x), prediction="sample").noise


def sdi_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    guidance: float = 8.5,
    settings: SDI | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Pull latents towards the clean latents that the prior sees in them, with the noise of their own inversion.

        k    = (x_t - sqrt(a_t) x) / sqrt(1 - a_t),   x_t by inversion of x
        x0   = (x_t - sqrt(1 - a_t) guided noise) / sqrt(a_t)                       held constant
        loss = 0.5 |x - x0|^2 / (b v),   gradient sqrt((1 - a_t) / a_t) (guided noise - k) / (b v)

    Source: arXiv 2405.15891; numbers as in threestudio's `stable_diffusion_sdi_guidance`.  That code inverts to a
    random level up to a tenth above t and reads x there as if at t; here the inversion ends at t.

    Args:
        latents: of the renders, with gradient.
        prior, condition, cameras, t, guidance: as in `reconstruction_loss`.
        settings: see `SDI`.
        generator: of the noise on the way up.
    """
    settings = settings or SDI()
    upwards = 2 - guidance if settings.inversion_guidance is None else settings.inversion_guidance
    shared = {"prior": prior, "condition": condition, "cameras": cameras, "t": t}
    noise = find_noise(latents, **shared, guidance=upwards, settings=settings, generator=generator)
    return reconstruction_loss(latents, **shared, noise=noise, guidance=guidance, rescale=settings.rescale)
