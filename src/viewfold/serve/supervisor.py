"""Keeps the workers alive, and the data folder tidy: a thread of the server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viewfold.errors import OutputError
from viewfold.serve.database import QueueError
from viewfold.serve.folder import CANCEL, jobs_folder
from viewfold.serve.log import log
from viewfold.serve.queue import Queue
from viewfold.serve.worker import named

LOOK_S = 0.25
"""Between two looks at the workers."""

AGAIN_S = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
"""To wait before a worker is started again that ended by itself, the first time, the second ..."""

TIDY_S = 2.0
"""Between two looks at what may be removed."""

CALM_S = 60.0
"""A worker that lived so long begins anew in that list."""

DRAIN_S = 60.0
"""For workers to end the step that runs, when the server ends."""

PICTURES_KEPT_S = 24 * 3600.0
"""After which pictures are removed that no job waits for; one that runs has its own."""


@dataclass
class Slot:
    """A worker's place: its name, and how its process is started."""

    name: str
    arguments: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    several: bool = False
    """Whether it has several jobs at a time, done elsewhere (`dispatch`): it is not killed for one of them."""
    process: subprocess.Popen[bytes] | None = None
    begun: float = 0.0
    ended: float = 0.0
    failures: int = 0


class Supervisor:
    """Used with `with`: workers run within."""

    def __init__(self, data: Path, queue: Queue, slots: Sequence[Slot], *, job_minutes: float = 240.0) -> None:
        self.data, self.queue, self.slots, self.job_minutes = data, queue, list(slots), job_minutes
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._since: dict[str, float] = {}

    @property
    def alive(self) -> int:
        """How many workers run."""
        return sum(slot.process is not None and slot.process.poll() is None for slot in self.slots)

    def __enter__(self) -> Supervisor:
        self._free_orphans()
        for slot in self.slots:
            self._start(slot)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.terminate()
        until = time.monotonic() + DRAIN_S
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                slot.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log("worker_killed", worker=slot.name, reason="it did not end in time")
                slot.process.kill()
                slot.process.wait()
            if slot.process.stdin is not None:
                slot.process.stdin.close()

    def _free_orphans(self) -> None:
        """Give back what workers had whose places are not filled any more."""
        ours = {slot.name for slot in self.slots}
        for name in self.queue.workers():
            if name in ours:
                continue  # its next worker does
            with contextlib.suppress(OutputError), named(self.data, name, wait_s=0.0):
                self.queue.give_back(name, died=True)

    def _start(self, slot: Slot) -> None:
        command = [sys.executable, "-m", "viewfold.serve.worker", str(self.data), slot.name, *slot.arguments]
        environment = {**os.environ, **slot.environment}
        slot.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        slot.begun = time.monotonic()

    def _watch(self) -> None:
        tidied = 0.0
        while not self._ending.wait(LOOK_S):
            try:
                for slot in self.slots:
                    self._look(slot)
                self._end_long_ones()
                if time.monotonic() - tidied > TIDY_S:
                    tidied = time.monotonic()
                    self.tidy()
            except (QueueError, OSError) as error:  # no process, no right, a full disk: said, and tried again
                log("supervisor_failed", reason=getattr(error, "strerror", None) or str(error))

    def _look(self, slot: Slot) -> None:
        """Start a worker again that ended; it gives back what it had."""
        if slot.process is not None:
            if slot.process.poll() is None:
                return
            slot.ended = time.monotonic()
            slot.failures = 0 if slot.ended - slot.begun > CALM_S else slot.failures + 1
            log("worker_ended", worker=slot.name, code=slot.process.returncode, failures=slot.failures)
            if slot.process.stdin is not None:
                slot.process.stdin.close()
            slot.process = None
        if time.monotonic() - slot.ended >= AGAIN_S[min(slot.failures, len(AGAIN_S) - 1)]:
            self._start(slot)

    def _end_long_ones(self) -> None:
        """Kill the worker of a job that runs longer than any may, by a clock that does not jump."""
        now, running = time.monotonic(), self.queue.running()
        self._since = {job.id: self._since.get(job.id, now) for job in running}
        for job in running:
            if now - self._since[job.id] < 60 * self.job_minutes:
                continue
            message = f"it ran for more than the {self.job_minutes:g} minutes that a job may take here."
            slot = next((slot for slot in self.slots if slot.name == job.worker), None)
            if slot is not None and slot.several:
                (jobs_folder(self.data) / job.id / CANCEL).touch()
            elif slot is not None and slot.process is not None:
                log("worker_killed", worker=slot.name, job=job.id, reason="its job took too long")
                slot.process.kill()
                slot.process.wait()
            assert job.worker is not None
            self.queue.finish(job.id, job.worker, "failed", error={"code": "too_long", "message": message})

    def tidy(self) -> None:
        """Remove the folders of jobs that were deleted, and pictures that nobody used."""
        for job in self.queue.hidden():
            folder = jobs_folder(self.data) / job
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
            self.queue.forget(job)
        wanted = self.queue.pictures_wanted()
        for path in (self.data / "pictures").glob("*/*.png"):
            if path.stem in wanted:
                continue
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > PICTURES_KEPT_S:
                    path.unlink()
