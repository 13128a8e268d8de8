"""Work on items by a pool of workers that are somewhere else: the call that processes, clusters and tests share.

`crew` runs processes here and watches over them; a pool watches over its workers itself (`viewfold.cluster`).
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], str | None]
"""Deals with one item; returns the reason if the item is to blame, and raises what must end the run."""


class WorkerDied(RuntimeError):  # noqa: N818 - what happened, not what it is
    """The worker of an item died, and so did those that it was given to afterwards."""


@runtime_checkable
class Pool(Protocol):
    """Workers that take calls."""

    at_once: int
    """Calls to have under way: as many as keep every worker busy."""

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Give a call to a worker; its exception, or `WorkerDied`, comes out of the future."""
        ...


def work_in_pool(items: Iterable[T], make: Callable[[], Work[T]], pool: Pool) -> Generator[tuple[T, str | None]]:
    """Yield each item with the reason for its failure, or None, as they are finished.

    Args:
        items: asked for the next one when the pool has room, no earlier.
        make: called once in each worker; both it and the items can be pickled.
    """
    recipe = pickle.dumps(make)
    waiting = iter(items)
    running: dict[Future[str | None], T] = {}
    while True:
        while len(running) < pool.at_once and (item := next(waiting, None)) is not None:
            running[pool.submit(_work, recipe, item)] = item
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            item = running.pop(future)
            try:
                yield item, future.result()
            except WorkerDied as error:
                yield item, str(error)


_made: dict[bytes, Work[Any]] = {}
"""In a worker: what it works with, kept from one call to the next."""


def _work(recipe: bytes, item: Any) -> str | None:
    if recipe not in _made:
        for old in _made.values():
            if close := getattr(old, "close", None):
                close()
        _made.clear()
        _made[recipe] = pickle.loads(recipe)()  # made by `work_in_pool` on the machine that asks
    return _made[recipe](item)


def answers_in_order(items: Iterable[T], work: Callable[[T], R], pool: Pool) -> Generator[tuple[T, Future[R]]]:
    """Yield each item with the finished call `work(item)`, in the order of the items, however long each takes.

    Args:
        items: asked for the next one when the pool has room, no earlier.
        work: like the items it can be pickled; its exception, or that of a worker that died, comes out of the future.
    """
    waiting, running = iter(items), deque[tuple[T, Future[R]]]()
    while True:
        while len(running) < pool.at_once and (item := next(waiting, None)) is not None:
            running.append((item, pool.submit(work, item)))
        if not running:
            return
        item, future = running.popleft()
        wait([future])
        yield item, future
