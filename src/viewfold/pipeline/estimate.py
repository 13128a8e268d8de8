"""Estimate the memory and time of a model on this machine, for each way to load it, before its weights are read.

Beside `load`, for the doctor.  The networks are built without storage from their configurations and run once on
tensors without storage: operations and live bytes are counted, not guessed.  Time follows from the measured speed of
one matrix product.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewfold.camera import Cameras
from viewfold.errors import WeightsError
from viewfold.pipeline.multiview import PIXELS_AT_ONCE
from viewfold.pipeline.placement import Placement
from viewfold.weights.components import read_classes
from viewfold.weights.folder import build

PROCESS_BYTES = 0.45 * 2**30
"""Python with torch, diffusers and transformers: 0.42 to 0.46 GiB (Linux, CPU build)."""

SCRATCH = 1.25
"""Memory taken to live tensors: convolutions reorder their inputs, and freed blocks do not always fit what is next."""

EFFICIENCY = {torch.float32: 0.95, torch.bfloat16: 0.7, torch.float16: 0.7}
"""Speed of the full-size UNet to that of a product of matrices, on one core (docs/weights.md); no GPU was measured."""

OVERHEAD = 20e-6
"""Seconds that each operation takes however small it is; they are most of a small network's time."""

EDGE = 1024


@dataclass(frozen=True, kw_only=True)
class Work:
    """What drawing with a model takes on any machine."""

    parameters: dict[str, int]
    """Numbers in each network."""
    linear: int
    """Those in the UNet's linear layers, which can be kept in 8 bits."""
    largest_file: dict[str, int]
    """Bytes of the largest file of each network."""
    stored_widths: dict[str, float]
    """Bytes a number in the files of each network."""
    step_flop: float
    """Operations of a sampling step with guidance."""
    decode_flop: float
    """Operations of decoding all views."""
    step_calls: int
    """Single operations of a step."""
    step_numbers: int
    """Numbers alive at once in a step, beyond the weights."""
    decode_numbers: int
    """Those in decoding."""


def count_work(folder: Path, *, n_views: int = 4) -> Work:
    """Count what a model's configuration asks for; its files are measured, not read.

    Raises:
        WeightsError: the folder is no model's, or a configuration describes no network.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    kinds = read_classes(folder)
    cameras = Cameras.orbit(n_views)  # real ones: they are looked at as they are made
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"), torch.no_grad():
        networks = {part: _build(kind, folder / part) for part, kind in kinds.items()}
        unet, vae = networks["unet"], networks["vae"]
        size = unet.config["sample_size"]
        if not isinstance(size, int):  # the community port's folders: the original's names, which say nothing here
            raise WeightsError(f"`{folder / 'unet'}` must give `sample_size` in its config.json; got {size!r}.")
        inputs = unet.example_inputs(2, cameras)
        step_flop, step_numbers, step_calls = _count(lambda: unet(*inputs), unet)
        shrink = 2 ** (len(vae.config["block_out_channels"]) - 1)
        at_once = min(n_views, max(1, PIXELS_AT_ONCE // (size * shrink) ** 2))
        decode_flop, decode_numbers, _ = _count(lambda: vae.decode(inputs[0][0, :at_once]), vae)
    files = {part: [file.stat().st_size for file in (folder / part).glob("*.safetensors")] for part in networks}
    parameters = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    return Work(
        parameters=parameters,
        linear=sum(m.weight.numel() for m in unet.modules() if isinstance(m, nn.Linear)),
        largest_file={part: max(sizes, default=0) for part, sizes in files.items()},
        stored_widths={part: sum(files[part]) / parameters[part] for part in networks},
        step_flop=step_flop,
        decode_flop=decode_flop * n_views / at_once,
        step_calls=step_calls,
        step_numbers=step_numbers,
        decode_numbers=decode_numbers,
    )


def estimate_bytes(work: Work, dtype: torch.dtype) -> float:
    """Return the peak memory of loading and drawing on a CPU, the text network released.

    Files that hold the very type are mapped and not copied; others are copied a file at a time.
    """
    held = _held(work, dtype)
    copied = [work.largest_file[part] for part in held if abs(work.stored_widths[part] - dtype.itemsize) > 0.5]
    loading = sum(held.values()) + max(copied, default=0)
    return PROCESS_BYTES + max(loading, held["unet"] + held["vae"] + _alive(work, dtype))


def estimate_gpu_bytes(work: Work, dtype: torch.dtype, placement: Placement) -> float:
    """Return the peak of a GPU's memory, which networks and what they make; never compared with a real one."""
    held = _held(work, dtype)
    if placement.int8:
        held["unet"] -= work.linear * (dtype.itemsize - 1)
    match placement.offload:
        case "none":
            return max(sum(held.values()), held["unet"] + held["vae"] + _alive(work, dtype))
        case "model":
            return max(held["text_encoder"], max(held["unet"], held["vae"]) + _alive(work, dtype))
        case "sequential":
            return max(held["text_encoder"], _alive(work, dtype))


def _held(work: Work, dtype: torch.dtype) -> dict[str, float]:
    """Return the bytes of each network's weights."""
    widths = {"vae": 4 if dtype == torch.float16 else dtype.itemsize}
    return {part: n * widths.get(part, dtype.itemsize) for part, n in work.parameters.items()}


def _alive(work: Work, dtype: torch.dtype) -> float:
    """Return the bytes beside the weights in a step or in decoding, whichever is more."""
    vae_width = 4 if dtype == torch.float16 else dtype.itemsize
    return SCRATCH * max(work.step_numbers * dtype.itemsize, work.decode_numbers * vae_width)


def estimate_seconds(work: Work, dtype: torch.dtype, *, device: torch.device, steps: int) -> float:
    """Return the time to draw, from the speed of one product of matrices now, on as many threads as torch uses."""
    speed = matrix_speed(dtype, device=device) * EFFICIENCY[dtype]
    return steps * (work.step_flop / speed + work.step_calls * OVERHEAD) + work.decode_flop / speed


def matrix_speed(dtype: torch.dtype, *, device: torch.device, repeats: int = 3) -> float:
    """Return operations a second of a product of square matrices: the best of a few, about a tenth of a second."""
    left = torch.ones(EDGE, EDGE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * EDGE**3 / best


def _build(kind: Any, folder: Path) -> Any:
    try:
        return build(kind, folder).eval()
    except Exception as error:  # what a damaged or hostile configuration raises within the libraries is not bounded
        raise WeightsError(f"`{folder}` must describe a network; it does not: {str(error)[:160]}.") from error


def _count(call: Any, network: nn.Module) -> tuple[float, int, int]:
    """Return arithmetic operations, the most numbers alive at once beyond the network's own, and calls."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={fused: attention})
    with _Live(network) as live, counter:
        call()
    return float(counter.get_total_flops()), live.peak // 4, live.calls


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; those of the network's own weights are left out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = self.calls = 0
        own = [*network.parameters(), *network.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, key, storage.nbytes())
        return result

    def _drop(self, key: int, n_bytes: int) -> None:
        self._seen.discard(key)
        self.now -= n_bytes
