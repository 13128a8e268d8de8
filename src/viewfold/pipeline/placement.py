"""A model in less memory or time: offloading, 8-bit weights, compilation, tiling, and the default number type.

Below `load`, above the pipeline: everything is done through the pipeline's and the networks' own hooks.  No attention
slicing: it would replace the view fold, and fused attention never holds the whole matrix.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from viewfold.device import has_native_bfloat16
from viewfold.errors import InputError, MissingExtraError
from viewfold.model.weights_hash import freeze_hash

LARGE_BYTES = 256 * 2**20
"""A network whose files are larger starts in half precision where the device computes in it; toybox has 18 MiB."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How to trade time for memory, or a first slow call for faster ones; nothing here changes what is drawn much."""

    offload: Literal["none", "model", "sequential"] = "none"
    """What waits in main memory while it is not needed: nothing, whole networks, or each layer (slowest, least GPU
    memory). Needs a GPU."""
    int8: bool = False
    """Keep the linear layers' weights in 8 bits (the `int8` extra): less to keep on a GPU; pictures differ slightly."""
    compile: bool = False
    """Compile the network for its shapes: the first step takes minutes, later ones are faster. Needs a compiler."""
    channels_last: bool = False
    """Store pictures pixel by pixel, which convolutions in half precision on a GPU prefer."""
    tiling: bool = False
    """Decode and encode large pictures in overlapping tiles."""


def place(model: Any, placement: Placement, *, device: torch.device) -> None:
    """Apply the settings to a pipeline on the CPU and place it on the device, in place.

    Raises:
        InputError: offloading without a GPU, or settings that exclude each other.
        MissingExtraError: int8 without its package, or compiling without a compiler.
    """
    check_placement(placement, device=device)
    if placement.int8:
        freeze_hash(model)
        _quantize(model)
    if placement.channels_last:
        for network in (model.unet, model.vae):
            network.to(memory_format=torch.channels_last)
    if placement.tiling:
        model.vae.enable_tiling()
    match placement.offload:
        case "none":
            model.to(device)
        case "model":
            model.enable_model_cpu_offload(device=device)
        case "sequential":
            freeze_hash(model)
            model.enable_sequential_cpu_offload(device=device)
    if placement.compile:
        model.unet.compile(dynamic=False)
    model.__dict__["placement"] = placement


def check_placement(placement: Placement, *, device: torch.device) -> None:
    """Refuse what cannot work on this device, before anything is read; see `place`."""
    if placement.offload != "none" and device.type == "cpu":
        raise InputError(
            f"`offload` must be none on a CPU, where there is no other memory to move to; got '{placement.offload}'. "
            "Leave it out, or use a `device` with memory of its own."
        )
    if placement.offload == "sequential" and (placement.int8 or placement.compile):
        other = "int8" if placement.int8 else "compile"
        raise InputError(
            f"`offload` must be none or model together with {other}; got 'sequential', which takes the layers apart."
        )
    if placement.int8 and importlib.util.find_spec("torchao") is None:
        raise MissingExtraError("`int8` must have the package torchao; it is absent. pip install 'viewfold[int8]'")
    if placement.compile and not _has_compiler(device):
        what = "triton (it comes with PyTorch for CUDA)" if device.type == "cuda" else "a C++ compiler (g++, or $CXX)"
        raise MissingExtraError(f"`compile` must have {what}; it is absent. Install it, or leave `compile` out.")


def default_dtype(folder: Path, *, device: torch.device) -> torch.dtype:
    """Return the type to compute in when none is asked for: half precision for large models where it is native.

    float32 on MPS and on CPUs without bfloat16 instructions: slower there in half precision, or not measured.
    """
    if sum(file.stat().st_size for file in (folder / "unet").glob("*.safetensors")) < LARGE_BYTES:
        return torch.float32
    if has_native_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def warn_of_slow(dtype: torch.dtype, *, device: torch.device) -> None:
    """Warn where a processor would emulate the type that was asked for."""
    if device.type != "cpu" or dtype == torch.float32 or (dtype == torch.bfloat16 and has_native_bfloat16(device)):
        return
    name = str(dtype).removeprefix("torch.")
    warnings.warn(f"{name} is emulated on this CPU and many times slower than float32.", stacklevel=3)


def _quantize(model: Any) -> None:
    """Keep linear layers in 8 bits, a scale for each row; convolutions, norms and embeddings stay as they are."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        for network in (model.text_encoder, model.unet):
            quantize_(network, Int8WeightOnlyConfig())


def _has_compiler(device: torch.device) -> bool:
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))
