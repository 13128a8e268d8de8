"""Redraw pictures of a shape that is known: the object anew, its outline and what is behind it as they were.

Noise is laid on the pictures and taken off again by the network, guided by the prompt (SDEdit, Meng et al., arXiv
2108.01073): the more noise, the less is left of the colours, while shading and depth still say what is where.  Behind
the object the latents are put back at every step (RePaint, arXiv 2201.09865, algorithm 1 without its repetitions), so
that it cannot grow, shrink or turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.diffusion.sampler import draw, sampler_for
from viewfold.errors import InputError
from viewfold.pipeline.generation import describe_run
from viewfold.pipeline.multiview import MultiViewPipeline
from viewfold.views import GROUND, Views

BEHIND = 0.01
"""Latents that the object covers less than this are not drawn."""


def redraw(
    model: MultiViewPipeline,
    prompt: str,
    views: Views,
    *,
    strength: float,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    suffix: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Views:
    """Return the views as the prompt says, from the same cameras; unsigned.

    Args:
        model: what `load` returned.
        prompt: what the object is to be.
        views: pictures with alpha, of the model's size.
        strength: above 0 to 1; share of the noise levels that are gone through, 1 leaves nothing of the colours.
        seed: of the noise.
        steps: of a whole run; `strength` of them are taken.
        guidance, negative, suffix: as in `generate`; None is the model's own.
        progress: called with (steps done, steps in all).

    Returns:
        Opaque pictures, over `GROUND`.

    Raises:
        InputError: views without alpha or of another size, or a number out of range.
        PromptError, FitError: see `MultiViewPipeline.__call__`.
    """
    defaults = model.defaults
    if views.alpha is None or tuple(views.rgb.shape[-2:]) != (model.image_size,) * 2:
        raise InputError(
            f"`views` must have an alpha and {model.image_size} pixels along each side; got "
            f"{tuple(views.rgb.shape[-2:])} {'without' if views.alpha is None else 'with'} alpha."
        )
    timesteps = levels(strength, steps=defaults.steps if steps is None else steps, trained=len(model.alphas_cumprod))
    sampler = sampler_for(model.scheduler, steps=1, timesteps=timesteps, eta=0.0, device=model.device)
    with torch.no_grad():
        clean = model.encode(views.over(GROUND))[None]
    noise = draw(clean.shape[1:], [torch.Generator().manual_seed(seed)]).to(clean)
    behind = _behind(views.alpha.to(clean), size=clean.shape[-1])

    def hold(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if progress is not None:
            progress(index + 1, len(timesteps))
        last = index + 1 == len(timesteps)
        known = clean if last else sampler.add_noise(clean, noise, index + 1)
        return {"latents": torch.where(behind, known, tensors["latents"])}

    started = time.perf_counter()
    pictures = model(
        defaults.worded(prompt, defaults.suffix if suffix is None else suffix),
        views.cameras,
        negative_prompt=defaults.negative if negative is None else negative,
        timesteps=timesteps,
        guidance=defaults.guidance if guidance is None else guidance,
        seeds=seed,
        latents=sampler.add_noise(clean, noise, 0) / sampler.noise_level,
        callback_on_step_end=hold,
    )
    run = {
        "settings": {"redrawn": strength, "seed": seed, "timesteps": timesteps, "guidance": guidance},
        "scheduler": type(model.scheduler).__name__,
        "seconds": round(time.perf_counter() - started, 3),
        **describe_run(model),
    }
    return Views(rgb=pictures[0].cpu(), cameras=views.cameras.to("cpu"), prompt=prompt, run=run)


def levels(strength: float, *, steps: int, trained: int) -> list[int]:
    """Return the time steps of a run that begins at a share of the noise levels: falling, evenly spread.

    Raises:
        InputError: a strength out of range, or fewer than one step.
    """
    if not 0 < strength <= 1:
        raise InputError(f"`strength` must lie above 0, and be 1 at most; got {strength}.")
    if not 1 <= steps <= trained:
        raise InputError(f"`steps` must lie between 1 and {trained}; got {steps}.")
    count, first = max(1, round(steps * strength)), max(1, round(trained * strength) - 1)
    return sorted({round(first * (count - number) / count) for number in range(count)}, reverse=True)


def _behind(alpha: Float[Tensor, "v 1 h w"], *, size: int) -> Bool[Tensor, "1 v 1 i j"]:
    """Return which latents show nothing of the object."""
    return (interpolate(alpha, size=(size, size), mode="area") < BEHIND)[None]
