"""What it cost that processes began from different weights: an autoencoder on two processes, both ways.

    torchrun --nproc-per-node 2 benchmarks/unequal_starts.py --shards runs/toybox/objects [--seeds 1 2 3]

Until the loop gave all processes rank 0's weights, each began from its own, took the same averaged gradients, and rank
0's network was the result.  Here both ways take the same steps on the same pictures; what is printed is the PSNR, mean
over held-out pictures, of rank 0's network.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, distributed

from viewfold.data.shards import open_shards
from viewfold.evaluation.report import markdown_table
from viewfold.training.autoencoder import AutoencoderSettings, make_autoencoder, reconstruction_loss
from viewfold.training.optimizer import Optimizer
from viewfold.training.ranks import Ranks
from viewfold.training.settings import LoopSettings, learning_rate

HELD_OUT = 320


def main() -> None:
    """Train both ways for each seed, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Ranks.join() as ranks:
        if ranks.world < 2:
            parser.error("start it with torchrun --nproc-per-node 2")
        pictures = torch.cat([sample.pictures() for sample in open_shards(options.shards)]) * 2 - 1
        rows = []
        for seed in options.seeds:
            pair = [train(pictures, ranks, seed, steps=options.steps, equal=equal) for equal in (True, False)]
            rows.append([seed, *pair, pair[0] - pair[1]])
            if ranks.lead:
                print(f"seed {seed}: equal {pair[0]:.2f} dB, different {pair[1]:.2f} dB", flush=True)
        means = ["mean", *(statistics.mean(column) for column in list(zip(*rows, strict=True))[1:])]
        if ranks.lead:
            shown = [[str(name), *(f"{value:.2f}" for value in values)] for name, *values in [*rows, means]]
            print(markdown_table(["seed", "equal weights, dB", "different weights, dB", "difference"], shown))


def train(pictures: Tensor, ranks: Ranks, seed: int, *, steps: int, equal: bool) -> float:
    """Return the PSNR of rank 0's network after training with averaged gradients from equal or different weights."""
    settings = AutoencoderSettings(batch=8)
    loop = LoopSettings(steps=steps, lr=1.5e-3, warmup=steps // 5, cooldown=steps // 3)
    vae = make_autoencoder(settings, image_size=pictures.shape[-1], seed=seed if equal else 1000 * seed + ranks.rank)
    vae = vae.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = Optimizer(vae, "muon", beta2=0.99, weight_decay=0.0)
    generator = torch.Generator().manual_seed(10 * seed + ranks.rank)
    for step in range(steps):
        target = pictures[torch.randint(HELD_OUT, len(pictures), (settings.batch,), generator=generator)]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target, return_dict=False)[0]
            noise = torch.randn(posterior.mean.shape, generator=generator)
            output = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        vae.zero_grad()
        reconstruction_loss(output, target, edges=settings.edges).backward()
        for parameter in vae.parameters():
            distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks.world  # pyright: ignore[reportOptionalOperand]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(learning_rate(step, loop))
    vae.eval()
    with torch.no_grad():
        errors = [
            (vae.decode(vae.encode(part).latent_dist.mean).sample - part).square().mean((1, 2, 3)) / 4
            for part in pictures[:HELD_OUT].split(64)
        ]
    return float((-10 * torch.cat(errors).log10()).mean())


if __name__ == "__main__":
    main()
