"""Which weights a result came from: one number for the networks of a model.

Below the pipeline; it knows networks and nothing of prompts, files or devices.
"""

from __future__ import annotations

import hashlib
from typing import Any


def weights_hash(model: Any) -> str:
    """Return the SHA-256 of the networks' tensors as float32, so that it is the same however they were stored.

    It is computed again only after a tensor was changed or replaced; not any more once it is frozen.
    """
    frozen = model.__dict__.get("_frozen_weights_hash")
    if frozen is not None:
        return frozen
    networks = (model.text_encoder, model.unet, model.vae)
    tensors = [item for network in networks for item in sorted(network.state_dict(keep_vars=True).items())]
    state = tuple((id(tensor), tensor._version) for _, tensor in tensors)
    known, digest = model.__dict__.get("_weights_hash", (None, ""))
    if known != state:
        sha = hashlib.sha256()
        for name, tensor in tensors:
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
        digest = sha.hexdigest()
        model.__dict__["_weights_hash"] = (state, digest)
    return digest


def freeze_hash(model: Any) -> None:
    """Keep the hash as it is now, before tensors go where they cannot be read: dropped, quantised or offloaded."""
    model.__dict__["_frozen_weights_hash"] = weights_hash(model)
