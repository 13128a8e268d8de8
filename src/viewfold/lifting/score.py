"""Score distillation: losses that pull rendered views towards what a frozen diffusion prior expects of them.

Both losses take latents of the renders (with their gradient) and return a scalar to differentiate.  The prior itself is
never differentiated.  Source: MVDream, section 3.3 and equation 5; MVDream-threestudio `multiview_diffusion_guidance`
for the details that the paper leaves out.  Knows no field and no renderer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import compose, decompose, guide
from viewfold.diffusion.guidance import rescale as contrast
from viewfold.errors import InputError
from viewfold.lifting.prior import Prior


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Pull latents to the clean ones that the prior sees in them (x0-reconstruction; MVDream, equation 5)."""

    rescale: float = 0.5
    """0 to 1: how far contrast is brought back to the unguided one's (MVDream-threestudio)."""

    kind: Literal["reconstruction"] = field(default="reconstruction", init=False)
    """Names the score in records."""

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise InputError(f"`rescale` must lie between 0 and 1; got {self.rescale}.")


@dataclass(frozen=True, kw_only=True)
class SDS:
    """Plain score distillation (DreamFusion, equation 3); its contrast is guidance's, there is nothing to rescale."""

    kind: Literal["sds"] = field(default="sds", init=False)
    """Names the score in records."""


Score = Reconstruction | SDS


def reconstruction_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 50.0,
    rescale: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull latents towards the clean latents that the prior sees in their noisy version (x0-reconstruction).

        x_t  = sqrt(a_t) x + sqrt(1 - a_t) noise
        x0   = rescale((x_t - sqrt(1 - a_t) guided noise) / sqrt(a_t))          held constant
        loss = 0.5 |x - x0|^2 / (b v),   gradient (x - x0) / (b v)

    Source: MVDream, equation 5, which has no 0.5; this is as released.

    Args:
        latents: of the renders, with gradient.
        prior: the frozen model.
        condition: of 2 b prompts (`Prior.condition`): those of the objects, then as many negative or empty ones.
        cameras: `v` that all objects share, or `b * v`, those of an object one after the other; None: no cameras.
        t: noise level per object.
        noise: standard normal.
        guidance: classifier-free guidance scale.
        rescale: 0 to 1; how far the contrast of x0 is brought back to that of the conditional prediction alone.

    What the prior returns is not looked at, for that would make the host wait: if it is not finite, the loss is not.

    Raises:
        InputError: `rescale` outside 0 to 1.
    """
    seen = _predict(latents, noise, prior=prior, condition=condition, cameras=cameras, t=t, guidance=guidance)
    clean = decompose(seen.guided, seen.noisy, seen.level, prediction="epsilon").clean
    reference = decompose(seen.conditional, seen.noisy, seen.level, prediction="epsilon").clean
    clean = contrast(clean, reference, strength=rescale)
    return 0.5 * (latents - clean).square().sum() / (latents.shape[0] * latents.shape[1])


def sds_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 50.0,
) -> Float[Tensor, ""]:
    """Return plain score distillation: the gradient is (1 - a_t) (predicted noise - noise) / (b v).

    Arguments as in `reconstruction_loss`.  The value is half the squared gradient per view, as released; only its
    gradient means something.  Source: DreamFusion equation 3 with w(t) = sigma_t^2.
    """
    seen = _predict(latents, noise, prior=prior, condition=condition, cameras=cameras, t=t, guidance=guidance)
    direction = (1 - seen.level)[:, None, None, None, None] * (seen.guided - noise)
    target = (latents - direction).detach()
    return 0.5 * (latents - target).square().sum() / (latents.shape[0] * latents.shape[1])


class _Prediction(NamedTuple):
    """What the prior says of noisy latents."""

    noisy: Float[Tensor, "b v c h w"]
    level: Float[Tensor, "b"]
    """alpha_bar of each object."""
    conditional: Float[Tensor, "b v c h w"]
    guided: Float[Tensor, "b v c h w"]


@torch.no_grad()
def _predict(
    latents: Float[Tensor, "b v c h w"],
    noise: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    guidance: float,
) -> _Prediction:
    """Add noise, and return the noise that the prior predicts, from one call on [conditional; unconditional]."""
    level = prior.alphas_cumprod.to(latents)[t.to(latents.device)]
    noisy = compose(latents, noise, level)
    twice = cameras
    if cameras is not None and len(cameras) != noisy.shape[1]:  # those that all objects share serve as they are
        twice = Cameras.cat([cameras, cameras])
    predicted = prior.predict_noise(torch.cat([noisy, noisy]), torch.cat([t, t]), condition, twice)
    conditional, unconditional = predicted.to(noisy).chunk(2)
    return _Prediction(noisy, level, conditional, guide(conditional, unconditional, scale=guidance))


def score_loss(score: Score | str) -> Callable[..., Tensor]:
    """Return the loss of a score; all take the arguments of `sds_loss`.

    Raises:
        InputError: a score that there is not.
    """
    match score:
        case Reconstruction(rescale=rescale):
            return partial(reconstruction_loss, rescale=rescale)
        case SDS():
            return sds_loss
    raise unknown_score(score)


def unknown_score(score: Any) -> InputError:
    """Return the error that refuses a score by name."""
    return InputError(f"`score` must be Reconstruction(...) or SDS(); got {score!r}. Both are in lifting/score.py.")
