"""The same queue for a Ray cluster: a worker that gives its jobs to others, which see the data folder.

A job is told to end by a file in its folder, for no other line leads to the machine that does it; what it says goes
into its folder too.  A machine that dies is Ray's to notice, which gives the job to another, where it goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.data.pool import Pool, WorkerDied
from viewfold.errors import Stopped
from viewfold.serve.attempt import Cancelled, End, attempt
from viewfold.serve.database import QueueError
from viewfold.serve.folder import CANCEL, STOP, jobs_folder
from viewfold.serve.job import Job
from viewfold.serve.log import log
from viewfold.serve.queue import Queue
from viewfold.stopping import StopRequest

LOOK_S, ASK_S = 0.2, 0.5
"""Between two looks at the queue and the jobs here; at the files there."""


@dataclass(frozen=True)
class Given:
    """A job that is done elsewhere."""

    job: Job
    began: float


def dispatch(
    data: Path, queue: Queue, name: str, address: str, *, warm: str, device: str | None, stop: StopRequest
) -> None:
    """Join a Ray cluster and give it jobs until a stop is asked for."""
    from viewfold.cluster import Cluster

    with Cluster(address, shared=data, gpus=1 if device == "cuda" else 0) as pool:
        pool.submit(introduce, data, warm, device).result()
        log("worker_ready", worker=name, slots=pool.slots)
        give_out(data, queue, name, pool, device=device, stop=stop)


def give_out(
    data: Path, queue: Queue, name: str, pool: Pool, *, device: str | None, stop: StopRequest, do: Any = None
) -> None:
    """Keep a pool busy with jobs of the queue, and say how each ended.

    Args:
        do: what is done there with (data, job, device), for tests; None does the job.
    """
    from viewfold.serve.work import begin

    queue.give_back(name, died=True)
    running: dict[Future[End | None], Given] = {}
    while not stop:
        try:
            while len(running) < pool.at_once and (job := queue.claim(name)) is not None:
                begin(data, job.id, job.owner, job.request)
                for file in (CANCEL, STOP):
                    (jobs_folder(data) / job.id / file).unlink(missing_ok=True)
                running[pool.submit(do or do_there, data, job.id, device)] = Given(job, time.monotonic())
                log("job_started", job=job.id, worker=name, kind=job.kind, resumed=job.resumed)
            for given in running.values():
                if not queue.is_wanted(given.job.id, name):
                    (jobs_folder(data) / given.job.id / CANCEL).touch()
            _take_in(queue, name, running)
        except QueueError as error:  # a full disk: what is done is kept in `running`
            log("queue_failed", reason=str(error))
            time.sleep(2.0)
    for given in running.values():
        (jobs_folder(data) / given.job.id / STOP).touch()
    wait(running, timeout=60)
    _take_in(queue, name, running)
    queue.give_back(name, died=False)


def _take_in(queue: Queue, name: str, running: dict[Future[End | None], Given]) -> None:
    """Say how jobs ended that have."""
    if not running:
        time.sleep(LOOK_S)
        return
    for future in wait(running, timeout=LOOK_S, return_when=FIRST_COMPLETED).done:
        given, end = running[future], _end(future)
        if end is None:  # its machine is told to go, or we are
            queue.give_back(name, died=False, job=given.job.id)
        else:
            queue.finish(given.job.id, name, end.state, error=end.error, result=end.figures)
            seconds = round(time.monotonic() - given.began, 2)
            log("job_ended", job=given.job.id, worker=name, state=end.state, seconds=seconds)
        del running[future]


def _end(future: Future[End | None]) -> End | None:
    try:
        return future.result()
    except WorkerDied as error:
        return End("failed", {"code": "worker_died", "message": f"{error}: the machines may have too little memory."})
    except Exception as error:  # what came back cannot be read
        return End("failed", {"code": "internal", "message": f"it ended with {type(error).__name__} elsewhere."})


_models: dict[str | None, Any] = {}
"""In a worker of the cluster: what it holds, by device."""


def _held(device: str | None) -> Any:
    from viewfold.serve.work import Models

    return _models.setdefault(device, Models(device=device))


def introduce(data: Path, name: str, device: str | None) -> None:
    """Write down what a model can draw, on a machine that can load it."""
    from viewfold.serve.knowledge import describe, write_knowledge

    write_knowledge(data, describe(name, _held(device).get(name)))


def do_there(data: Path, job: str, device: str | None) -> End | None:
    """Do a job, on whatever machine this is."""
    from viewfold.serve.work import do

    return attempt(job, lambda: do(data, job, _held(device), stopping=told_by_files(jobs_folder(data) / job)))


def told_by_files(folder: Path) -> Callable[[], None]:
    """Return what raises once a file in the folder says so."""
    asked = time.monotonic()

    def stopping() -> None:
        nonlocal asked
        if time.monotonic() - asked < ASK_S:
            return
        asked = time.monotonic()
        if (folder / CANCEL).exists():
            raise Cancelled
        if (folder / STOP).exists():
            raise Stopped(signal.SIGTERM)

    return stopping
