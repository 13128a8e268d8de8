"""`viewfold weights`: released checkpoints into the layout that every command reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from viewfold.cli.option import unset
from viewfold.cli.release import Fetch, List


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a released checkpoint (.pt or .safetensors, original key layout) to a diffusers folder; strict."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The checkpoint. It is read without running any code that it may hold."""
    to: Path
    """Folder to write; it appears whole or not at all."""
    head_channels: Annotated[int | None, unset("INT")] = None
    """Channels per attention head: 64 for the SD 2.1 kind. Networks of the released sizes are known."""
    heads: Annotated[int | None, unset("INT")] = None
    """Number of attention heads: 8 for the SD 1.5 kind."""
    dtype: Annotated[Literal["fp32", "fp16", "bf16"] | None, unset("{fp32,fp16,bf16}")] = None
    """Type of the weights written, by default the file's own; fp16 halves a released file."""

    def run(self) -> None:
        """Convert and say which parts were written."""
        import torch

        from viewfold.weights.convert import convert
        from viewfold.weights.original import ORIGINAL_PREFIXES

        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        parts = convert(
            self.file,
            to=self.to,
            head_channels=self.head_channels,
            heads=self.heads,
            dtype=None if self.dtype is None else types[self.dtype],
        )
        missing = sorted(set(ORIGINAL_PREFIXES.values()) - parts.keys())
        use = f"the file has no {', '.join(missing)}" if missing else f"use it with --model {self.to}"
        print(f"{self.to}: {', '.join(sorted(parts))}; {use}")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Say which networks a checkpoint holds, without converting it."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The checkpoint. It is read without running any code that it may hold."""

    def run(self) -> None:
        """Print one line per network."""
        from viewfold.weights.checkpoint import read_checkpoint
        from viewfold.weights.original import split

        for name, tensors in sorted(split(read_checkpoint(self.file)).items()):
            n_parameters = sum(tensor.numel() for tensor in tensors.values())
            print(f"{name}: {len(tensors)} tensors, {n_parameters / 1e6:.2f} M parameters")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Fetch released weights, look at them and convert them."""

    action: (
        Annotated[Fetch, subcommand("fetch")]
        | Annotated[List, subcommand("list")]
        | Annotated[Convert, subcommand("convert")]
        | Annotated[Show, subcommand("show")]
    )

    def run(self) -> None:
        """Run the action."""
        self.action.run()
