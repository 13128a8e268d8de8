"""Classifier-free guidance, its rescale, and the three ways to say what a network predicts.

Sampling (FLOW 1) and distillation (FLOW 2) share these pure functions.  They know tensors and the number alpha_bar of
each object, no scheduler and no network.  Throughout, x_t = sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a network predicts, in the words of diffusers: the noise, the velocity, or the clean latents."""

STD_FLOOR = 1e-8
"""Added to both standard deviations of `rescale` (as released: MVDream-threestudio's guidance)."""

DIVISOR_FLOOR = 1e-6
"""sqrt(alpha_bar) and sqrt(1 - alpha_bar) are divided by nothing smaller, so pure noise gives large, finite numbers."""


class Decomposition(NamedTuple):
    """The two parts of a noisy sample."""

    clean: Float[Tensor, "b *shape"]
    noise: Float[Tensor, "b *shape"]


def guide(
    conditional: Float[Tensor, "b *shape"], unconditional: Float[Tensor, "b *shape"], *, scale: float
) -> Float[Tensor, "b *shape"]:
    """Move from the unconditional prediction through the conditional one, `scale` times the way.

        guided = unconditional + scale (conditional - unconditional)

    Scale 1 is the conditional prediction, 0 the unconditional one.  Source: Ho and Salimans (arXiv 2207.12598),
    equation 6, in Stable Diffusion's counting.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(
    guided: Float[Tensor, "b *shape"], conditional: Float[Tensor, "b *shape"], *, strength: float
) -> Float[Tensor, "b *shape"]:
    """Give the guided prediction back the contrast of the conditional one, `strength` (0 to 1) of the way.

        rescaled = strength guided std(conditional) / std(guided) + (1 - strength) guided

    The factor is one number per object: the ratio of unbiased standard deviations over all of its views, channels and
    pixels, so that views keep their brightness against each other.  Source: Lin et al. (arXiv 2305.08891), equations
    15 and 16; axes, correction and floor as MVDream's distillation has them.

    Raises:
        InputError: `strength` outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"`rescale` must lie between 0 and 1; got {strength}.")
    if strength == 0:
        return guided
    over = tuple(range(1, guided.ndim))
    factor = (conditional.std(over, keepdim=True) + STD_FLOOR) / (guided.std(over, keepdim=True) + STD_FLOOR)
    return strength * guided * factor + (1 - strength) * guided


def decompose(
    predicted: Float[Tensor, "b *shape"],
    noisy: Float[Tensor, "b *shape"],
    alpha_bar: Float[Tensor, "#b"],
    *,
    prediction: Prediction | str,
) -> Decomposition:
    """Split noisy samples into the clean part and the noise that a prediction implies.

    With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), x_t = a clean + s noise, so

        epsilon        clean = (x_t - s epsilon) / a        noise = epsilon
        v_prediction   clean = a x_t - s v                  noise = s x_t + a v
        sample         clean = x_0                          noise = (x_t - a x_0) / s

    A velocity v = a noise - s clean needs no division (Salimans and Ho, arXiv
    2202.00512, appendix D).  The other two divide by a number that vanishes at one end of the schedule; it is held at
    `DIVISOR_FLOOR`, so pure noise (alpha_bar 0) stays finite, though a noise prediction says nothing about it.

    Raises:
        InputError: an unknown `prediction`.
    """
    signal, sigma = _levels(alpha_bar, noisy)
    match prediction:
        case "epsilon":
            return Decomposition((noisy - sigma * predicted) / signal.clamp_min(DIVISOR_FLOOR), predicted)
        case "v_prediction":
            return Decomposition(signal * noisy - sigma * predicted, signal * predicted + sigma * noisy)
        case "sample":
            return Decomposition(predicted, (noisy - signal * predicted) / sigma.clamp_min(DIVISOR_FLOOR))
        case _:
            raise InputError(f"`prediction` must be one of {', '.join(get_args(Prediction))}; got '{prediction}'.")


def compose(
    clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], alpha_bar: Float[Tensor, "#b"]
) -> Float[Tensor, "b *shape"]:
    """Return x_t = sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise; alpha_bar 1 is clean, 0 is noise alone."""
    signal, sigma = _levels(alpha_bar, clean)
    return signal * clean + sigma * noise


def velocity(
    clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], alpha_bar: Float[Tensor, "#b"]
) -> Float[Tensor, "b *shape"]:
    """Return v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean: what a v-predicting network learns to predict."""
    signal, sigma = _levels(alpha_bar, clean)
    return signal * noise - sigma * clean


def _levels(alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply `like`."""
    alpha_bar = alpha_bar.to(like).reshape(-1, *[1] * (like.ndim - 1))
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
