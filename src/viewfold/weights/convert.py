"""Released weights: from the original's names to diffusers folders, strictly, and back into memory.

Sits beside the pipeline, which loads whole folders; `convert` writes them from a released file, `load_unet` loads the
network alone.  The configuration is read off the shapes; no code from a file is ever run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from viewfold.errors import InputError, WeightsError
from viewfold.formats import WEIGHTS
from viewfold.model.defaults import released_defaults
from viewfold.store import atomic_write, check_output, read_json, write_json
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.clip import padding
from viewfold.weights.folder import check_folder, check_size
from viewfold.weights.keymap import read_unet_layout, refuse_image_prompt, shapes_of
from viewfold.weights.original import build_text_encoder, build_unet, build_vae, listed
from viewfold.weights.tokenizer import clip_tokenizer
from viewfold.weights.verbosity import quiet

if TYPE_CHECKING:
    from viewfold.model.unet import MultiViewUNet

ORIGINAL_PREFIXES = {"model.diffusion_model.": "unet", "first_stage_model.": "vae", "cond_stage_model.": "text_encoder"}
"""Where the original's one file keeps each network."""

INDEX = "model_index.json"

SHARD_BYTES = 500 * 10**6
"""Larger networks are written as several files; bounds the memory of writing, and of reading them in another type."""

_CLASSES = {
    "unet": ("viewfold.model.unet", "MultiViewUNet"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}
_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_",
    "posterior_",
    "logvar",
    "lvlb_weights",
    "scale_factor",
)
_MAX_CONFIG_BYTES, _MAX_LAYERS = 64 * 2**10, 16


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
        "unet": lambda tensors: build_unet(tensors, head_channels=head_channels, heads=heads),
        "vae": build_vae,
        "text_encoder": build_text_encoder,
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


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of an original file by network; the noise schedule's buffers and averaged copies are dropped."""
    refuse_image_prompt(tensors)
    parts: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in ORIGINAL_PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            parts.setdefault(ORIGINAL_PREFIXES[prefix], {})[name.removeprefix(prefix)] = tensor
        elif not name.startswith((*_SCHEDULE, "model_ema.")):
            strangers.append(name)
    if strangers and not parts:  # a bare network
        part = "vae" if any(name.startswith("encoder.") for name in strangers) else "unet"
        return {part: {name: tensors[name] for name in strangers}}
    if strangers:
        raise WeightsError(f"`path` must hold known networks only; unexpected: {listed(strangers)}.")
    return parts


def _write_index(path: Path, unet: Mapping[str, Tensor], **heads: int | None) -> None:
    """Write what makes the parts a model that `load` reads, with the original script's settings for a released one."""
    from diffusers import __version__

    defaults = released_defaults(read_unet_layout(shapes_of(unet), **heads))
    index = {"_class_name": "MultiViewPipeline", "_diffusers_version": __version__, **_CLASSES, **asdict(defaults)}
    write_json(path, index, indent=2)


def load_unet(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> MultiViewUNet:
    """Load the network of a folder (its `unet/`, or the folder itself), strictly, ready to evaluate.

    The folder may be ours, one of a plain 2D Stable Diffusion network (which then takes no cameras), or the community
    port's, which keeps the original's names.

    Raises:
        WeightsError: no such folder, an unreasonable configuration, or tensors that are missing, unexpected or damaged.
    """
    from safetensors import SafetensorError

    from viewfold.model.unet import MultiViewUNet

    folder = Path(folder)
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _read_config(folder)
    check_folder(folder)
    if "model_channels" in config:
        return _load_original(folder, config, dtype=dtype)
    camera = {name: config.get(name) for name in ("class_embed_type", "projection_class_embeddings_input_dim")}
    try:
        check_size(MultiViewUNet, folder)
        unet, info = MultiViewUNet.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **camera
        )  # type: ignore[misc]  # a pair, for output_loading_info
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise WeightsError(
            f"`folder` must hold a whole network; {folder} does not: {_first_sentence(error)}."
        ) from error
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"] or info["error_msgs"]:
        raise WeightsError(
            f"`folder` must hold weights that fit its configuration; in {folder}, "
            f"missing: {listed(info['missing_keys'])}; unexpected: {listed(info['unexpected_keys'])}; "
            f"of another shape: {listed(map(str, info['mismatched_keys']))}."
        )
    return unet.eval()


def _load_original(folder: Path, config: Mapping[str, Any], *, dtype: torch.dtype) -> MultiViewUNet:
    """Load a network whose folder keeps the original's names (ashawkey/mvdream_diffusers, `mv_unet.py`)."""
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    if len(files) != 1:
        raise WeightsError(
            f"`folder` must hold one file of weights in the original's names; {folder} has {len(files)}."
        )
    heads = {"heads": config.get("num_heads"), "head_channels": config.get("num_head_channels")}
    told = {name: n for name, n in heads.items() if isinstance(n, int) and not isinstance(n, bool) and n != -1}
    try:
        unet: Any = build_unet(read_checkpoint(files[0]), **told)
        return unet.to(dtype)
    except InputError as error:
        raise WeightsError(f"`{folder / 'config.json'}` must give the heads of its network; {error}") from error


def _first_sentence(error: Exception) -> str:
    """Return what is wrong, without the advice that diffusers adds for its own users."""
    return " ".join(str(error).split(". ")[0].split())[:300].rstrip(".")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"`folder` must hold a network's config.json; got {folder}, which has none.")
    config = read_json(path, error=WeightsError, max_bytes=_MAX_CONFIG_BYTES)
    layers = [config.get("layers_per_block", 2), config.get("transformer_layers_per_block", 1)]
    for number in [n for entry in layers for n in (entry if isinstance(entry, list) else [entry])]:
        if not isinstance(number, int) or not 0 <= number <= _MAX_LAYERS:
            raise WeightsError(f"`folder` must describe at most {_MAX_LAYERS} layers a block; {path} says {number}.")
    return config


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
