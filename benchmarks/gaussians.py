"""Our rasteriser of 3D Gaussians against the slow one that it is held to, and against gsplat where that can run.

    python benchmarks/gaussians.py [--count 2000] [--size 64] [--views 4] [--runs 3] [--slow-count 300]

Forward, and forward with backward.  The slow one takes seconds, so it is compared on fewer Gaussians; the two draw in
turn in one process, on one thread, so that their ratio means something on a busy machine.  gsplat needs CUDA.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from viewfold.camera import Cameras
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.gaussian.cuda import draw_with_gsplat, has_gsplat
from viewfold.scene.gaussian.reference import draw_slowly
from viewfold.scene.gaussian.tiles import draw_gaussians
from viewfold.scene.rendering import Rendering

Draw = Callable[..., Rendering]


def main() -> None:
    """Print two tables of milliseconds a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="Gaussians on a ball of radius 0.35")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3, help="the median counts")
    parser.add_argument("--slow-count", type=int, default=300, help="Gaussians that the slow one is asked for")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{given.views} views of {given.size} px; milliseconds a picture")
    print("| Gaussians | device | rasteriser | forward | with backward |\n|---|---|---|---|---|")
    few = ball(given.slow_count)
    times = compare({"slow": draw_slowly, "ours": draw_gaussians}, few, given, device="cpu")
    print("ratio, slow / ours: " + ", ".join(f"{a / b:.1f}" for a, b in zip(times["slow"], times["ours"], strict=True)))
    compare({"ours": draw_gaussians}, ball(given.count), given, device="cpu")
    if not torch.cuda.is_available():
        print("gsplat: left out, it needs CUDA")
        return
    fast: dict[str, Draw] = {"ours": draw_gaussians}
    if has_gsplat():
        fast["gsplat"] = draw_with_gsplat
    else:
        print("gsplat: left out, it is not installed")
    times = compare(fast, ball(given.count), given, device="cuda")
    if "gsplat" in times:
        ratios = (a / b for a, b in zip(times["ours"], times["gsplat"], strict=True))
        print("ratio, ours / gsplat: " + ", ".join(f"{ratio:.1f}" for ratio in ratios))


def ball(count: int) -> Gaussians:
    """Return flat ones on a sphere, wide enough to cover it."""
    generator = torch.Generator().manual_seed(0)
    mean = 0.35 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    width = 0.35 * math.sqrt(4 * math.pi / count) * 0.6
    return Gaussians(
        mean=mean,
        log_scale=torch.full((count, 3), math.log(width)),
        rotation=torch.randn(count, 4, generator=generator),
        opacity_logit=torch.full((count,), 2.0),
        sh=0.5 * torch.randn(count, 1, 3, generator=generator),
    )


def compare(
    draws: dict[str, Draw], made: Gaussians, given: argparse.Namespace, *, device: str
) -> dict[str, tuple[float, float]]:
    """Print a row each, and return milliseconds forward, and forward with backward."""
    numbers = {name: value.to(device).requires_grad_() for name, value in vars(made).items()}
    there, cameras = Gaussians(**numbers), Cameras.orbit(given.views, elevation_deg=20).to(device)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in draws}
    for draw in draws.values():
        draw(there, cameras, size=8).rgb.sum().backward()
    for _ in range(given.runs):
        for name, draw in draws.items():
            started = now(device)
            drawn = draw(there, cameras, size=given.size)
            middle = now(device)
            (drawn.rgb.square().sum() + drawn.alpha.sum()).backward()
            found[name].append((middle - started, now(device) - started))
    times: dict[str, tuple[float, float]] = {}
    for name, runs in found.items():
        forward, both = (1e3 / given.views * statistics.median(column) for column in zip(*runs, strict=True))
        times[name] = forward, both
        print(f"| {len(made)} | {device} | {name} | {forward:.1f} | {both:.1f} |", flush=True)
    return times


def now(device: str) -> float:
    """Return seconds: of the processor, or of the clock once the device is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
