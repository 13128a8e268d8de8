"""A quicker start: no garbage is collected while libraries load.

What torch, diffusers and transformers make at import stays for good; to look through it over and over took 0.7 of the
5 s that `viewfold generate` computes (benchmarks/startup.py).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def resting_collector() -> Iterator[None]:
    """Let the garbage collector rest until `collect_again`, or the end of the block."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def collect_again() -> None:
    """Let it work again, on what is made from now on alone: the libraries are there, the work begins."""
    gc.freeze()
    gc.enable()
