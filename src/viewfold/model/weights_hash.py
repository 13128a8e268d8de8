"""The SHA-256 of named tensors, and of all networks of a model: which weights a result came from.

The same however they are stored and wherever they lie.  Knows nothing of prompts, files or devices.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor

HASH_ORDER = ("text_encoder", "unet", "vae")
"""In the order in which they are hashed, one after the other."""

_ADDED = re.compile(r"\.lora_[AB]\.lora_\d+\.weight$")
"""Tensors of the LoRA files in a model's list, which `lora.put_on` names and hashes; any others count as the network's.
"""


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], sha: Any = None) -> Any:
    """Return the SHA-256 of named tensors as float32, in their order; `sha` goes on with an earlier one."""
    sha = hashlib.sha256() if sha is None else sha
    for name, tensor in tensors:
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return sha


def hash_base(model: Any) -> str:
    """Return the SHA-256 of the UNet's tensors rounded to bfloat16, without any LoRA files: what a LoRA was made for.

    Rounded, so that it is the same for a model that is loaded in bfloat16; of a network that cannot be read any more it
    is what it was before.
    """
    kept = model.__dict__.get("_frozen_base")
    if kept is not None:
        return kept
    stamp = Stamp(tensor for _, tensor in _tensors(model, "unet"))
    known, digest = model.__dict__.get("_base_hash", (None, ""))
    if known != stamp:
        digest = hash_tensors((name, tensor.bfloat16()) for name, tensor in _tensors(model, "unet")).hexdigest()
        model.__dict__["_base_hash"] = (stamp, digest)
    return digest


class Stamp:
    """What tensors were at a moment; equal to a later stamp if none was changed in place, replaced or converted."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._parts = [(weakref.ref(tensor), tensor._version, tensor.dtype) for tensor in tensors]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamp) or len(self._parts) != len(other._parts):
            return False
        pairs = zip(self._parts, other._parts, strict=True)
        return all(a() is not None and a() is b() and rest == others for (a, *rest), (b, *others) in pairs)

    __hash__ = None  # type: ignore[assignment]


def weights_hash(model: Any) -> str:
    """Return the SHA-256 of the networks' tensors as float32, so that it is the same however they were stored.

    LoRA files that are on count by what they add, whether the networks can still be read or not.  It is computed again
    only after a tensor was changed or replaced; a network that is frozen counts as it was.
    """
    stamp = Stamp(tensor for part in HASH_ORDER if part not in _frozen(model) for _, tensor in _tensors(model, part))
    known, digest = model.__dict__.get("_weights_hash", (None, ""))
    if known != stamp:
        digest = _hash(model, HASH_ORDER).hexdigest()
        model.__dict__["_weights_hash"] = (stamp, digest)
    added = [bytes.fromhex(lora["sha256"]) for lora in getattr(model, "loras", ())]
    return hashlib.sha256(b"".join([bytes.fromhex(digest), *added])).hexdigest() if added else digest


def freeze_hash(model: Any, last: str = HASH_ORDER[-1]) -> None:
    """Keep the hash of the networks up to `last`, before they go where they cannot be read.

    That is: dropped, kept in 8 bits, or offloaded layer by layer.
    """
    parts = HASH_ORDER[: HASH_ORDER.index(last) + 1]
    if "unet" in parts and "unet" not in _frozen(model):
        model.__dict__["_frozen_base"] = hash_base(model)
    for n, part in enumerate(parts, start=1):
        _frozen(model)[part] = _hash(model, parts[:n])


def frozen_networks(model: Any) -> list[str]:
    """Return the networks whose tensors cannot be read any more; see `freeze_hash`."""
    return list(_frozen(model))


def _frozen(model: Any) -> dict[str, Any]:
    """Return the hash of each frozen network and all before it."""
    return model.__dict__.setdefault("_frozen_hashes", {})


def _hash(model: Any, parts: Iterable[str]) -> Any:
    sha = hashlib.sha256()
    for part in parts:
        sha = _frozen(model)[part].copy() if part in _frozen(model) else hash_tensors(_tensors(model, part), sha)
    return sha


def _tensors(model: Any, part: str) -> list[tuple[str, Tensor]]:
    """Return the network's own tensors under the names that they have without LoRA."""
    state = getattr(model, part).state_dict(keep_vars=True)
    return sorted((name.replace(".base_layer.", "."), t) for name, t in state.items() if not _ADDED.search(name))
