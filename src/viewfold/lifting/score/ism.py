"""Interval score matching (ISM), LucidDreamer's: two predictions on one inverted path, an interval apart.

The path is found by DDIM inversion without text, so that it is the render's own; the guided prediction at its end is
compared with the one that led there.  Liang et al. 2023 (arXiv 2311.11284), section 3.2.
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
from viewfold.lifting.score.inversion import invert, levels_up_to
from viewfold.lifting.score.prediction import Noisy, ask, level_of, pull


@dataclass(frozen=True, kw_only=True)
class ISM:
    """The change of the predicted noise over an interval of an inverted path (arXiv 2311.11284); two to four times
    the work of SDS.  Released with guidance 7.5 and noise levels of 0.02 to 0.5 of the schedule."""

    interval: float = 0.08
    """Between the two levels compared, as a share of the schedule (as released, where it falls from 0.10 to 0.08
    over the first 1,500 of 5,000 steps; here it is constant)."""

    stride: float = 0.2
    """Of the inversion up to the lower level, as a share of the schedule (as released)."""

    kind: Literal["ism"] = field(default="ism", init=False)
    """Names the score in records."""

    def __post_init__(self) -> None:
        for name in ("interval", "stride"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie above 0 and up to 1; got {getattr(self, name)}.")


def ism_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    negative: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 7.5,
    settings: ISM | None = None,
) -> Float[Tensor, ""]:
    """Return interval score matching.

        s    = t - interval
        x_s  by inversion of sqrt(a_0) x + sqrt(1 - a_0) noise, without text
        x_t  = one step of the same inversion from x_s, along e = the noise without text in x_s
        gradient  sqrt((1 - a_t) / a_t) (guided noise in x_t - e) / (b v)

    Source: arXiv 2311.11284, section 3.2; weight and numbers as in LucidDreamer's `sd_utils`, without the offset that
    it adds to the noise.  "Without text" means the negative prompt, which is empty there.

    Args:
        latents: of the renders, with gradient.
        prior, condition, cameras, t, guidance: as in `reconstruction_loss`.
        negative: the condition of the `b` negative or empty prompts alone.
        noise: standard normal; it only brings the renders to level 0 of the schedule.
        settings: see `ISM`.
    """
    settings = settings or ISM()

    def predict(x: Tensor, level: Tensor) -> Tensor:
        return ask(Noisy(x, level), prior=prior, condition=negative, cameras=cameras)[0]

    n_levels = len(prior.alphas_cumprod)
    s = (t - max(1, round(settings.interval * n_levels))).clamp_min(0)
    levels = [*levels_up_to(s, stride=max(1, round(settings.stride * n_levels))), t]
    start = compose(latents.detach(), noise, level_of(levels[0], prior=prior, like=latents))
    path = invert(start, levels, predict=predict, alphas_cumprod=prior.alphas_cumprod)
    end = Noisy(path.noisy, t)
    conditional, unconditional = ask(end, end, prior=prior, condition=condition, cameras=cameras)
    level = level_of(t, prior=prior, like=latents)
    direction = guide(conditional, unconditional, scale=guidance) - path.noise
    return pull(latents, direction, ((1 - level) / level).sqrt())
