"""The text towers of released files as transformers' `CLIPTextModel`: where each tensor is, and the configuration.

Beside `keymap`, which does this for the other networks; it sees names and shapes, no values and no files.
SD 2.1 files hold OpenCLIP's ViT-H tower.  MVDream reads it after the last but one block and applies the final norm, so
the last block is left out.  SD 1.5 files hold OpenAI's ViT-L tower in the names that transformers had, read to the end.
Source: `FrozenOpenCLIPEmbedder`, `FrozenCLIPEmbedder` in bytedance/MVDream `ldm/modules/encoders/modules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from viewfold.errors import WeightsError
from viewfold.weights.keymap import Shapes, TensorSource, read_shape
from viewfold.weights.tokenizer import END, END_ID, START_ID, VOCABULARY_SIZE, ZERO

HEAD_CHANNELS = 64
"""Of every CLIP text tower; the shapes do not tell."""

_OPEN, _OPENAI = "model.", "transformer.text_model."
_BLOCK = re.compile(r"model\.transformer\.resblocks\.(\d+)\.")
_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_UNREAD = ("model.text_projection", "model.logit_scale", "model.attn_mask", f"{_OPENAI}embeddings.position_ids")
"""What no token state passes through; the mask and the positions follow from the shapes."""


def is_open_clip(names: Collection[str]) -> bool:
    """Tell OpenCLIP's names from transformers'."""
    return any(name.startswith(_OPEN) for name in names)


def padding(names: Collection[str]) -> str:
    """Return the token that this tower's prompts are filled up with."""
    return ZERO if is_open_clip(names) else END


def read_text_config(shapes: Shapes) -> dict[str, Any]:
    """Read the arguments of transformers' `CLIPTextConfig` off the shapes.

    Raises:
        WeightsError: the names are of neither tower, or it reads another vocabulary.
    """
    if is_open_clip(shapes):
        n_layers = 1 + max((int(found[1]) for name in shapes if (found := _BLOCK.match(name))), default=0)
        names = ("model.token_embedding.weight", "model.positional_embedding")
        inner, activation = "model.transformer.resblocks.0.mlp.c_fc.weight", "gelu"
        n_layers -= 1  # the penultimate block is the last that is read
    else:
        pattern = re.compile(re.escape(_OPENAI) + r"encoder\.layers\.(\d+)\.")
        n_layers = 1 + max((int(found[1]) for name in shapes if (found := pattern.match(name))), default=-1)
        names = tuple(f"{_OPENAI}embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
        inner, activation = f"{_OPENAI}encoder.layers.0.mlp.fc1.weight", "quick_gelu"
    n_tokens, width = read_shape(shapes, names[0], 2)
    if n_tokens != VOCABULARY_SIZE or width % HEAD_CHANNELS:
        raise WeightsError(
            f"`path` must hold a CLIP text tower: {VOCABULARY_SIZE} tokens of a multiple of {HEAD_CHANNELS} features; "
            f"'{names[0]}' is {(n_tokens, width)}. viewfold knows CLIP's vocabulary alone."
        )
    return {
        "vocab_size": n_tokens,
        "hidden_size": width,
        "intermediate_size": read_shape(shapes, inner, 2)[0],
        "num_hidden_layers": n_layers,
        "num_attention_heads": width // HEAD_CHANNELS,
        "max_position_embeddings": read_shape(shapes, names[1], 2)[0],
        "hidden_act": activation,
        "projection_dim": width,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": 0 if is_open_clip(shapes) else END_ID,
    }


def text_sources(shapes: Shapes, *, n_layers: int) -> tuple[dict[str, TensorSource], set[str]]:
    """Return where each tensor of a `CLIPTextModel` with `n_layers` comes from, and the names that are left unread."""
    unread = {name for name in shapes if name in _UNREAD}
    if not is_open_clip(shapes):
        names = {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight"}
        names |= {f"final_layer_norm.{kind}" for kind in ("weight", "bias")}
        modules = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
        modules += tuple(f"self_attn.{kind}_proj" for kind in ("q", "k", "v", "out"))
        names |= {
            f"encoder.layers.{i}.{m}.{kind}" for i in range(n_layers) for m in modules for kind in ("weight", "bias")
        }
        return {name: TensorSource(_OPENAI + name) for name in names}, unread
    sources = {
        "embeddings.token_embedding.weight": TensorSource("model.token_embedding.weight"),
        "embeddings.position_embedding.weight": TensorSource("model.positional_embedding"),
    }
    for kind in ("weight", "bias"):
        sources[f"final_layer_norm.{kind}"] = TensorSource(f"model.ln_final.{kind}")
        for i in range(n_layers):
            ours, theirs = f"encoder.layers.{i}", f"model.transformer.resblocks.{i}"
            sources |= {f"{ours}.{a}.{kind}": TensorSource(f"{theirs}.{b}.{kind}") for a, b in _MODULES.items()}
            for third, name in enumerate("qkv"):
                sources[f"{ours}.self_attn.{name}_proj.{kind}"] = TensorSource(f"{theirs}.attn.in_proj_{kind}", third)
    last = f"model.transformer.resblocks.{n_layers}."
    return sources, unread | {name for name in shapes if name.startswith(last)}
