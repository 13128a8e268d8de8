"""One number for named tensors: which weights these are, however they are stored and wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], sha: Any = None) -> Any:
    """Return the SHA-256 of named tensors as float32, in their order; `sha` goes on with an earlier one."""
    sha = hashlib.sha256() if sha is None else sha
    for name, tensor in tensors:
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return sha
