"""What a frozen prior says of noisy latents: all that the losses ask of it.  The prior itself is never differentiated.

Beside the losses; knows neither their formulas nor what the prior reads in a condition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import compose, guide
from viewfold.lifting.prior import Prior


class Noisy(NamedTuple):
    """Latents of `b` objects with noise in them."""

    x: Float[Tensor, "b v c h w"]
    t: Int[Tensor, "b"]


class Prediction(NamedTuple):
    """What the prior says of noisy latents."""

    noisy: Float[Tensor, "b v c h w"]
    level: Float[Tensor, "b"]
    """alpha_bar of each object."""
    conditional: Float[Tensor, "b v c h w"]
    guided: Float[Tensor, "b v c h w"]


@torch.no_grad()
def ask(*asked: Noisy, prior: Prior, condition: Any, cameras: Cameras | None) -> tuple[Float[Tensor, "b v c h w"], ...]:
    """Return the noise that the prior sees in each of some batches, from one call.

    Args:
        asked: batches of one shape.
        prior: the frozen model.
        condition: of `b` prompts for each batch: those of the first, then those of the second, and so on.
        cameras: `v` that all objects share, or `b * v`, those of an object one after the other; None: no cameras.
    """
    x, t = torch.cat([each.x for each in asked]), torch.cat([each.t for each in asked])
    told = cameras
    if cameras is not None and len(cameras) != x.shape[1]:  # those that all objects share serve as they are
        told = Cameras.cat([cameras] * len(asked))
    return prior.predict_noise(x, t, condition, told).to(x).chunk(len(asked))


@torch.no_grad()
def predict(
    latents: Float[Tensor, "b v c h w"],
    noise: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    guidance: float,
) -> Prediction:
    """Add noise, and return the noise that the prior predicts, from one call on [conditional; unconditional]."""
    level = level_of(t, prior=prior, like=latents)
    noisy = Noisy(compose(latents, noise, level), t)
    conditional, unconditional = ask(noisy, noisy, prior=prior, condition=condition, cameras=cameras)
    return Prediction(noisy.x, level, conditional, guide(conditional, unconditional, scale=guidance))


def level_of(t: Int[Tensor, "b"], *, prior: Prior, like: Float[Tensor, "..."]) -> Float[Tensor, "b"]:
    """Return alpha_bar of each object, on the device and in the type of `like`."""
    return prior.alphas_cumprod.to(like)[t.to(like.device)]


def pull(
    latents: Float[Tensor, "b v c h w"], direction: Float[Tensor, "b v c h w"], weight: Float[Tensor, "b"]
) -> Float[Tensor, ""]:
    """Return a loss whose gradient on the latents is weight direction / (b v).

    Its value is half the squared gradient per view, as released codes have it; only its gradient means something.
    """
    target = (latents - weight[:, None, None, None, None] * direction).detach()
    return 0.5 * (latents - target).square().sum() / (latents.shape[0] * latents.shape[1])
