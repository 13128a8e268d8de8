"""What one training step minimises: the mixed 2D/3D objective of MVDream, as pure functions.

    L_MV = E || target - prediction(x_t; text, cameras, t) ||^2                      (arXiv 2308.16512, equation 1)

over two kinds of samples: objects, all views noised to the same t and seen together with their cameras, and single
pictures with neither cameras nor a second view (the 2D mode).  Knows no files and no optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import Prediction, compose, velocity
from viewfold.errors import InputError

Network = Callable[[Tensor, Tensor, Any, Cameras | None], Tensor]
"""(latents b v c h w, timesteps b, condition of b prompts, cameras or None) -> prediction b v c h w

`viewfold.model.backbone.Backbone` says more; the condition is its own, and passes through unread.
"""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """The terms of the objective."""

    prediction: Prediction = "v_prediction"
    share_2d: float = 0.3
    """Share of single pictures among the samples (MVDream: 0.3)."""
    drop_text: float = 0.1
    """Share of samples whose text is replaced by the empty prompt, for guidance."""
    snr_cap: float | None = 5.0
    """Cap of the signal-to-noise ratio in the weights (min-SNR, arXiv 2303.09556); None weighs all steps alike."""
    timestep_bias: float = 0.0
    """Time steps t are drawn with a density that grows as t to this power: 0 draws all alike, more draws noisy ones,
    at which colours and layout are decided, more often."""

    def __post_init__(self) -> None:
        if not 0 <= self.timestep_bias < float("inf"):
            raise InputError(f"`timestep_bias` must be a finite number of at least 0; got {self.timestep_bias}.")


def loss_weight(alpha_bar: Float[Tensor, "b"], settings: ObjectiveSettings) -> Float[Tensor, "b"]:
    """Return the weight of each sample's squared error, after min-SNR-gamma (arXiv 2303.09556, section 3.4).

    With SNR = alpha_bar / (1 - alpha_bar):

        sample         min(SNR, cap)
        epsilon        min(SNR, cap) / SNR
        v_prediction   (min(SNR, cap) + 1) / (SNR + 1)          the paper: min(SNR, cap) / (SNR + 1)

    The paper's form for v vanishes with the SNR, where a schedule that ends in pure noise has the layout of the object
    decided (docs/training.md: kinds were confused for 40,000 objects).
    """
    if settings.snr_cap is None:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8)
    capped = snr.clamp(max=settings.snr_cap)
    match settings.prediction:
        case "epsilon":
            return capped / snr.clamp(min=1e-8)
        case "v_prediction":
            return (capped + 1) / (snr + 1)
        case "sample":
            return capped


def diffusion_loss(
    network: Network,
    latents: Float[Tensor, "b v c h w"],
    condition: Any,
    cameras: Cameras | None,
    *,
    alphas_cumprod: Float[Tensor, "t"],
    settings: ObjectiveSettings,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the weighted denoising error of clean latents, one time step per object.

        mean over i of weight(alpha_bar_i) mean |target_i - prediction(x_t_i, t_i)|^2
        t_i = floor(T ((i + u_i) / b)^(1 / (1 + timestep_bias)))

    with u_i uniform in [0, 1): time steps are stratified over the batch, together they cover the schedule, evenly where
    there is no bias.
    """
    n_samples, n_steps = len(latents), len(alphas_cumprod)
    strata = (torch.arange(n_samples) + torch.rand(n_samples, generator=generator)) / n_samples
    strata = strata ** (1 / (1 + settings.timestep_bias))
    timesteps = (strata * n_steps).long().clamp(max=n_steps - 1).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    alpha_bar = alphas_cumprod.to(latents.device)[timesteps]
    match settings.prediction:
        case "epsilon":
            target = noise
        case "v_prediction":
            target = velocity(latents, noise, alpha_bar)
        case "sample":
            target = latents
    predicted = network(compose(latents, noise, alpha_bar), timesteps, condition, cameras)
    error = (predicted.float() - target.float()).square().flatten(1).mean(dim=1)
    return (error * loss_weight(alpha_bar, settings)).mean()


def drop(n_samples: int, share: float, generator: torch.Generator) -> Bool[Tensor, "b"]:
    """Choose which samples lose their text."""
    return torch.rand(n_samples, generator=generator) < share


def n_pictures(n_objects: int, share_2d: float) -> int:
    """Return how many single pictures make up `share_2d` of all samples beside `n` objects: n share / (1 - share)."""
    return round(n_objects * share_2d / (1 - share_2d))
