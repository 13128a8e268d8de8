"""DDIM inversion: from clean latents up the noise levels, along the noise that a prior sees on the way.

Beside the losses that need it (SDI, ISM); knows levels and a callable that predicts noise, no prior and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.diffusion.guidance import DIVISOR_FLOOR, compose, decompose
from viewfold.errors import InputError

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents "b v c h w", their levels t "b") -> the noise in them."""


class Inverted(NamedTuple):
    """Where an inversion has come to."""

    noisy: Float[Tensor, "b v c h w"]
    """At the last level."""
    noise: Float[Tensor, "b v c h w"]
    """The prediction, at the level before, that led there."""


def levels_up_to(t: Int[Tensor, "b"], *, stride: int) -> list[Int[Tensor, "b"]]:
    """Return the levels 0, stride, 2 stride ... below t, and t itself: at least two; the host waits for t.

    An object that has reached its own t stays there while others climb on.

    Raises:
        InputError: a stride below 1.
    """
    if stride < 1:
        raise InputError(f"`stride` must be at least one level; got {stride}. Take fewer steps.")
    count = max(1, -(-int(t.max()) // stride))
    return [t.clamp_max(number * stride) for number in range(count + 1)]


@torch.no_grad()
def invert(
    start: Float[Tensor, "b v c h w"],
    levels: Sequence[Int[Tensor, "b"]],
    *,
    predict: Predict,
    alphas_cumprod: Float[Tensor, "steps"],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Inverted:
    """Climb from the first level to the last.

        x0 = (x_s - sqrt(1 - a_s) e) / sqrt(a_s)      with e = predict(x_s, s)
        x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e + eta sqrt((1 - a_s) / (1 - a_t) (1 - a_t / a_s)) z

    Source: DDIM (arXiv 2010.02502), equation 13 read upwards; the noise z as in threestudio's
    `stable_diffusion_sdi_guidance`, which takes nothing off e for it.

    Args:
        start: latents at the first level.
        levels: rising, two or more, each with a level per object.
        predict: sees the noise; called once a step.
        alphas_cumprod: the schedule.
        eta: 0 is deterministic; more adds fresh noise at each step.
        generator: of that noise.
    """
    x = noise = start
    schedule = alphas_cumprod.to(start)
    for now, then in pairwise(levels):
        noise = predict(x, now)
        a_now, a_then = schedule[now.to(x.device)], schedule[then.to(x.device)]
        x = compose(decompose(noise, x, a_now, prediction="epsilon").clean, noise, a_then)
        if eta > 0:
            variance = (1 - a_now) / (1 - a_then).clamp_min(DIVISOR_FLOOR) * (1 - a_then / a_now)
            fresh = torch.randn(x.shape, generator=generator).to(x)
            x = x + eta * variance.clamp_min(0).sqrt()[:, None, None, None, None] * fresh
    return Inverted(x, noise)
