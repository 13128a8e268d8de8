"""How the original code names its tensors, beside diffusers' names, and the layout that the shapes of a file tell.

Sits below `weights`; it sees names and shapes, no values and no files.  Each map goes from a module of diffusers to
one of the original; what is below a listed module and not listed itself has the same name in both.
Source: bytedance/MVDream `openaimodel.py` and diffusers' `UNet2DConditionModel`, checked by tests/test_parity.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21, UNetLayout

Shapes = Mapping[str, tuple[int, ...]]

KNOWN = (MVDREAM_SD21, MVDREAM_SD15)
"""Networks whose sizes tell their heads; the plain Stable Diffusion networks have the same but for the camera."""

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_IMAGE_PROMPT = ("image_embed.", ".to_k_ip.", ".to_v_ip.")
"""Tensors of ImageDream's `ipmv` networks: a resampler of image tokens and their cross-attention."""


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class TensorSource(NamedTuple):
    """Where a tensor comes from."""

    name: str
    """In the original file."""

    third: int | None = None
    """Which third of its rows, where queries, keys and values are stacked."""


def original_name(name: str, modules: Mapping[str, str]) -> str:
    """Return the original's name of a diffusers tensor: the longest listed module is replaced."""
    head, tail = name, ""
    while head:
        if head in modules:
            return modules[head] + tail
        head, dot, last = head.rpartition(".")
        tail = f"{dot}{last}{tail}"
    return name


def unet_modules(layout: UNetLayout) -> dict[str, str]:
    """Map the modules of a UNet of this layout."""
    modules = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0",
        "class_embedding.linear_2": "camera_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    levels = len(layout.channels)
    block = 1
    for level in range(levels):
        for layer in range(layout.n_resnets):
            resnets[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{block}.0"
            modules[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
            block += 1
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
        block += 1
    for block in range(levels * (layout.n_resnets + 1)):
        level, layer = divmod(block, layout.n_resnets + 1)
        place = 2 if layout.attention[levels - 1 - level] else 1
        resnets[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{block}.0"
        modules[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block}.{place}.conv"  # the last counts
    for ours, theirs in resnets.items():
        modules |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _UNET_RESNET.items()}
    return modules


def read_unet_layout(shapes: Shapes, *, heads: int | None, head_channels: int | None) -> UNetLayout:
    """Read the layout of an original UNet off its shapes.

    The heads leave no trace in them.  Without a word about them, a network whose other sizes are those of a released
    one has its heads; for any other they must be given.

    Raises:
        WeightsError: the names are not those of this family of networks, or the network is conditioned on an image.
        InputError: the heads are not given, given twice, or do not divide the channels.
    """
    refuse_image_prompt(shapes)
    channels: list[int] = []
    attention: list[set[bool]] = [set()]
    n_resnets: list[int] = [0]
    width = read_shape(shapes, "input_blocks.0.0.weight", 4)[0]
    for block in range(1, limits.UNET_BLOCKS):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            channels.append(width)
            attention.append(set())
            n_resnets.append(0)
        elif f"input_blocks.{block}.0.in_layers.2.weight" in shapes:
            width = read_shape(shapes, f"input_blocks.{block}.0.in_layers.2.weight", 4)[0]
            attention[-1].add(f"input_blocks.{block}.1.norm.weight" in shapes)
            n_resnets[-1] += 1
        else:
            break
    channels.append(width)
    if len(set(n_resnets)) != 1 or any(len(kinds) != 1 for kinds in attention):
        raise WeightsError(
            f"`path` must hold a UNet with the same blocks in each level; got {n_resnets} residual blocks. "
            "This architecture is not one that viewfold knows."
        )
    camera = read_shape(shapes, "camera_embed.0.weight", 2)[1] if "camera_embed.0.weight" in shapes else None
    sizes = {
        "channels": tuple(channels),
        "attention": tuple(kinds.pop() for kinds in attention),
        "n_resnets": n_resnets[0],
        "latent_channels": read_shape(shapes, "input_blocks.0.0.weight", 4)[1],
        "text_dim": read_shape(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "linear_projection": len(shapes.get("middle_block.1.proj_in.weight", ())) == 2,
    }
    if heads is None and head_channels is None:
        for known in KNOWN:
            if all(getattr(known, name) == size for name, size in sizes.items()):
                heads, head_channels = known.heads, known.head_channels
    return UNetLayout(**sizes, camera_dim=camera, heads=heads, head_channels=head_channels)


def refuse_image_prompt(names: Iterable[str]) -> None:
    """Recognise ImageDream's networks, which need what viewfold does not have."""
    found = [name for name in names if any(mark in name for mark in _IMAGE_PROMPT)]
    if found:
        raise WeightsError(
            f"`path` must hold a network that is conditioned on text; got ImageDream's (ipmv), which also reads an "
            f"image: {len(found)} tensors ({', '.join(sorted(found)[:3])}, ...) belong to its image tokens. Missing "
            "here are the CLIP image encoder, the resampler `image_embed`, the attention `to_k_ip`, `to_v_ip` and the "
            "fifth view. Use MVDream's sd-v2.1-base-4view.pt."
        )


def vae_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Map the modules of an AutoencoderKL of this configuration (see `read_vae_config`)."""
    modules = {"encoder.conv_norm_out": "encoder.norm_out", "decoder.conv_norm_out": "decoder.norm_out"}
    resnets: dict[str, str] = {}
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    for half in ("encoder", "decoder"):
        resnets |= {f"{half}.mid_block.resnets.{i}": f"{half}.mid.block_{i + 1}" for i in range(2)}
        attention = {f"{half}.mid_block.attentions.0.{a}": f"{half}.mid.attn_1.{b}" for a, b in _VAE_ATTENTION.items()}
        modules |= attention
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        modules[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"{down}.downsample.conv"
        modules[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
        for layer in range(layers + 1):
            resnets[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"{down}.block.{layer}"
            resnets[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"{up}.block.{layer}"
    for ours, theirs in resnets.items():
        modules |= {ours: theirs, f"{ours}.conv_shortcut": f"{theirs}.nin_shortcut"}
    return modules


def read_vae_config(shapes: Shapes) -> dict[str, Any]:
    """Read the arguments of diffusers' AutoencoderKL off the shapes of an original one."""
    levels = _count(shapes, "encoder.down.{}.block.0.conv1.weight")
    channels = tuple(read_shape(shapes, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels))
    return {
        "in_channels": read_shape(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": read_shape(shapes, "decoder.conv_out.weight", 4)[0],
        "latent_channels": read_shape(shapes, "decoder.conv_in.weight", 4)[1],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, "encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,  # as released: Stable Diffusion's and MVDream's `scale_factor`
        "sample_size": 256,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    return next((i for i in range(limits.UNET_BLOCKS) if pattern.format(i) not in shapes), limits.UNET_BLOCKS)


def read_shape(shapes: Shapes, name: str, n_dims: int) -> tuple[int, ...]:
    """Return the shape of a tensor that must be there; `WeightsError` otherwise."""
    shape = shapes.get(name)
    if shape is None:
        raise WeightsError(
            f"`path` must hold a network of the original's layout; the tensor '{name}' is missing. "
            f"It holds {len(shapes)} tensors, the first of them {sorted(shapes)[:3]}."
        )
    if len(shape) != n_dims or 0 in shape:
        raise WeightsError(f"`path` must hold '{name}' with {n_dims} dimensions; got the shape {shape}.")
    return shape
