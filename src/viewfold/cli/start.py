"""A quicker start: no garbage is collected while libraries load.

What torch, diffusers and transformers make at import stays for good; to look through it over and over, and once more at
the end, took a quarter of what `viewfold generate` computes (benchmarks/startup.py).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def resting_collector(*, process_ends: bool) -> Iterator[None]:
    """Let the garbage collector rest until `collect_again`, or the end of the block.

    Where the process ends after the block, what the libraries made stays hidden from the collector: Python would look
    through it once more before it goes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not process_ends:
            gc.unfreeze()
        if was_on:
            gc.enable()


def collect_again() -> None:
    """Let it work again, on what is made from now on alone: the libraries are there, the work begins."""
    gc.freeze()
    gc.enable()
