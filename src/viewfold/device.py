"""Compute devices: which there are, the peak memory of one and its speed; knows no network."""

from __future__ import annotations

import sys
import time

import torch

from viewfold.errors import InputError


def best_device() -> torch.device:
    """Return the device that the flows choose by themselves: the first GPU, Apple's, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_device(name: torch.device | str | None) -> torch.device:
    """Return the device of that name, or the best one for None; one that is not there is refused.

    Raises:
        InputError: no such kind of device, or none of that number on this machine.
    """
    if name is None:
        return best_device()
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"`device` must be cpu, cuda, cuda:0, ... or mps; got '{name}'.") from error
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cuda": (wanted.index or 0) < cuda, "mps": torch.backends.mps.is_available()}.get(wanted.type, True)
    if not there:
        raise InputError(
            f"`device` must be one that PyTorch finds on this machine; got '{name}', which it does not. "
            "Leave it out to take the best one, or install PyTorch for your GPU."
        )
    return wanted


def has_native_bfloat16(device: torch.device | str) -> bool:
    """Return whether a device computes in bfloat16; one that emulates it takes many times as long as in float32.

    False on MPS, where it was not measured.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"))


def peak_memory_mib(device: torch.device | str = "cpu") -> int | None:
    """Return the most memory that was held, in MiB: of a GPU, or of this process; None where nobody says (Windows)."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(device) // 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def matmul_flops(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.1) -> float:
    """Return the FLOP/s that a large matrix product reaches here: what a training step is measured against.

    Measured, not read off a table of cards: it holds for any device, clock and number of threads.
    """
    device = torch.device(device)
    edge = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        started = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the device
        best = max(best, 2 * edge**3 / (time.perf_counter() - started))
    return best
