"""Train the VAE on packed pictures and put together the model folder that the network is then trained in.

    [torchrun --nproc-per-node 2] recipes/autoencoder.py --shards DIR [DIR ...] --text DIR --out DIR [--minutes 20]
    [torchrun --nproc-per-node 2] recipes/autoencoder.py --shards DIR [DIR ...] --model toybox --out DIR [--decoder]

The folder OUT/base holds the VAE, a copy of the text encoder and tokenizer under --text, the scheduler and a fresh
network; or all of --model with its VAE trained further.  `viewfold pack --latents OUT/base` and `viewfold train --model
OUT/base` go on from it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch


def main() -> int:
    """Read the arguments, join the other processes, train."""
    from viewfold.device import best_device
    from viewfold.errors import Stopped
    from viewfold.training.ranks import Ranks, local_device

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="named twice counts twice")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="folder with text_encoder/ and tokenizer/: start anew")
    source.add_argument("--model", help="a name or a folder: go on with its VAE")
    parser.add_argument("--decoder", action="store_true", help="of --model: keep the encoder, so that latents stay")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=40_000, help="at most this many are held in memory")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and all that is drawn")
    parser.add_argument("--override", action="store_true", help="go on from a checkpoint of other settings")
    options = parser.parse_args()
    if options.decoder and options.model is None:
        parser.error("--decoder needs --model: a new decoder alone would have nothing to read")

    torch.set_num_threads(1)
    device = torch.device(local_device(None) or best_device())
    with Ranks.join(device) as ranks:
        try:
            train(options, device=device, lead=ranks.lead)
        except Stopped as stop:
            return stop.exit_code
    return 0


def train(options: Any, *, device: torch.device, lead: bool) -> None:
    """Train, assemble, save."""
    from viewfold.data.shards import open_shards
    from viewfold.model import defaults
    from viewfold.model.presets import TOYBOX, toybox_scheduler
    from viewfold.pipeline import MultiViewPipeline, load
    from viewfold.store import atomic_write
    from viewfold.training.autoencoder import AutoencoderSettings, make_autoencoder, train_autoencoder
    from viewfold.training.settings import LoopSettings
    from viewfold.weights.components import read_text

    pictures = [(sample.pictures() * 255).round().byte() for folder in options.shards for sample in open_shards(folder)]
    stacked = torch.cat(pictures)
    stacked = stacked[torch.randperm(len(stacked), generator=torch.Generator().manual_seed(0))[: options.pictures]]
    loop = LoopSettings(
        steps=options.steps, cooldown=int(0.35 * options.steps), minutes=options.minutes, lr=1.5e-3, warmup=100,
        ema=0.995, weight_decay=0.0, seed=options.seed,
    )  # fmt: skip
    settings = AutoencoderSettings(batch=options.batch, decoder_only=options.decoder)
    given = None if options.model is None else load(options.model, device=device, dtype=torch.float32)
    fresh = make_autoencoder(settings, image_size=stacked.shape[-1], seed=options.seed) if given is None else given.vae
    start: Any = fresh
    vae = train_autoencoder(
        stacked, options.out / "vae", loop=loop, start=start.to(device), settings=settings, override=options.override
    )
    if not lead:
        return
    if given is None:
        encoder, tokenizer = read_text(options.text)
        layout = replace(TOYBOX, latent_size=stacked.shape[-1] // 2 ** (len(vae.config["block_out_channels"]) - 1))
        torch.manual_seed(options.seed)
        model = MultiViewPipeline(
            vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=layout.build(),
            scheduler=toybox_scheduler(), **asdict(defaults.TOYBOX),
        )  # fmt: skip
    else:
        model = given
    with atomic_write(options.out / "base") as folder:
        model.save_pretrained(folder)
    print(f"{options.out / 'base'}: VAE trained on {len(stacked)} pictures")


if __name__ == "__main__":
    sys.exit(main())
