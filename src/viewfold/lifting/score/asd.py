"""Asynchronous score distillation (ASD), ScaleDreamer's: VSD's second network replaced by a later noise level.

A frozen network predicts the noise of a later level better, as a network that was tuned to the renders would do at
this one; so its prediction there stands for the tuned network's.  Ma et al. 2024 (arXiv 2407.02040).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import compose, guide
from viewfold.errors import InputError
from viewfold.lifting.prior import Prior
from viewfold.lifting.score.prediction import Noisy, ask, level_of, pull


@dataclass(frozen=True, kw_only=True)
class ASD:
    """The guided prediction at t against the unguided one a little later (arXiv 2407.02040); 1.5 times SDS's work.

    Released with guidance 7.5."""

    shift: float = 0.1
    """How much later: this share of t - lowest (as released)."""

    lowest: float = 0.02
    """Noise level, as a share of the schedule, at and below which nothing is shifted (as released)."""

    kind: Literal["asd"] = field(default="asd", init=False)
    """Names the score in records."""

    def __post_init__(self) -> None:
        for name in ("shift", "lowest"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie between 0 and 1; got {getattr(self, name)}.")

    def later(self, t: Int[Tensor, "b"], *, n_levels: int) -> Int[Tensor, "b"]:
        """Return t + floor(shift (t - lowest)), within the schedule."""
        ahead = (self.shift * (t - int(self.lowest * n_levels))).clamp_min(0).long()
        return (t + ahead).clamp_max(n_levels - 1)


def asd_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 7.5,
    settings: ASD | None = None,
) -> Float[Tensor, ""]:
    """Return asynchronous score distillation, from one call of three predictions with the same noise.

        gradient  (1 - a_t) (guided noise in x_t at t - noise with the text in x_T at T) / (b v)
        T = t + shift (t - lowest),   x_T = sqrt(a_T) x + sqrt(1 - a_T) noise

    Source: arXiv 2407.02040; numbers as in ScaleDreamer's `mvdream_asd_guidance`.

    Args:
        latents: of the renders, with gradient.
        prior, cameras, t, noise, guidance: as in `reconstruction_loss`.
        condition: of 3 b prompts: those of the objects, as many negative or empty ones, those of the objects again.
        settings: see `ASD`.
    """
    settings = settings or ASD()
    x, later = latents.detach(), settings.later(t, n_levels=len(prior.alphas_cumprod))
    level = level_of(t, prior=prior, like=x)
    now = Noisy(compose(x, noise, level), t)
    then = Noisy(compose(x, noise, level_of(later, prior=prior, like=x)), later)
    conditional, unconditional, ahead = ask(now, now, then, prior=prior, condition=condition, cameras=cameras)
    return pull(latents, guide(conditional, unconditional, scale=guidance) - ahead, 1 - level)
