"""Low-rank layers on a network: a copy that shares its weights and learns by a few numbers of its own.

    y = W x + b + B A x,    A of rank x inputs, normal;  B of outputs x rank, zero at first

Source: LoRA (arXiv 2106.09685), equation 3, with alpha = rank.  Knows modules, nothing of what they are trained for;
LoRA files that others trained are `weights/lora.py`'s.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.errors import InputError

Layers = Literal["attention", "transformer"]
"""Which layers learn: those of the attention, or of whole transformer blocks, attention and feed-forward."""


class LowRank(nn.Module):
    """A linear layer plus a product of two small matrices, which are float32 whatever the layer is."""

    def __init__(self, base: Any, *, rank: int, generator: torch.Generator | None = None) -> None:
        """Put the two on `base`, which has `in_features`, `out_features` and a weight; A's deviation is 1 / rank."""
        super().__init__()
        self.base = base
        device = next(base.parameters()).device
        first = torch.randn(rank, base.in_features, generator=generator) / rank
        self.down = nn.Parameter(first.to(device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape m"]:
        """Return the layer's answer with the change added."""
        base = self.base(x)
        change = nn.functional.linear(nn.functional.linear(x.to(self.down), self.down), self.up)
        return base + change.to(base)


class LowRankWeights(nn.Module):
    """The low-rank layers of a network alone, as one module: what is trained, averaged and kept of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        found = {name: module for name, module in network.named_modules() if isinstance(module, LowRank)}
        self.names = tuple(found)
        """Of the layers, as the network has them."""
        self.down = nn.ParameterList(layer.down for layer in found.values())
        self.up = nn.ParameterList(layer.up for layer in found.values())

    def factors(self) -> dict[str, tuple[Float[Tensor, "rank n"], Float[Tensor, "m rank"]]]:
        """Return A and B of each layer, detached."""
        return {name: (a.detach(), b.detach()) for name, a, b in zip(self.names, self.down, self.up, strict=True)}

    def changes(self) -> list[Float[Tensor, "m n"]]:
        """Return what is added to the weight of each layer, B A, differentiably."""
        return [b @ a for a, b in zip(self.down, self.up, strict=True)]


def copy_with_low_rank(
    network: nn.Module,
    *,
    rank: int,
    layers: Layers = "attention",
    cameras: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return a copy of a network some of whose layers have low-rank ones beside them; it answers as before.

    The copy shares every weight with the network, and changes none: only what `LowRank` adds is its own.

    Args:
        network: with diffusers' attention layers.
        rank: at least 1.
        layers: those of the attention (queries, keys, values, outputs), or of feed-forward layers as well.
        cameras: whether the camera embedding has them too; without, what a camera means stays.
        generator: of the first values.

    Raises:
        InputError: a rank below 1, or a network without such layers.
    """
    if rank < 1:
        raise InputError(f"`rank` must be at least 1; got {rank}.")
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, shared)
    if not any(isinstance(module, Attention) for module in copied.modules()):
        raise InputError(
            f"`network` must have attention layers of diffusers to learn by; {type(network).__name__} has none. "
            "Take a score that needs no training, ASD() say."
        )
    kinds = (Attention,) if layers == "attention" else (Attention, FeedForward)
    blocks: list[nn.Module] = [module for module in copied.modules() if isinstance(module, kinds)]
    embedding = getattr(copied, "class_embedding", None)
    if cameras and isinstance(embedding, TimestepEmbedding):
        blocks.append(embedding)
    places = [
        (parent, name)
        for block in blocks
        for parent in block.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
    for parent, name in places:
        parent.register_module(name, LowRank(getattr(parent, name), rank=rank, generator=generator))
    return copied
