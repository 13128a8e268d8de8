"""A pool of processes (`data.pool.Pool`) for the work on a folder; only the parent handles Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """A pool of fresh processes with one thread each, used with `with`; leaving it drops what has not begun."""

    def __init__(self, n_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.at_once = 2 * n_workers
        """Calls to have under way: one that runs in each process, and one that waits for it."""
        self._pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_prepare)

    def submit(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Give a call to the pool, which may start a process for it."""
        with held_interrupt():
            return self._pool.submit(work, *args, **kwargs)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def held_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: a process started meanwhile never sees one, ours sees it afterwards.

    Without this each child prints a traceback of its own, most of all while it still imports.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it would let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
