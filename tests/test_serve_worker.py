"""Workers of `viewfold serve`: each end of a job, and what becomes of it when its worker is told to go or is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viewfold.errors import OutputError, PromptError
from viewfold.serve.attempt import Cancelled
from viewfold.serve.database import QueueError
from viewfold.serve.queue import Queue
from viewfold.serve.supervisor import Slot, Supervisor
from viewfold.serve.worker import named, work_off
from viewfold.stopping import StopRequest

Do = Callable[[Any, Callable[[], None]], dict[str, Any]]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue.sqlite")


def put(queue: Queue, title: str = "a red mug") -> str:
    return queue.submit("ann", "make", title, {"prompt": title}).id


def run(queue: Queue, do: Do, *, jobs: int = 1) -> StopRequest:
    """Let a worker do so many jobs, one after another."""
    stop, done = StopRequest(), 0

    def counted(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        nonlocal done
        done += 1
        try:
            return do(job, stopping)
        finally:
            if done >= jobs:
                stop.signum = signal.SIGTERM

    work_off(queue, "w", counted, stop)
    return stop


def test_a_job_that_is_done_has_its_figures(queue: Queue):
    job = put(queue)
    run(queue, lambda job, stopping: {"faces": 12})
    done = queue.get(job)
    assert done.state == "done" and done.result == {"faces": 12} and done.finished >= done.started >= done.created


def test_a_job_that_cannot_be_done_says_why_and_the_next_one_is_done(queue: Queue):
    bad, good = put(queue, "bad"), put(queue, "good")

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        if job.title == "bad":
            raise PromptError("`prompt` must say something; got ''.")
        return {}

    run(queue, do, jobs=2)
    assert queue.get(bad).error == {"code": "prompt_error", "message": "`prompt` must say something; got ''."}
    assert (queue.get(bad).state, queue.get(good).state) == ("failed", "done")


def test_what_nobody_foresaw_is_told_without_its_words_and_the_log_says_where(queue: Queue, capfd: Any):
    job = put(queue)

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        raise KeyError("the secret prompt of somebody")

    run(queue, do)
    error = queue.get(job).error
    log = capfd.readouterr().err
    assert error["code"] == "internal" and "KeyError" in error["message"]
    assert "secret" not in error["message"] and "secret" not in log and "worker.py" in log


def test_memory_that_ran_out_is_said_in_words(queue: Queue):
    job = put(queue)

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    run(queue, do)
    assert queue.get(job).error["code"] == "out_of_memory"


def test_a_job_that_is_cancelled_while_it_runs_ends_at_its_next_step(queue: Queue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("viewfold.serve.worker.ASK_S", 0.0)
    job, steps = put(queue), []

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        for step in range(100):
            stopping()
            steps.append(step)
            if step == 3:
                queue.cancel(job.id, "ann")
        return {}

    run(queue, do)
    assert steps == [0, 1, 2, 3] and queue.get(job).state == "cancelled"


def test_a_worker_that_is_told_to_go_gives_its_job_back(queue: Queue):
    job, stop = put(queue), StopRequest()

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        stop.signum = signal.SIGTERM
        stopping()
        raise AssertionError("it went on")

    work_off(queue, "w", do, stop)
    assert queue.get(job).state == "queued" and queue.get(job).resumed == 0


def test_a_worker_takes_back_first_what_the_one_before_of_its_name_had(queue: Queue):
    job = put(queue)
    queue.claim("w")
    queue.claim("other")
    seen = []
    run(queue, lambda job, stopping: seen.append((job.id, job.resumed)) or {})
    assert seen == [(job, 1)]


def test_a_result_is_said_again_until_the_disk_takes_it(queue: Queue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("viewfold.serve.worker.AGAIN_S", 0.0)
    job, failures = put(queue), [QueueError("`q` cannot be used: disk is full."), QueueError("`q` cannot be used.")]
    finish = queue.finish

    def failing(*args: Any, **kwargs: Any) -> bool:
        if failures:
            raise failures.pop()
        return finish(*args, **kwargs)

    monkeypatch.setattr(queue, "finish", failing)
    stop = StopRequest()

    def do(job: Any, stopping: Callable[[], None]) -> dict[str, Any]:
        threading.Timer(0.5, lambda: setattr(stop, "signum", signal.SIGTERM)).start()
        return {"faces": 1}

    work_off(queue, "w", do, stop)
    assert not failures and queue.get(job).result == {"faces": 1}


def test_two_workers_of_one_name_do_not_work_at_once(tmp_path: Path):
    with named(tmp_path, "w", wait_s=0.0):
        with pytest.raises(OutputError, match="served once at a time"), named(tmp_path, "w", wait_s=0.3):
            raise AssertionError("both had it")
        with named(tmp_path, "other", wait_s=0.0):
            pass
    with named(tmp_path, "w", wait_s=0.0):
        pass


def test_a_cancelled_job_leaves_nothing_to_go_on_from():
    assert issubclass(Cancelled, KeyboardInterrupt)  # so that no `except Exception` of a library swallows it


SLEEPER = """
import sys, time, pathlib
from viewfold.serve import worker
data, name = pathlib.Path(sys.argv[1]), sys.argv[2]
from viewfold.serve.queue import Queue
from viewfold.stopping import listening
def do(job, stopping):
    (data / f"began-{job.id}-{job.resumed}").touch()
    for _ in range(1200):
        stopping(); time.sleep(0.05)
        if (data / "go").exists():
            return {"resumed": job.resumed}
    return {}
