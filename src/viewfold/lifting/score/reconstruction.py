"""The x0-reconstruction loss of MVDream: pull latents to the clean ones that the prior sees in them.

One of the losses of this package; the details that the paper leaves out are those of MVDream-threestudio
(`multiview_diffusion_guidance`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import decompose
from viewfold.diffusion.guidance import rescale as contrast
from viewfold.errors import InputError
from viewfold.lifting.prior import Prior
from viewfold.lifting.score.prediction import predict


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
    seen = predict(latents, noise, prior=prior, condition=condition, cameras=cameras, t=t, guidance=guidance)
    clean = decompose(seen.guided, seen.noisy, seen.level, prediction="epsilon").clean
    reference = decompose(seen.conditional, seen.noisy, seen.level, prediction="epsilon").clean
    clean = contrast(clean, reference, strength=rescale)
    return 0.5 * (latents - clean).square().sum() / (latents.shape[0] * latents.shape[1])
