"""Which weights a result came from: one number for the networks of a model.

Below the pipeline; it knows networks and nothing of prompts, files or devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

NETWORKS = ("text_encoder", "unet", "vae")
"""In the order in which they are hashed, one after the other."""


def weights_hash(model: Any) -> str:
    """Return the SHA-256 of the networks' tensors as float32, so that it is the same however they were stored.

    It is computed again only after a tensor was changed or replaced; a network that is frozen counts as it was.
    """
    tensors = [tensor for part in NETWORKS if part not in _frozen(model) for _, tensor in _tensors(model, part)]
    state = tuple((id(tensor), tensor._version) for tensor in tensors)
    known, digest = model.__dict__.get("_weights_hash", (None, ""))
    if known != state:
        digest = _hash(model, NETWORKS).hexdigest()
        model.__dict__["_weights_hash"] = (state, digest)
    return digest


def freeze_hash(model: Any, last: str = NETWORKS[-1]) -> None:
    """Keep the hash of the networks up to `last`, before they go where they cannot be read.

    That is: dropped, kept in 8 bits, or offloaded layer by layer.
    """
    parts = NETWORKS[: NETWORKS.index(last) + 1]
    for n, part in enumerate(parts, start=1):
        _frozen(model)[part] = _hash(model, parts[:n])


def _frozen(model: Any) -> dict[str, Any]:
    """Return the hash of each frozen network and all before it."""
    return model.__dict__.setdefault("_frozen_hashes", {})


def _hash(model: Any, parts: Iterable[str]) -> Any:
    sha = hashlib.sha256()
    for part in parts:
        if part in _frozen(model):
            sha = _frozen(model)[part].copy()
            continue
        for name, tensor in _tensors(model, part):
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return sha


def _tensors(model: Any, part: str) -> list[tuple[str, Any]]:
    return sorted(getattr(model, part).state_dict(keep_vars=True).items())
