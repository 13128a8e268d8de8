"""Flags of every verb that loads a model: in which numbers it computes, where it waits, whether it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class PlacementFlags:
    """How to save memory or time; what `viewfold doctor --model` says may help to choose."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers to compute in; by default half precision for large models where the device is made for it."""
    offload: Literal["none", "model", "sequential"] = "none"
    """On a GPU: keep whole networks, or (slow) each layer, in main memory while they are not needed."""
    int8: bool = False
    """Keep the weights of linear layers in 8 bits; needs the extra int8."""
    compile: bool = False
    """Compile the network: a slow first step, then faster ones."""

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `load` that these flags stand for."""
        import torch

        from viewfold.pipeline.placement import Placement

        dtype = None if self.dtype == "auto" else getattr(torch, TYPES[self.dtype])
        return {"dtype": dtype, "placement": Placement(offload=self.offload, int8=self.int8, compile=self.compile)}
