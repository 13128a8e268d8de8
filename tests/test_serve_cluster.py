"""The queue of `viewfold serve` in front of a cluster: jobs are done once, told to end by folder, and given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_serve_command import started

from viewfold.cli import main
from viewfold.data.pool import WorkerDied
from viewfold.errors import PromptError
from viewfold.serve.attempt import End, attempt
from viewfold.serve.client import Client
from viewfold.serve.dispatch import give_out, told_by_files
from viewfold.serve.folder import jobs_folder
from viewfold.serve.queue import Queue
from viewfold.stopping import StopRequest


class Threads:
    """A pool of threads, as `viewfold.cluster` is one of machines."""

    at_once = 4

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(2)

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        return self.threads.submit(work, *args)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue.sqlite")


@contextmanager
def giving(queue: Queue, data: Path, do: Callable[[Path, str, Any], End | None]) -> Iterator[StopRequest]:
    """Give jobs out until the block ends."""
    stop = StopRequest()
    told = {"device": None, "stop": stop, "do": do}
    thread = threading.Thread(target=give_out, args=(data, queue, "cluster", Threads()), kwargs=told)
    thread.start()
    try:
        yield stop
    finally:
        stop.signum = 15
        thread.join(30)
        assert not thread.is_alive()


def put(queue: Queue, title: str = "a red mug") -> str:
    return queue.submit("ann", "make", title, {"kind": "make", "prompt": title}).id


def over(queue: Queue, *jobs: str) -> list[Any]:
    end = time.monotonic() + 30
    while not all(queue.get(job).is_over for job in jobs):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [queue.get(job) for job in jobs]


def test_jobs_are_done_each_once_and_each_end_is_told(queue: Queue, tmp_path: Path):
    jobs, seen = [put(queue, f"job {number}") for number in range(9)], []

    def do(data: Path, job: str, device: Any) -> End | None:
        seen.append(job)
        number = jobs.index(job)
        if number == 7:
            raise WorkerDied("its worker died 4 times")

        def work() -> dict[str, Any]:
            if number == 8:
                raise PromptError("`prompt` must say something.")
            return {"number": number}

        return attempt(job, work)

    with giving(queue, tmp_path, do):
        ended = over(queue, *jobs)
    assert sorted(seen) == sorted(jobs)
    assert [job.result for job in ended[:7]] == [{"number": number} for number in range(7)]
    assert [job.error["code"] for job in ended[7:]] == ["worker_died", "prompt_error"]
    assert (jobs_folder(tmp_path) / jobs[0] / "request.json").is_file()


def test_a_job_there_is_cancelled_by_its_folder_and_given_back_when_the_server_goes(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("viewfold.serve.dispatch.ASK_S", 0.0)
    unwanted, unfinished = put(queue, "unwanted"), put(queue, "unfinished")
    begun: set[str] = set()

    def do(data: Path, job: str, device: Any) -> End | None:
        stopping = told_by_files(jobs_folder(data) / job)
        begun.add(job)

        def work() -> dict[str, Any]:
            for _ in range(3000):
                stopping()
                time.sleep(0.01)
            return {}

        return attempt(job, work)

    with giving(queue, tmp_path, do):
        while len(begun) < 2:
            time.sleep(0.01)
        queue.cancel(unwanted, "ann")
        assert over(queue, unwanted)[0].state == "cancelled"
    back = queue.get(unfinished)
    assert back.state == "queued" and back.resumed == 0
    with giving(queue, tmp_path, lambda data, job, device: End("done", figures={"again": True})):
        assert over(queue, unfinished)[0].result == {"again": True}


def test_a_job_whose_machine_is_told_to_go_is_given_to_another(queue: Queue, tmp_path: Path):
    job, times = put(queue), []

    def do(data: Path, job: str, device: Any) -> End | None:
        times.append(job)
        return None if len(times) == 1 else End("done", figures={})

    with giving(queue, tmp_path, do):
        assert over(queue, job)[0].state == "done"
    assert times == [job, job]


def test_a_cluster_has_its_own_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["serve", "--data", str(tmp_path), "--cluster", "auto", "--workers", "2"]) == 2
    assert "--workers" in capfd.readouterr().err


@pytest.mark.heavy
def test_ray_draws_and_lifts_what_is_asked_for_on_the_page(tmp_path: Path):
    pytest.importorskip("ray", reason="a cluster is Ray's")
    data = tmp_path / "serve"
    with started(data, "--cluster", "auto") as (_, address), Client(address) as client:
        jobs = [client.make(prompt, quality="views")["id"] for prompt in ("a red mug", "a blue car")]
        done = [client.wait(job) for job in jobs]
        assert [job["state"] for job in done] == ["done", "done"] and client.about()["models"][0]["image_size"] == 64
        assert client.download(jobs[0], "view-000.png", tmp_path / "0.png").stat().st_size > 0
        long = client.make("a red mug", quality="high")["id"]
        for told in client.watch(long):
            if (told["progress"] or {}).get("phase") == "fit":
                break
        client.cancel(long)
        assert client.wait(long)["state"] == "cancelled"
