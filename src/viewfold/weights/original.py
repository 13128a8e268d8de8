"""Networks from the tensors of a released file: the layout is read off the shapes, every name and shape must fit.

Above the key maps (`keymap`, `clip`), below `convert` and `network`; it sees tensors by the original's names, no files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from viewfold.errors import InputError, WeightsError
from viewfold.weights.clip import read_text_config, text_sources
from viewfold.weights.keymap import (
    TensorSource,
    original_name,
    read_unet_layout,
    read_vae_config,
    refuse_image_prompt,
    shapes_of,
    unet_modules,
    vae_modules,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from viewfold.model.unet import MultiViewUNet

ORIGINAL_PREFIXES = {"model.diffusion_model.": "unet", "first_stage_model.": "vae", "cond_stage_model.": "text_encoder"}
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
"""How the buffers of the noise schedule begin, which is computed anew."""

_SHOWN = 8
_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def unet_from_original(
    tensors: Mapping[str, Tensor], *, head_channels: int | None = None, heads: int | None = None
) -> MultiViewUNet:
    """Return the network that these tensors (the original's names) describe, holding them (no copy).

    Raises:
        WeightsError: names, shapes or types that do not fit.
        InputError: `heads` or `head_channels` are needed (the network is not of a released size), or both are given.
    """
    if head_channels is not None and heads is not None:
        raise InputError(f"`heads` and `head_channels` must not both be given; got {heads} and {head_channels}.")
    layout = read_unet_layout(shapes_of(tensors), heads=heads, head_channels=head_channels)
    with torch.device("meta"):
        unet = layout.build()
    modules = unet_modules(layout)
    _fill(unet, tensors, {name: TensorSource(original_name(name, modules)) for name in unet.state_dict()})
    return unet.eval()


def vae_from_original(tensors: Mapping[str, Tensor]) -> AutoencoderKL:
    """Return the autoencoder that these tensors (the original's names) describe, holding them (no copy).

    Raises:
        WeightsError: names, shapes or types that do not fit.
    """
    from diffusers import AutoencoderKL

    config = read_vae_config(shapes_of(tensors))
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    modules = vae_modules(config)
    _fill(vae, tensors, {name: TensorSource(original_name(name, modules)) for name in vae.state_dict()})
    return vae.eval()


def text_encoder_from_original(tensors: Mapping[str, Tensor]) -> CLIPTextModel:
    """Return the text tower that these tensors describe; stacked queries, keys and values are copied apart.

    Raises:
        WeightsError: names, shapes or types that do not fit.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    shapes = shapes_of(tensors)
    config = CLIPTextConfig(**read_text_config(shapes))
    with torch.device("meta"):
        network = CLIPTextModel(config)
    positions = torch.arange(config.max_position_embeddings)[None]  # no weight, so no file holds them
    network.embeddings.position_ids = torch.nn.Buffer(positions, persistent=False)
    _fill(network, tensors, *text_sources(shapes, n_layers=config.num_hidden_layers))
    return network.eval()


def listed(names: Iterable[str]) -> str:
    """Return how many names there are, and the first few of them."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "none"


def _fill(
    network: torch.nn.Module,
    tensors: Mapping[str, Tensor],
    sources: Mapping[str, TensorSource],
    unread: Collection[str] = (),
) -> None:
    """Give a network without storage the tensors of a file; every name and shape must fit, in both directions."""
    used = {source.name for source in sources.values()}
    missing, unexpected = sorted(used - set(tensors)), sorted(set(tensors) - used - set(unread))
    if missing or unexpected:
        raise WeightsError(
            f"`path` must hold exactly the tensors of {type(network).__name__}; missing: {listed(missing)}; "
            f"unexpected: {listed(unexpected)}. Is it another architecture, or a partial download?"
        )
    filled, wrong = {}, []
    for name, target in network.state_dict().items():
        source, third = sources[name]
        tensor = tensors[source]
        if tensor.dtype not in _WEIGHT_TYPES:
            wrong.append(f"{source} of {str(tensor.dtype).removeprefix('torch.')} instead of floating point")
            continue
        if third is not None and tensor.ndim == target.ndim and len(tensor) == 3 * len(target):
            tensor = tensor.chunk(3)[third].clone()  # files must not hold tensors that share their storage
        if target.ndim == 2 and tensor.shape == (*target.shape, 1, 1):
            tensor = tensor.flatten(1)  # a 1x1 convolution that is a linear layer in diffusers
        if tensor.shape != target.shape:
            wanted = tuple(target.shape) if third is None else (3 * len(target), *target.shape[1:])
            wrong.append(f"{source} {tuple(tensor.shape)} instead of {wanted}")
        filled[name] = tensor
    if wrong:
        raise WeightsError(f"`path` must hold tensors that fit together; of another shape or type: {listed(wrong)}.")
    network.load_state_dict(filled, strict=True, assign=True)
