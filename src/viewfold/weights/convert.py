"""A released file becomes a diffusers folder, which every command reads; `network` and `components` read it back.

The configuration is read off the shapes; no code from a file is ever run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewfold.model.defaults import released_defaults
from viewfold.store import atomic_write, check_output, write_json
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.clip import padding
from viewfold.weights.folder import INDEX
from viewfold.weights.keymap import read_unet_layout, shapes_of
from viewfold.weights.original import split, text_encoder_from_original, unet_from_original, vae_from_original
from viewfold.weights.tokenizer import clip_tokenizer
from viewfold.weights.verbosity import quiet

SHARD_BYTES = 500 * 10**6
"""Larger networks are written as several files; bounds the memory of writing, and of reading them in another type."""

_CLASSES = {
    "unet": ("viewfold.model.unet", "MultiViewUNet"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}


def convert(
    path: str | Path,
    *,
    to: str | Path,
    head_channels: int | None = None,
    heads: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Path]:
    """Convert a released file to a diffusers folder and return the folder of each network that was written.

    A file with UNet, VAE and text tower becomes a whole model, with CLIP's tokenizer, the noise schedule and the
    original script's settings, which `load` reads; a file with less becomes what it holds.

    Args:
        path: .safetensors or PyTorch file in the original key layout: everything in one, or a bare UNet or VAE.
        to: folder to write (`unet/`, `vae/`, ...); it appears whole or not at all.
        head_channels: channels per attention head (64 for SD 2.1), or
        heads: number of attention heads (8 for SD 1.5).  Shapes do not tell: networks of the released sizes are known,
            for any other UNet one of them is needed.
        dtype: of the weights written; None keeps the file's own.

    Raises:
        WeightsError: the file is damaged, runs code, or its names and shapes do not fit; the message lists them.
        InputError: neither of `head_channels` and `heads` where one is needed, or both.
        OutputError: `to` holds something else or cannot be written.
    """
    to, parts = Path(to), split(read_checkpoint(path))
    build: dict[str, Callable[[Mapping[str, Tensor]], Any]] = {
        "unet": lambda tensors: unet_from_original(tensors, head_channels=head_channels, heads=heads),
        "vae": vae_from_original,
        "text_encoder": text_encoder_from_original,
    }
    networks = {name: build[name](parts[name]) for name in build if name in parts}
    whole = networks.keys() == build.keys()
    written = list(_CLASSES) if whole else [*networks, *(["scheduler"] if {"unet", "vae"} <= networks.keys() else [])]
    check_output(to, holds="|".join([*written, *([INDEX.replace(".", r"\.")] if whole else [])]))
    with atomic_write(to) as folder, quiet():
        folder.mkdir()
        if "scheduler" in written:
            write_scheduler(folder / "scheduler")
        if whole:
            clip_tokenizer(pad=padding(parts["text_encoder"])).save_pretrained(folder / "tokenizer")
            _write_index(folder / INDEX, parts["unet"], head_channels=head_channels, heads=heads)
        for name in list(networks):
            network = networks.pop(name)  # one at a time in memory; what is not changed stays in the file
            if dtype is not None:
                torch.nn.Module.to(network, dtype)  # in place, past diffusers' warning
            network.save_pretrained(folder / name, max_shard_size=SHARD_BYTES)
    return {name: to / name for name in build if name in parts}


def _write_index(path: Path, unet: Mapping[str, Tensor], **heads: int | None) -> None:
    """Write what makes the parts a model that `load` reads, with the original script's settings for a released one."""
    from diffusers import __version__

    defaults = released_defaults(read_unet_layout(shapes_of(unet), **heads))
    index = {"_class_name": "MultiViewPipeline", "_diffusers_version": __version__, **_CLASSES, **asdict(defaults)}
    write_json(path, index, indent=2)


def write_scheduler(folder: Path) -> None:
    """Write the original's noise schedule: ldm's "linear" is diffusers' "scaled_linear"."""
    from diffusers import DDIMScheduler

    DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder)
