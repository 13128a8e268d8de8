"""The two distillation losses: what a frozen prior thinks is wrong with a set of rendered views.

Both take latents of the renders (with their gradient) and return a scalar to differentiate.  The prior itself is
never differentiated.  Source: MVDream, section 3.3 and equation 5; MVDream-threestudio `multiview_diffusion_guidance`
for the details that the paper leaves out.  Knows no field and no renderer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.errors import FitError, InputError
from viewfold.lift.prior import Prior

STD_EPSILON = 1e-8
"""Keeps the ratio of two standard deviations finite (as released)."""


def reconstruction_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    text: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    negative: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    cameras: Float[Tensor, "b v 16"] | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 50.0,
    rescale: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull latents towards the clean latents that the prior sees in their noisy version (x0-reconstruction).

    The loss is 0.5 |x - x0|^2 / (b v), with x0 held constant, so the gradient is (x - x0) / (b v).  The paper writes
    the loss without the 0.5; this is as released.

    Args:
        latents: of the renders, with gradient.
        prior: the frozen model.
        text: tokens of the prompt.
        negative: tokens of the negative or empty prompt.
        cameras: the 16 numbers per view, or None to say nothing about them.
        t: noise level per object.
        noise: standard normal.
        guidance: classifier-free guidance scale.
        rescale: 0 to 1; how far the contrast of x0 is brought back to that of the conditional prediction alone.

    Raises:
        InputError: `rescale` outside 0 to 1.
        FitError: the prior returned something that is not finite.
    """
    if not 0 <= rescale <= 1:
        raise InputError(f"`rescale` must lie between 0 and 1; got {rescale}.")
    noisy, alpha, sigma = _add_noise(latents, prior=prior, t=t, noise=noise)
    conditional, unconditional = _predict(noisy, prior=prior, text=text, negative=negative, cameras=cameras, t=t)
    guided = unconditional + guidance * (conditional - unconditional)
    clean = (noisy - sigma * guided) / alpha
    if rescale > 0:
        reference = (noisy - sigma * conditional) / alpha
        over = (1, 2, 3, 4)
        factor = (reference.std(over, keepdim=True) + STD_EPSILON) / (clean.std(over, keepdim=True) + STD_EPSILON)
        clean = rescale * clean * factor + (1 - rescale) * clean
    return 0.5 * (latents - clean).square().sum() / (latents.shape[0] * latents.shape[1])


def sds_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    text: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    negative: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    cameras: Float[Tensor, "b v 16"] | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 50.0,
) -> Float[Tensor, ""]:
    """Return plain score distillation: the gradient is (1 - a_t) (predicted noise - noise) / (b v).

    Arguments as in `reconstruction_loss`.  The value is half the squared gradient per view, as released; only its
    gradient means something.  Source: DreamFusion equation 3 with w(t) = sigma_t^2.
    """
    noisy, _, sigma = _add_noise(latents, prior=prior, t=t, noise=noise)
    conditional, unconditional = _predict(noisy, prior=prior, text=text, negative=negative, cameras=cameras, t=t)
    guided = unconditional + guidance * (conditional - unconditional)
    direction = sigma.square() * (guided - noise)
    target = (latents - direction).detach()
    return 0.5 * (latents - target).square().sum() / (latents.shape[0] * latents.shape[1])


def _add_noise(
    latents: Float[Tensor, "b v c h w"], *, prior: Prior, t: Int[Tensor, "b"], noise: Float[Tensor, "b v c h w"]
) -> tuple[Float[Tensor, "b v c h w"], Float[Tensor, "b 1 1 1 1"], Float[Tensor, "b 1 1 1 1"]]:
    """Return x_t (without gradient), sqrt(a_t) and sqrt(1 - a_t)."""
    level = prior.alphas_cumprod.to(latents)[t.to(latents.device)][:, None, None, None, None]
    alpha, sigma = level.sqrt(), (1 - level).sqrt()
    return alpha * latents.detach() + sigma * noise, alpha, sigma


@torch.no_grad()
def _predict(
    noisy: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    text: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    negative: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
    cameras: Float[Tensor, "b v 16"] | None,
    t: Int[Tensor, "b"],
) -> tuple[Float[Tensor, "b v c h w"], Float[Tensor, "b v c h w"]]:
    """Return the conditional and the unconditional noise from one call on [conditional; unconditional]."""
    twice = None if cameras is None else torch.cat([cameras, cameras])
    predicted = prior.predict_noise(torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([text, negative]), twice)
    if not bool(torch.isfinite(predicted).all()):
        raise FitError(
            f"`prior` must return finite noise; got NaN or infinity at t = {t.tolist()}. "
            "Check the weights, and use float32 if half precision overflows."
        )
    conditional, unconditional = predicted.to(noisy).chunk(2)
    return conditional, unconditional
