"""CPU seconds of one call of the full-size network: ours in float32 and bfloat16, and the original's where installed.

    python benchmarks/full_size.py [--repeats 3]

The SD 2.1 layout (867.57 M parameters), random weights, four views of 32x32 latents, 77 text tokens, no guidance, one
thread; the median of the repeats.  CPU seconds, because they mean the same on a busy machine.  Needs 5 GiB.
Targets: float32 at most 13 s (the original: 14.5 s), bfloat16 at most 0.65 of our float32.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from viewfold.model.presets import MVDREAM_SD21

N_VIEWS, SIZE, N_TOKENS = 4, 32, 77


def fill(network: nn.Module) -> nn.Module:
    """Give a network that was built on the meta device small random weights (norms: one), quickly."""
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                bound = math.sqrt(1 / parameter[0].numel())
                parameter.uniform_(-bound, bound)
    return network.eval()


def cpu_seconds(call: Callable[[], Tensor], repeats: int) -> float:
    """Return the median CPU time of a call, after one that warms up."""
    times = []
    with torch.inference_mode():
        assert bool(torch.isfinite(call()).all())
        for _ in range(repeats):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return statistics.median(times)


def time_ours(dtype: torch.dtype, repeats: int) -> float:
    with torch.device("meta"):
        unet = MVDREAM_SD21.build()
    unet = fill(nn.Module.to(unet, dtype))  # past diffusers' own `to`, which warns without cause
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, N_VIEWS, 4, SIZE, SIZE, generator=generator).to(dtype)
    text = torch.randn(1, N_TOKENS, MVDREAM_SD21.text_dim, generator=generator).to(dtype)
    cameras = torch.randn(1, N_VIEWS, 16, generator=generator).to(dtype)
    return cpu_seconds(lambda: unet(latents, 500, text, cameras), repeats)


def time_original(repeats: int) -> float:
    """Time bytedance/MVDream's network with the arguments of its own `sd-v2-base.yaml`."""
    from mvdream.ldm.modules.diffusionmodules.openaimodel import (  # type: ignore[import-not-found]
        MultiViewUNetModel,
    )

    with torch.device("meta"):
        unet = MultiViewUNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            attention_resolutions=[4, 2, 1],
            num_res_blocks=2,
            channel_mult=[1, 2, 4, 4],
            num_head_channels=64,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            transformer_depth=1,
            context_dim=1024,
            use_checkpoint=False,
            legacy=False,
            camera_dim=16,
        )
    unet = fill(unet)
    latents, text = torch.randn(N_VIEWS, 4, SIZE, SIZE), torch.randn(N_VIEWS, N_TOKENS, 1024)
    steps, cameras = torch.full((N_VIEWS,), 500), torch.randn(N_VIEWS, 16)
    return cpu_seconds(lambda: unet(latents, steps, context=text, camera=cameras, num_frames=N_VIEWS), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    bfloat16 = time_ours(torch.bfloat16, repeats)
    gc.collect()
    float32 = time_ours(torch.float32, repeats)
    gc.collect()
    print(f"viewfold float32   {float32:6.2f} CPU-s   target 13.00")
    print(f"viewfold bfloat16  {bfloat16:6.2f} CPU-s   {bfloat16 / float32:.2f} of float32, target 0.65")
    print(f"peak memory        {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:6.2f} GiB")
    if importlib.util.find_spec("mvdream") is None:
        print("the original       not installed; 14.5 CPU-s when it was measured (torch 2.13.0, float32)")
    else:
        print(f"the original       {time_original(repeats):6.2f} CPU-s")


if __name__ == "__main__":
    main()
