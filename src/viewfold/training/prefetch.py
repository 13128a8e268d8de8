"""Batches of coming steps, drawn in threads while the network computes.

A batch is a function of seed, step and part, and each has a generator of its own, so that what is drawn does not depend
on who draws it when.  Threads, not processes: drawing waits for reads and copies, which let Python go on, and a batch
need not be sent anywhere.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

Make = Callable[[int, int], Any]
"""(step, part) -> whatever a part of a step starts from."""

LAST_WAIT_S = 2.0
"""How long the end of a run waits for what is being read; threads do not keep a process alive."""


class Prefetch:
    """What `make` gives for each part of each step, in that order, some of it ahead; used with `with`."""

    def __init__(self, make: Make, coming: Iterator[tuple[int, int]], *, ahead: int, workers: int) -> None:
        """Begin to make what is coming.

        Args:
            coming: (step, part) of everything that will be taken, in the order in which it will be.
            ahead: so much is made before it is asked for; 0 makes each when it is.
            workers: threads that make it.
        """
        self._make, self._coming, self._ahead = make, coming, ahead
        self._asked: queue.SimpleQueue[tuple[tuple[int, int], queue.SimpleQueue[Any]] | None] = queue.SimpleQueue()
        self._slots: dict[tuple[int, int], queue.SimpleQueue[Any]] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"viewfold-data-{number}", daemon=True)
            for number in range(min(workers, ahead))
        ]
        self._grad = torch.is_grad_enabled()
        for thread in self._threads:
            thread.start()
        for _ in range(ahead):
            self._ask()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was made and what was not begun."""
        while not self._asked.empty():
            try:
                self._asked.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._asked.put(None)
        until = time.monotonic() + LAST_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._slots.clear()

    def take(self, step: int, part: int) -> Any:
        """Return what was made for a part of a step; what went wrong there is raised here."""
        if not self._ahead:
            return self._make(step, part)
        slot = self._slots.pop((step, part))
        self._ask()
        made, error = slot.get()
        if error is not None:
            raise error
        return made

    def _ask(self) -> None:
        key = next(self._coming, None)
        if key is not None:
            self._slots[key] = queue.SimpleQueue()
            self._asked.put((key, self._slots[key]))

    def _work(self) -> None:
        with torch.set_grad_enabled(self._grad):
            while (task := self._asked.get()) is not None:
                (step, part), slot = task
                try:
                    slot.put((self._make(step, part), None))
                except BaseException as error:  # noqa: BLE001 - it is raised where it is asked for
                    slot.put((None, error))