with listening() as stop:
    worker.leave_with_parent()
    with worker.named(data, name):
        worker.work_off(Queue(data / "queue.sqlite"), name, do, stop)
"""


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers that hold a job until a file `go` is there."""
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)

    def start(self: Supervisor, slot: Slot) -> None:
        command = [sys.executable, str(script), str(self.data), slot.name]
        slot.process, slot.begun = subprocess.Popen(command, stdin=subprocess.PIPE), time.monotonic()

    monkeypatch.setattr(Supervisor, "_start", start)
    return tmp_path


def until(what: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Wait for something, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def test_a_supervisor_that_fails_once_goes_on(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    monkeypatch.setattr("viewfold.serve.supervisor.LOOK_S", 0.0)
    monkeypatch.setattr("viewfold.serve.supervisor.TIDY_S", 0.0)
    tried = []

    def tidy(self: Supervisor) -> None:
        tried.append(1)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Supervisor, "tidy", tidy)
    with Supervisor(tmp_path, queue, []):
        until(lambda: len(tried) > 2)
    assert "Permission denied" in capfd.readouterr().err


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_goes_on_in_the_next_one(queue: Queue, sleeper: Path):
    job = put(queue)
    slot = Slot(name="w")
    with Supervisor(sleeper, queue, [slot]):
        until((sleeper / f"began-{job}-0").exists)
        assert slot.process is not None
        slot.process.kill()
        until((sleeper / f"began-{job}-1").exists)
        (sleeper / "go").touch()
        done = until(lambda: (found := queue.get(job)).is_over and found)
    assert done.state == "done" and done.result == {"resumed": 1} and done.resumed == 1


@pytest.mark.slow
def test_a_server_that_ends_in_order_leaves_its_job_waiting(queue: Queue, sleeper: Path):
    job, slot = put(queue), Slot(name="w")
    with Supervisor(sleeper, queue, [slot]):
        until((sleeper / f"began-{job}-0").exists)
    assert slot.process is not None and slot.process.returncode == 0
    assert queue.get(job).state == "queued" and queue.get(job).resumed == 0


@pytest.mark.slow
def test_a_worker_goes_when_its_server_is_killed_and_its_job_waits(queue: Queue, sleeper: Path):
    job = put(queue)
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(sleeper / 'sleeper.py')!r}, {str(sleeper)!r}, 'w'], "
        "stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    worker = int(server.stdout.readline())
    until((sleeper / f"began-{job}-0").exists)
    server.kill(), server.wait(), server.stdout.close()
    until(lambda: queue.get(job).state == "queued")
    with pytest.raises(ProcessLookupError):
        until(lambda: os.kill(worker, 0) or not time.sleep(0.05) and False, seconds=30)


@pytest.mark.slow
def test_a_job_that_runs_too_long_is_ended_and_the_worker_begins_anew(queue: Queue, sleeper: Path):
    job = put(queue)
    with Supervisor(sleeper, queue, [Slot(name="w")], job_minutes=0.08):
        failed = until(lambda: (found := queue.get(job)).is_over and found)
        assert failed.state == "failed" and failed.error["code"] == "too_long"
        (sleeper / "go").touch()
        other = put(queue)
        until(lambda: queue.get(other).is_over)
    assert queue.get(other).state == "done"


@pytest.mark.slow
def test_what_a_place_that_is_filled_no_more_had_is_given_back(queue: Queue, sleeper: Path):
    job = put(queue)
    queue.claim("worker-7")
    (sleeper / "go").touch()
    with Supervisor(sleeper, queue, [Slot(name="w")]):
        until(lambda: queue.get(job).is_over)
    assert queue.get(job).result == {"resumed": 1}


def test_deleted_jobs_and_old_pictures_are_removed(queue: Queue, tmp_path: Path):
    job, kept = put(queue), put(queue)
    for name in (job, kept):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        (tmp_path / "jobs" / name / "request.json").write_text(json.dumps({}))
    pictures = tmp_path / "pictures" / "ann"
    pictures.mkdir(parents=True)
    queue.submit("ann", "personalize", "a zorb mug", {"pictures": ["waited-for"]})
    for name, age_s in (("old", 2 * 24 * 3600), ("new", 60), ("waited-for", 2 * 24 * 3600)):
        (pictures / f"{name}.png").touch()
        os.utime(pictures / f"{name}.png", (time.time() - age_s,) * 2)
    queue.hide(job, "ann")
    Supervisor(tmp_path, queue, []).tidy()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [kept]
    assert queue.hidden() == [] and sorted(path.name for path in pictures.iterdir()) == ["new.png", "waited-for.png"]
