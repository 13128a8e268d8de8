"""What a device tells of itself; knows no network."""

from __future__ import annotations

import sys
import time

import torch


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
