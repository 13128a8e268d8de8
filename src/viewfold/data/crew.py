"""Work on one item after the other under limits, by processes that may hang, grow or die without taking the rest along.

Sits below `render`; knows nothing of assets.  Each process has one item at a time, so that whoever stops answering is
known by name.  They see no Ctrl-C: it reaches the parent, which ends them; when the parent is killed they end by
themselves, after the item that they have.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from viewfold.data.workers import held_interrupt
from viewfold.errors import InputError, Stopped

T = TypeVar("T")
Work = Callable[[T], str | None]
"""Deals with one item; returns the reason if the item is to blame, and raises what must end the run."""

_LOOK_S = 0.05
"""Between two looks at the memory: nothing fills more than some 0.2 GiB meanwhile."""

_GRACE_S = 3.0
"""For a process to clear up after itself before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may cost; with a limit even a single worker is a process of its own."""

    timeout_s: float | None = None
    """Seconds."""

    memory_gib: float | None = None
    """Resident memory of the process and of those that it starts; PyTorch alone takes 0.3, a Blender as much."""

    retries: int = 1
    """Times that an item is tried again whose process died or was ended; those that failed by themselves are not."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"`{name}` must be more than 0; got {value}.")
        if self.retries < 0:
            raise InputError(f"`retries` must be 0 or more; got {self.retries}.")
        if self.memory_gib is not None and not Path("/proc/self/statm").is_file():
            raise InputError("`memory_gib` must be left out here: only Linux tells how much a process has.")


def work_through(
    items: Iterable[T], make: Callable[[], Work[T]], *, workers: int, limits: Limits
) -> Generator[tuple[T, str | None]]:
    """Yield each item with the reason for its failure, or None, as they are finished.

    Args:
        items: asked for the next one when a process is free, no earlier.
        make: called once in each process; both it and the items can be pickled.
        workers: processes; 1 without a limit works in this one.
    """
    if workers == 1 and limits.timeout_s is None and limits.memory_gib is None:
        work = make()
        try:
            for item in items:
                yield item, work(item)
        finally:
            _close(work)
        return
    crew = _Crew(iter(items), make, limits)
    try:
        yield from crew.run(workers)
    finally:
        crew.end()


@dataclass(eq=False)
class _Worker(Generic[T]):
    process: Any
    connection: Connection
    is_ready: bool = False
    item: T | None = None
    since: float = field(default_factory=time.monotonic)


