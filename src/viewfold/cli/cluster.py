"""The flag `--cluster`: the Ray cluster that a verb works on, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewfold.errors import InputError


@contextlib.contextmanager
def cluster_of(address: str | None, out: Path, *, workers: int = 1, gpus: int = 0) -> Iterator[Any]:
    """Join a cluster whose machines see `out`; None without an address."""
    if address is None:
        yield None
        return
    if workers != 1:
        raise InputError(f"`workers` must be left out with `cluster`, which has its own; got {workers}.")
    from viewfold.cluster import Cluster

    with Cluster(address, shared=out, gpus=gpus) as pool:
        yield pool
