"""The model of a verb: its flags, how it is opened, and what is said of a prompt before it draws."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from viewfold.cli.placement import PlacementFlags

Device = Literal["auto", "cpu", "cuda", "mps"]
Loras = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE[:SCALE]", help_behavior_hint="")]


def open_model(
    name: str, *, device: Device, placement: PlacementFlags, lora: Iterable[str] = (), scheduler: str | None = None
) -> Any:
    """Load a model and change it as the command line asks: LoRA files with their scales, another scheduler."""
    from viewfold.diffusion.sampler import named_scheduler
    from viewfold.pipeline import load

    model = load(name, device=chosen(device), **placement.settings())
    for entry in lora:
        path, _, scale = entry.rpartition(":")
        is_scale = bool(path) and re.fullmatch(r"[-+]?\d*\.?\d+", scale) is not None
        model.load_lora_weights(path if is_scale else entry, scale=float(scale) if is_scale else 1.0)
    if scheduler is not None:
        model.scheduler = named_scheduler(scheduler, like=model.scheduler)
    return model


def chosen(device: Device) -> str | None:
    """Return None where the library is to choose."""
    return None if device == "auto" else device


def say_notes(notes: Iterable[str]) -> None:
    """Print what a person should know about the prompt before it is drawn."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