class _Crew(Generic[T]):
    def __init__(self, items: Iterator[T], make: Callable[[], Work[T]], limits: Limits) -> None:
        self.items, self.make, self.limits = items, make, limits
        self.again: list[T] = []
        self.tried: dict[T, int] = {}
        self.staff: list[_Worker[T]] = []

    def run(self, workers: int) -> Iterator[tuple[T, str | None]]:
        while True:
            for worker in [w for w in self.staff if w.is_ready and w.item is None]:
                if not self._assign(worker, self._next()):
                    self._dismiss(worker)
            if len(self.staff) < workers and (item := self._next()) is not None:
                worker = self._hire()
                worker.item = item  # sent once it is ready
                continue
            if not self.staff:
                return
            yield from self._listen()

    def end(self) -> None:
        for worker in self.staff:
            _signal(worker.process, signal.SIGTERM)
        until = time.monotonic() + _GRACE_S
        for worker in self.staff:
            worker.process.join(max(0.0, until - time.monotonic()))
            self._kill(worker)
        self.staff = []

    def _next(self) -> T | None:
        return self.again.pop(0) if self.again else next(self.items, None)

    def _hire(self) -> _Worker[T]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.make), daemon=False)
        with held_interrupt():
            process.start()
        theirs.close()
        worker: _Worker[T] = _Worker(process, ours)
        self.staff.append(worker)
        return worker

    def _assign(self, worker: _Worker[T], item: T | None) -> bool:
        worker.item, worker.since = item, time.monotonic()
        if item is None:
            return False
        with contextlib.suppress(OSError):  # it died meanwhile, which `_listen` sees
            worker.connection.send(item)
        return True

    def _dismiss(self, worker: _Worker[T]) -> None:
        """Let a process go that has nothing to do."""
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        worker.process.join(_GRACE_S)
        self._kill(worker)
        self.staff.remove(worker)

    def _listen(self) -> Iterator[tuple[T, str | None]]:
        """Take one round of answers, and end those that are over a limit."""
        heard = wait([w.connection for w in self.staff], timeout=self._patience())
        for worker in [w for w in self.staff if w.connection in heard]:
            try:
                is_error, answer = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._lost(worker, self._how_it_died(worker))
                continue
            if is_error:
                raise answer
            if worker.is_ready:
                assert worker.item is not None
                item, worker.item = worker.item, None
                yield item, answer
            else:
                worker.is_ready = True
                self._assign(worker, worker.item)
        for worker in [w for w in self.staff if w.is_ready and w.item is not None]:
            if (over := self._over(worker)) is not None:
                reason, grace = over
                if grace:
                    _signal(worker.process, signal.SIGTERM)
                    worker.process.join(grace)
                yield from self._lost(worker, reason)

    def _patience(self) -> float | None:
        if self.limits.memory_gib is not None:
            return _LOOK_S
        if self.limits.timeout_s is None:
            return None
        oldest = min((w.since for w in self.staff if w.is_ready), default=time.monotonic())
        return max(0.0, oldest + self.limits.timeout_s - time.monotonic()) + 0.01

    def _over(self, worker: _Worker[T]) -> tuple[str, float] | None:
        """Return which limit a process is over, and the seconds that it is given to clear up after itself."""
        timeout, memory = self.limits.timeout_s, self.limits.memory_gib
        if timeout is not None and time.monotonic() - worker.since > timeout:
            return f"it took more than {timeout:g} s", _GRACE_S / 3
        if memory is not None and resident_bytes(worker.process.pid) > memory * 2**30:
            return f"it took more than {memory:g} GiB of memory", 0.0
        return None

    def _how_it_died(self, worker: _Worker[T]) -> str:
        worker.process.join(_GRACE_S)
        code = worker.process.exitcode
        how = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else f" (exit code {code})"
        return f"its process died{how}, probably for lack of memory"

    def _lost(self, worker: _Worker[T], reason: str) -> Iterator[tuple[T, str | None]]:
        """End a process; its item is tried again or reported."""
        item = worker.item
        self._kill(worker)
        self.staff.remove(worker)
        if item is None:
            return
        self.tried[item] = self.tried.get(item, 0) + 1
        if self.tried[item] <= self.limits.retries:
            self.again.append(item)
        else:
            tries = f", {self.tried[item]} times" if self.tried[item] > 1 else ""
            yield item, reason + tries

    def _kill(self, worker: _Worker[T]) -> None:
        """Kill a process and those that it started, if any is left."""
        if hasattr(signal, "SIGKILL"):
            _signal(worker.process, signal.SIGKILL)
        elif worker.process.is_alive():
            worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _signal(process: Any, number: int) -> None:
    """Send a signal to a worker and, once it leads a group of its own, to all in it."""
    if process.pid is None:
        return
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg") and (not process.is_alive() or os.getpgid(process.pid) == process.pid):
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)


def _serve(connection: Connection, make: Callable[[], Work[Any]]) -> None:
    """Deal with what comes until None comes, or nobody is there any more."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    work = None
    try:
        work = make()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        connection.send((False, None))
        while (item := connection.recv()) is not None:
            connection.send((False, work(item)))
    except (EOFError, BrokenPipeError, Stopped):
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send((True, error))
    finally:
        _close(work)


def _close(work: object) -> None:
    """Let work end what it has started, if it has a way to."""
    if close := getattr(work, "close", None):
        close()


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and of those that it started; 0 of one that is gone (Linux)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)
