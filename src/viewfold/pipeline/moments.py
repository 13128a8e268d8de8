"""The units of a model's latents, and mean and log variance of what its autoencoder makes of pictures, in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from viewfold.pipeline.multiview import MultiViewPipeline


def normalise(latents: Float[Tensor, "b c i j"], vae: Any) -> Float[Tensor, "b c i j"]:
    """Return an autoencoder's latents as networks see them: (latents - shift) scale."""
    scale, shift = _units(vae)
    return (latents - shift) * scale


def denormalise(latents: Float[Tensor, "b c i j"], vae: Any) -> Float[Tensor, "b c i j"]:
    """Return the latents of networks as their autoencoder sees them: latents / scale + shift."""
    scale, shift = _units(vae)
    return latents / scale + shift


@torch.no_grad()
def encode_moments(model: MultiViewPipeline, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 c i j"]:
    """Return mean and log variance of the posterior of sRGB pictures in [0, 1], float32.

    `MultiViewPipeline.encode` gives the same mean, and with a generator samples of the same posterior:

        mean' = scale (mean - shift),   logvar' = logvar + 2 log scale
    """
    vae = model.vae
    posterior = vae.encode((images * 2 - 1).to(next(vae.parameters()).device, vae.dtype)).latent_dist
    scale, shift = _units(vae)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return torch.stack([(mean - shift) * scale, logvar + 2 * math.log(scale)], dim=1)


def _units(vae: Any) -> tuple[float, float]:
    """Return scale and shift of an autoencoder."""
    return float(vae.config["scaling_factor"]), float(vae.config.get("shift_factor") or 0.0)
