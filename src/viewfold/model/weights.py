"""Released weights: from the original's names to diffusers folders, strictly, and back into memory.

Sits beside the pipeline, which loads whole folders; `convert` writes them from a released file, `load_unet` loads the
network alone.  The configuration is read off the shapes; no code from a file is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from viewfold.errors import InputError, OutputError, WeightsError
from viewfold.image import atomic_write
from viewfold.model.checkpoint import read_checkpoint
from viewfold.model.keymap import original_name, read_unet_layout, read_vae_config, unet_modules, vae_modules

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from viewfold.model.unet import MultiViewUNet

PARTS = {"model.diffusion_model.": "unet", "first_stage_model.": "vae", "cond_stage_model.": "text_encoder"}
"""Where the original's one file keeps each network."""

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
_SHOWN = 8


def convert(
    path: str | Path, *, to: str | Path, head_channels: int | None = None, heads: int | None = None
) -> dict[str, Path]:
    """Convert a released file to a diffusers folder and return the folder of each part that was written.

    Args:
        path: .safetensors or PyTorch file in the original key layout: everything in one, or a bare UNet or VAE.
        to: folder to write (`unet/`, `vae/`, `scheduler/`); it appears whole or not at all.
        head_channels: channels per attention head (64 for SD 2.1), or
        heads: number of attention heads (8 for SD 1.5).  Shapes do not tell, so one of them is needed for a UNet.

    Raises:
        WeightsError: the file is damaged, runs code, or its names and shapes do not fit; the message lists them.
        InputError: neither or both of `head_channels` and `heads`.
        OutputError: `to` holds something else or cannot be written.
    """
    to = Path(to)
    parts = split(read_checkpoint(path))
    networks: dict[str, torch.nn.Module] = {}
    if "unet" in parts:
        networks["unet"] = build_unet(parts["unet"], head_channels=head_channels, heads=heads)
    if "vae" in parts:
        networks["vae"] = build_vae(parts["vae"])
    if not networks:
        raise WeightsError(f"`path` must hold a UNet or a VAE in the original key layout; found {sorted(parts)} alone.")
    if to.exists() and not (to.is_dir() and (not any(to.iterdir()) or any((to / part).is_dir() for part in networks))):
        raise OutputError(
            f"`to` must be new, empty or a model's folder; {to} holds something else. Name another folder."
        )
    with atomic_write(to) as folder:
        folder.mkdir()
        for name, network in networks.items():
            network.save_pretrained(folder / name)  # type: ignore[operator]
        if "unet" in networks and "vae" in networks:
            write_scheduler(folder / "scheduler")
    return {name: to / name for name in networks}


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of an original file by network; the noise schedule's buffers and averaged copies are dropped."""
    parts: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in PARTS if name.startswith(prefix)), None)
        if prefix is not None:
            parts.setdefault(PARTS[prefix], {})[name.removeprefix(prefix)] = tensor
        elif not name.startswith((*_SCHEDULE, "model_ema.")):
            strangers.append(name)
    if strangers and not parts:  # a bare network
        part = "vae" if any(name.startswith("encoder.") for name in strangers) else "unet"
        return {part: {name: tensors[name] for name in strangers}}
    if strangers:
        raise WeightsError(f"`path` must hold known networks only; unexpected: {_listed(strangers)}.")
    return parts


def build_unet(
    tensors: Mapping[str, Tensor], *, head_channels: int | None = None, heads: int | None = None
) -> MultiViewUNet:
    """Return the network that these tensors (the original's names) describe, holding them (no copy)."""
    if (head_channels is None) == (heads is None):
        raise InputError(
            "`head_channels` or `heads` must be given, and not both: shapes do not tell them. "
            "Use head_channels=64 for SD 2.1 weights and heads=8 for SD 1.5."
        )
    layout = read_unet_layout(_shapes(tensors), heads=heads, head_channels=head_channels)
    with torch.device("meta"):
        unet = layout.build()
    _fill(unet, tensors, unet_modules(layout))
    return unet.eval()


def build_vae(tensors: Mapping[str, Tensor]) -> AutoencoderKL:
    """Return the autoencoder that these tensors (the original's names) describe, holding them (no copy)."""
    from diffusers import AutoencoderKL

    config = read_vae_config(_shapes(tensors))
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    _fill(vae, tensors, vae_modules(config))
    return vae.eval()


def load_unet(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> MultiViewUNet:
    """Load the network of a folder (its `unet/`, or the folder itself), strictly, ready to evaluate.

    Raises:
        WeightsError: no such folder, an unreasonable configuration, or tensors that are missing, unexpected or damaged.
    """
    from safetensors import SafetensorError

    from viewfold.model.unet import MultiViewUNet

    folder = Path(folder)
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    _check_config(folder)
    try:
        unet, info = MultiViewUNet.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )  # type: ignore[misc]  # a pair, for output_loading_info
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise WeightsError(
            f"`folder` must hold a whole network; {folder} does not: {_first_sentence(error)}."
        ) from error
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"] or info["error_msgs"]:
        raise WeightsError(
            f"`folder` must hold weights that fit its configuration; in {folder}, "
            f"missing: {_listed(info['missing_keys'])}; unexpected: {_listed(info['unexpected_keys'])}; "
            f"of another shape: {_listed(map(str, info['mismatched_keys']))}."
        )
    return unet.eval()


def _first_sentence(error: Exception) -> str:
    """Return what is wrong, without the advice that diffusers adds for its own users."""
    return " ".join(str(error).split(". ")[0].split())[:300].rstrip(".")


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"`folder` must hold a network's config.json; got {folder}, which has none.")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise WeightsError(f"`folder` must hold a config.json of at most {_MAX_CONFIG_BYTES} bytes; {path} is larger.")
    try:
        config = json.loads(path.read_text())
        layers = [config.get("layers_per_block", 2), config.get("transformer_layers_per_block", 1)]
    except (ValueError, AttributeError) as error:
        raise WeightsError(
            f"`folder` must hold a config.json that is a JSON object; {path} is not: {error}."
        ) from error
    for number in [n for entry in layers for n in (entry if isinstance(entry, list) else [entry])]:
        if not isinstance(number, int) or not 0 <= number <= _MAX_LAYERS:
            raise WeightsError(f"`folder` must describe at most {_MAX_LAYERS} layers a block; {path} says {number}.")


def _fill(network: torch.nn.Module, tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> None:
    """Give a network without storage the tensors of a file; every name and shape must fit, in both directions."""
    sources = {name: original_name(name, modules) for name in network.state_dict()}
    missing = sorted(set(sources.values()) - set(tensors))
    unexpected = sorted(set(tensors) - set(sources.values()))
    if missing or unexpected:
        raise WeightsError(
            f"`path` must hold exactly the tensors of {type(network).__name__}; missing: {_listed(missing)}; "
            f"unexpected: {_listed(unexpected)}. Is it another architecture, or a partial download?"
        )
    filled, wrong = {}, []
    for name, target in network.state_dict().items():
        source = tensors[sources[name]]
        if target.ndim == 2 and source.shape == (*target.shape, 1, 1):
            source = source.flatten(1)  # a 1x1 convolution that is a linear layer in diffusers
        if source.shape != target.shape:
            wrong.append(f"{sources[name]} {tuple(source.shape)} instead of {tuple(target.shape)}")
        filled[name] = source if source.is_floating_point() else source.float()
    if wrong:
        raise WeightsError(f"`path` must hold tensors that fit together; of another shape: {_listed(wrong)}.")
    network.load_state_dict(filled, strict=True, assign=True)


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


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "none"
