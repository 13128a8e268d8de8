"""LoRA files of our own: written as diffusers' `load_lora_weights` reads them, with a record of what they are of.

The record is JSON in the file's header, under "viewfold": the subject and its class, the settings, and the hash of the
base network, so that the change is not put on another one.  Files of others have none, and are read as before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from viewfold.errors import WeightsError
from viewfold.store import atomic_write

LORA_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""

RECORD = "viewfold"

TOLD = {"subject": str, "class": str, "base": str, "base_name": str}
"""What every record holds, as texts."""


def lora_path(path: str | Path) -> Path:
    """Return the file of a LoRA: itself, or the one that diffusers takes of a folder."""
    path = Path(path)
    return path / LORA_NAME if path.is_dir() else path


def write_lora(path: str | Path, factors: Mapping[str, tuple[Tensor, Tensor]], *, record: Mapping[str, Any]) -> None:
    """Write the change W + B A of layers of a UNet, alpha = rank, whole or not at all.

    Args:
        path: ends in .safetensors.
        factors: A "rank n" and B "m rank" by the names of the layers.
        record: see `TOLD`; what else it holds is kept with it.
    """
    from safetensors.torch import save

    tensors = {}
    for name, (down, up) in factors.items():
        tensors[f"unet.{name}.lora_A.weight"] = down.detach().cpu().contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = up.detach().cpu().contiguous()
    with atomic_write(path) as temporary:
        # not `save_file`, whose files their owner alone may read
        temporary.write_bytes(save(tensors, metadata={"format": "pt", RECORD: json.dumps(dict(record))}))


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Return what a file says of itself; None if it is not one of ours.

    Raises:
        WeightsError: the record is damaged.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(RECORD)
    if text is None:
        return None
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in TOLD.items()):
            raise ValueError(f"it must hold {', '.join(TOLD)}")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"`lora` must have a header that can be read; {Path(path).name}: {error}.") from error
    return record
