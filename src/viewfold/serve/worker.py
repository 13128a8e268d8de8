"""A worker: takes one job after another from the queue and does it, apart from the server, on a device of its own.

    python -m viewfold.serve.worker DATA NAME

It holds the lock of its name while it lives, however it ends, and begins by giving back what the one before it of that
name had: no job is lost, none is done by two.  It ends when it is told to (SIGTERM), or when the server is gone (its
standard input ends); the job that runs goes back to the queue and on from what its folder keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from viewfold.errors import OutputError, Stopped
from viewfold.serve.attempt import Cancelled, End, attempt
from viewfold.serve.database import QueueError
from viewfold.serve.folder import QUEUE
from viewfold.serve.job import Job
from viewfold.serve.log import log
from viewfold.serve.queue import Queue
from viewfold.stopping import StopRequest, listening
from viewfold.store import lock

IDLE_S, ASK_S, AGAIN_S = 0.1, 0.5, 2.0
"""Between two looks at an empty queue; at whether a job is still wanted; at a queue that could not be written."""

TAKEN_S = 120.0
"""To wait for the worker that had the name before to end its step and go."""

Do = Callable[[Job, Callable[[], None]], dict[str, Any]]
"""do(job, stopping): does it and returns its figures; `stopping` is to be called often, and raises."""


def work_off(queue: Queue, name: str, do: Do, stop: StopRequest) -> None:
    """Do jobs until a stop is asked for."""
    queue.give_back(name, died=True)
    while not stop:
        try:
            job = queue.claim(name)
        except QueueError as error:
            log("claim_failed", worker=name, reason=str(error))
            time.sleep(AGAIN_S)
            continue
        if job is None:
            time.sleep(IDLE_S)
            continue
        if not _work(queue, name, job, do, stop):
            return


def _work(queue: Queue, name: str, job: Job, do: Do, stop: StopRequest) -> bool:
    """Do a job and say how it ended; False if it was given back, because this worker is to end."""
    log("job_started", job=job.id, worker=name, kind=job.kind, resumed=job.resumed)
    began = time.monotonic()
    end = _attempt(queue, name, job, do, stop)
    if end is None:
        _surely(lambda: queue.give_back(name, died=False), stop)
        log("job_given_back", job=job.id, worker=name)
        return False
    _surely(lambda: queue.finish(job.id, name, end.state, error=end.error, result=end.figures), stop)
    code = {} if end.error is None else {"code": end.error["code"]}
    log("job_ended", job=job.id, worker=name, state=end.state, seconds=round(time.monotonic() - began, 2), **code)
    return True


def _attempt(queue: Queue, name: str, job: Job, do: Do, stop: StopRequest) -> End | None:
    """Do a job; None if it is to be given back."""
    asked = time.monotonic()

    def stopping() -> None:
        nonlocal asked
        if stop:
            raise Stopped(stop.signum)
        if time.monotonic() - asked >= ASK_S:
            asked = time.monotonic()
            if not queue.is_wanted(job.id, name):
                raise Cancelled

    return attempt(job.id, lambda: do(job, stopping))


def _surely(say: Callable[[], object], stop: StopRequest) -> None:
    """Write to the queue, again and again while its disk is full: the work is done, and must not be lost."""
    while True:
        try:
            say()
            return
        except QueueError as error:
            log("queue_failed", reason=str(error))
            if stop:
                return  # the next worker of this name gives the job back
            time.sleep(AGAIN_S)


@contextlib.contextmanager
def named(data: Path, name: str, *, wait_s: float = TAKEN_S) -> Iterator[None]:
    """Hold the name of a worker; wait for the one before to go.

    Raises:
        OutputError: it does not.
    """
    until = time.monotonic() + wait_s
    taken = f"`data` must be served once at a time; another {name} is at work in {data}."
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock(data / "workers" / f"{name}.lock", taken))
            except OutputError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
                continue
            yield
            return


def leave_with_parent() -> None:
    """Ask this process to stop when whoever started it is gone: its end of our standard input closes with it."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> int:
    """Work until the server goes."""
    parser = argparse.ArgumentParser(prog="python -m viewfold.serve.worker")
    parser.add_argument("data", type=Path)
    parser.add_argument("name")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--warm", required=True, help="model to load before the first job")
    parser.add_argument("--cluster", help="Ray cluster to give jobs to, in place of doing them here")
    asked = parser.parse_args()
    with listening() as stop:
        leave_with_parent()
        with named(asked.data, asked.name):
            queue = Queue(asked.data / QUEUE)
            if asked.cluster is None:
                _work_here(asked, queue, stop)
            else:
                from viewfold.serve.dispatch import dispatch

                dispatch(asked.data, queue, asked.name, asked.cluster, warm=asked.warm, device=asked.device, stop=stop)
    return 0


def _work_here(asked: argparse.Namespace, queue: Queue, stop: StopRequest) -> None:
    import torch

    from viewfold.serve.knowledge import describe, write_knowledge
    from viewfold.serve.work import Models, begin, do

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    models = Models(device=asked.device)
    write_knowledge(asked.data, describe(asked.warm, models.get(asked.warm)))
    log("worker_ready", worker=asked.name, pid=os.getpid())

    def doing(job: Job, stopping: Callable[[], None]) -> dict[str, Any]:
        begin(asked.data, job.id, job.owner, job.request)
        return do(asked.data, job.id, models, stopping=stopping)

    work_off(queue, asked.name, doing, stop)


if __name__ == "__main__":
    sys.exit(main())
