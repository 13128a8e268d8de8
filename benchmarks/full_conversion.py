"""Converting a released file of full size: CPU seconds and peak memory.

    python benchmarks/full_conversion.py --folder out/full-conversion [--dtype bf16]

Writes a checkpoint in the names, shapes and type of `sd-v2.1-base-4view.pt` (5.2 GB, float32, one block of random
numbers repeated), converts it in a process of its own and says what that took.  Needs 8 GB of disk.  Target: 8 GiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import torch
from torch import Tensor

from viewfold.model.presets import MVDREAM_SD21
from viewfold.weights.convert import convert
from viewfold.weights.keymap import original_name, unet_modules, vae_modules

WIDTH, N_BLOCKS, N_WORDS, LENGTH = 1024, 24, 49408, 77
"""OpenCLIP's ViT-H text tower."""

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
Shapes = dict[str, tuple[int, ...]]


def text_shapes() -> Shapes:
    """Return the names and shapes of the text tower."""
    inner = 4 * WIDTH
    norm = {"weight": (WIDTH,), "bias": (WIDTH,)}
    layers = {
        "ln_1": norm,
        "ln_2": norm,
        "attn": {"in_proj_weight": (3 * WIDTH, WIDTH), "in_proj_bias": (3 * WIDTH,)},
        "attn.out_proj": {"weight": (WIDTH, WIDTH), "bias": (WIDTH,)},
        "mlp.c_fc": {"weight": (inner, WIDTH), "bias": (inner,)},
        "mlp.c_proj": {"weight": (WIDTH, inner), "bias": (WIDTH,)},
    }
    return {
        "token_embedding.weight": (N_WORDS, WIDTH),
        "positional_embedding": (LENGTH, WIDTH),
        **{f"ln_final.{name}": shape for name, shape in norm.items()},
        "text_projection": (WIDTH, WIDTH),
        "logit_scale": (),
        "attn_mask": (LENGTH, LENGTH),
        **{
            f"transformer.resblocks.{i}.{layer}.{name}": shape
            for i in range(N_BLOCKS)
            for layer, tensors in layers.items()
            for name, shape in tensors.items()
        },
    }


def network_shapes() -> tuple[Shapes, Shapes]:
    """Return the original's names and shapes of the UNet and the VAE."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        unet, vae = MVDREAM_SD21.build().state_dict(), AutoencoderKL(**VAE).state_dict()  # type: ignore[arg-type]
    maps = unet_modules(MVDREAM_SD21), vae_modules(VAE)
    found = [
        {original_name(name, modules): tuple(tensor.shape) for name, tensor in state.items()}
        for state, modules in zip((unet, vae), maps, strict=True)
    ]
    squares = [n for n in found[1] if ".mid.attn_1." in n and n.endswith("weight") and "norm" not in n]
    return found[0], {**found[1], **{name: (*found[1][name], 1, 1) for name in squares}}


def make_file(path: str) -> None:
    """Write the checkpoint."""
    block = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))

    def tensor(shape: tuple[int, ...]) -> Tensor:
        n = torch.Size(shape).numel()
        return block.repeat(-(-n // len(block)))[:n].reshape(shape).clone()

    unet, vae = network_shapes()
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vae, "cond_stage_model.model.": text_shapes()}
    tensors = {prefix + name: tensor(shape) for prefix, shapes in parts.items() for name, shape in shapes.items()}
    tensors["betas"] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.save(tensors, path)


def measure(path: str, folder: str, dtype: str, found: multiprocessing.Queue[tuple[float, float]]) -> None:
    """Convert, and put CPU seconds and peak memory in GiB."""
    torch.set_num_threads(1)
    start = time.process_time()
    convert(path, to=folder, dtype={"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[dtype])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found.put((time.process_time() - start, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/full-conversion"))
    parser.add_argument("--dtype", choices=["bf16", "fp16", "fp32"], default="bf16")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file, context = options.folder / "sd-v2.1-base-4view.pt", multiprocessing.get_context("spawn")
    if not file.is_file():
        maker = context.Process(target=make_file, args=(f"{file}",))
        maker.start()
        maker.join()
    found = context.Queue()
    process = context.Process(target=measure, args=(f"{file}", f"{options.folder / 'model'}", options.dtype, found))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the conversion failed")
    seconds, peak = found.get()
    written = sum(path.stat().st_size for path in (options.folder / "model").rglob("*") if path.is_file())
    print(f"{file.stat().st_size / 1e9:.2f} GB -> {written / 1e9:.2f} GB {options.dtype}: {seconds:.1f} CPU-s")
    print(f"peak memory {peak:.2f} GiB, the mapped file counted (target 8)")


if __name__ == "__main__":
    main()
