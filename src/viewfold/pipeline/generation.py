"""The two verbs of FLOW 1: load a model, generate views of a prompt with a record of how they were made."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.device import find_device, peak_memory_mib
from viewfold.errors import PromptError
from viewfold.label import Made
from viewfold.model.defaults import Defaults
from viewfold.model.weights_hash import weights_hash
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline.anchors import FRESH_NOISE, around
from viewfold.pipeline.hook import OriginHook
from viewfold.pipeline.multiview import MultiViewPipeline
from viewfold.pipeline.placement import Placement, check_placement, default_dtype, place, warn_of_slow
from viewfold.views import Views
from viewfold.weights.location import find_model

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and of all steps."""

Show = Callable[[int, int, Float[Tensor, "v 3 h w"]], None]
"""Called after a step with the steps done, all steps, and the views as they are, in [0, 1] and on the CPU."""

SHOW_EVERY_S = 0.3
"""Between two looks at views that are being drawn: each is a pass of the decoder."""


def load(
    name: str | Path = "toybox",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    placement: Placement | None = None,
) -> MultiViewPipeline:
    """Load a model: the shipped "toybox", a converted "mvdream-sd21" or "mvdream-sd15", a folder, or a released file.

    Args:
        name: a name, a folder with model_index.json, or a .pt, .ckpt or .safetensors file in the original layout,
            which is converted once and kept beside the installed models (docs/weights.md).
        device: None takes the GPU where there is one.
        dtype: of the networks; None is float32, and bfloat16 for large ones where the device computes in it.
        placement: settings that save memory or time; None for none.

    Raises:
        WeightsError: an unknown name, or files that are missing, damaged or do not fit.
        InputError: a device that this machine does not have, or `placement` settings that it cannot follow.
        MissingExtraError: a package or compiler that `placement` needs.
    """
    device, placement = find_device(device), placement or Placement()
    check_placement(placement, device=device)
    folder = find_model(str(name))
    dtype = dtype or default_dtype(folder, device=device)
    warn_of_slow(dtype, device=device)
    pipeline = MultiViewPipeline.from_pretrained(folder, torch_dtype=dtype)
    place(pipeline, placement, device=device)
    pipeline.register_to_config(_name_or_path=Path(name).name)
    return pipeline


def generate(
    model: MultiViewPipeline,
    prompt: str,
    *,
    cameras: Cameras | None = None,
    given: Views | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    rescale: float = 0.0,
    negative: str | None = None,
    suffix: str | None = None,
    timesteps: Sequence[int] | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Progress | None = None,
    previews: Show | None = None,
) -> Views:
    """Sample views of a prompt and note how they were made.

    Args:
        model: what `load` returned.
        prompt: what to make.
        cameras: None stands for four around the object, from where the model's own script looks.
        given: views of the object to draw the others around; see Returns.
        seed, steps, guidance, rescale, negative, timesteps: see `MultiViewPipeline.__call__`; `steps`, `guidance` and
            `negative` are the model's own (`model.defaults`) where they are None.
        suffix: words that follow the prompt; None takes the model's own (", 3d asset" for MVDream's), "" none.
        origin: asked about the prompt before, and given the views to sign after; the default refuses some prompts, and
            says in every file that a model made it (docs/weights.md).  None asks nobody and says nothing.
        progress: called after each step.
        previews: called with the views as they stand, noise and all, every `SHOW_EVERY_S`; they come out the same.

    Returns:
        The views; `run` holds the settings, the versions, the weights' hash, seconds, peak memory, warnings about the
        prompt (words that the model does not know, text that was cut), and what `origin` adds: the record of
        provenance that their files will carry.  Given views are kept pixel for pixel (at the model's size, on grey):
        in place where they stand at one of the cameras, otherwise in front of all others.

    Raises:
        InputError, PromptError, FitError: as `MultiViewPipeline.__call__`; PromptError also when `origin` refuses.
    """
    if origin is not None:
        origin.check_prompt(prompt)
    defaults = model.defaults
    cameras = orbit(defaults) if cameras is None else cameras
    steps = defaults.steps if steps is None else steps
    guidance = defaults.guidance if guidance is None else guidance
    negative = defaults.negative if negative is None else negative
    suffix = defaults.suffix if suffix is None else suffix
    anchors = None
    if given is not None:
        anchors, cameras = around(given, cameras, encode=model.encode, size=model.image_size)
    total = steps if timesteps is None else len(timesteps)
    settings = {
        "given": None if anchors is None else list(anchors.places),
        "seed": seed,
        "steps": total,
        "timesteps": None if timesteps is None else list(timesteps),
        "guidance": guidance,
        "rescale": rescale,
        "negative": negative,
        "suffix": suffix,
    }

    shown = started = time.perf_counter()

    def report(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> None:
        nonlocal shown
        if progress is not None:
            progress(index + 1, total)
        if previews is not None and index + 1 < total and time.perf_counter() - shown >= SHOW_EVERY_S:
            previews(index + 1, total, model.decode(tensors["latents"][0]).cpu())
            shown = time.perf_counter()

    pictures = model(
        defaults.worded(prompt, suffix),
        cameras,
        negative_prompt=negative,
        steps=steps,
        timesteps=timesteps,
        guidance=guidance,
        rescale=rescale,
        seeds=seed,
        anchors=anchors,
        eta=0.0 if anchors is None else FRESH_NOISE,
        callback_on_step_end=report,
    )
    run = {
        "settings": settings,
        "warnings": model.text.check(prompt) + _doubts(model, negative),
        "scheduler": type(model.scheduler).__name__,
        "seconds": round(time.perf_counter() - started, 3),
        **describe_run(model),
    }
    views = Views(rgb=pictures[0].cpu(), cameras=cameras, prompt=prompt, run=run)
    return views if origin is None else origin.sign(views, made_by(model, prompt, seed=seed, given=settings["given"]))


def made_by(model: MultiViewPipeline, prompt: str, *, seed: int, given: Sequence[int] | None = None) -> Made:
    """Return what a model knows of what it makes; `given` are the places of the views that it does not draw."""
    return Made(
        model=str(model.config.get("_name_or_path") or "unnamed"),
        weights_sha256=weights_hash(model),
        prompt=prompt,
        seed=seed,
        given=tuple(given or ()),
        watermark=bool(model.config.get("watermark", False)),
    )


def orbit(defaults: Defaults, *, n_views: int = 4) -> Cameras:
    """Return the cameras that a model draws from when none are asked for."""
    return Cameras.orbit(n_views, elevation_deg=defaults.elevation_deg, azimuth_deg=defaults.azimuth_deg)


def _doubts(model: MultiViewPipeline, negative: str) -> list[str]:
    """Return what to know about a negative prompt; one that says nothing is allowed."""
    try:
        return [f"negative prompt: {note}" for note in model.text.check(negative)] if negative.strip() else []
    except PromptError:
        return ["the negative prompt says nothing to the model"]


def describe_run(model: MultiViewPipeline) -> dict[str, Any]:
    """Return what a result's record says about the model and the machine."""
    return {
        "weights_sha256": weights_hash(model),
        **({"lora": list(model.loras)} if model.loras else {}),
        "device": str(model._execution_device),
        "dtype": str(model.unet.dtype).removeprefix("torch."),
        "placement": dataclasses.asdict(getattr(model, "placement", Placement())),
        "peak_memory_mib": peak_memory_mib(model._execution_device),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            "viewfold": sys.modules["viewfold"].__version__,
        },
    }
