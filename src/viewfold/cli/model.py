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
    for path, scale in map(path_and_scale, lora):
        model.load_lora_weights(path, scale=scale)
    if scheduler is not None:
        model.scheduler = named_scheduler(scheduler, like=model.scheduler)
    return model


def path_and_scale(entry: str) -> tuple[str, float]:
    """Return what FILE[:SCALE] names; a colon that no number follows is part of the file's name."""
    path, _, scale = entry.rpartition(":")
    is_scale = bool(path) and re.fullmatch(r"[-+]?\d*\.?\d+", scale) is not None
    return (path, float(scale)) if is_scale else (entry, 1.0)


def unnamed_subjects(prompt: str, lora: Iterable[str]) -> list[str]:
    """Return a note for each LoRA file of `personalize` whose subject the prompt does not name: it would do little.

    Args:
        prompt: what is drawn.
        lora: FILE[:SCALE], all of which have been loaded.
    """
    from viewfold.weights.lora_file import lora_path, read_record

    notes, said = [], f" {' '.join(prompt.lower().split())} "
    for path, _ in map(path_and_scale, lora):
        record = read_record(lora_path(path))
        if record is None:
            continue
        words = re.sub(r"^(a|an|the) ", "", " ".join(record["subject"].lower().split()))
        if re.search(rf"\W{re.escape(words)}\W", said) is None:
            notes.append(f'`{path}` has learned "{record["subject"]}", which the prompt does not name.')
    return notes


def chosen(device: Device) -> str | None:
    """Return None where the library is to choose."""
    return None if device == "auto" else device


def say_notes(notes: Iterable[str]) -> None:
    """Print what a person should know about the prompt before it is drawn."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
