"""`viewfold serve` under load: how soon a page, a job and a view come, and what 200 watchers cost a lift.

    python benchmarks/serve.py                          each figure beside what was asked of it
    python benchmarks/serve.py --jobs 1000 --lifts 3    memory over more jobs, more lifts with and without watchers

A server of its own in a new folder, one worker.  The watchers are a process of their own, of the lowest priority, which
on two cores shares the server's.  First paint needs playwright and Debian's chromium, and is left out without.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from viewfold.serve.client import Client
from viewfold.serve.folder import QUEUE
from viewfold.serve.queue import Queue, QueueLimits

WATCHERS = 200

ASKED = {
    "first paint (s)": 1.0,
    "first view after the click (s)": 4.0,
    "job accepted while another computes, median (ms)": 20.0,
    "lift beside 200 streams (ratio)": 1.05,
    "lift beside 200 pollers, one question a second each (ratio)": 1.05,
    "first page of 10,000 jobs, median (ms)": 50.0,
    "server's memory over the jobs (ratio)": 1.1,
    "worker's memory over the jobs (ratio)": 1.1,
}


@contextlib.contextmanager
def server(data: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the address and the process of a server; its log goes beside the data."""
    command = [sys.executable, "-m", "viewfold.cli", "serve", "--data", str(data), "--port", "0", "--queued", "20000"]
    with (data.parent / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0].rstrip("/")
            with Client(address) as client:
                client.wait(client.make("a red mug", quality="views")["id"])  # the model is there
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def first_paint(address: str) -> float | None:
    """Return the browser's first contentful paint, the best of three."""
    program = shutil.which("chromium")
    with contextlib.suppress(ImportError):
        from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

        if program is None:
            return None
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            times = []
            for _ in range(3):
                page = browser.new_page()
                page.goto(address)
                asked = "performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)"
                page.wait_for_function(f"{asked}.length > 0")
                times.append(page.evaluate(asked)[0] / 1000)
                page.close()
            browser.close()
            return min(times)
    return None


def first_view(client: Client) -> float:
    """Return the seconds from the click to the first picture of a view."""
    began = time.perf_counter()
    job = client.make("a blue car", quality="draft")
    for told in client.watch(job["id"]):
        if (told["progress"] or {}).get("preview") or told["state"] == "done":
            break
    seconds = time.perf_counter() - began
    client.delete(job["id"])
    return seconds


def accepted(client: Client, *, n: int) -> float:
    """Return the median milliseconds until a job is accepted while a lift runs."""
    lift, times, made = client.make("a red mug", quality="high")["id"], [], []
    while client.job(lift)["state"] == "queued":
        time.sleep(0.05)
    for _ in range(n):
        began = time.perf_counter()
        made.append(client.make("a red mug", quality="views")["id"])
        times.append(1000 * (time.perf_counter() - began))
    for job in (*made, lift):
        client.delete(job)
    return statistics.median(times)


def lift_seconds(client: Client, beside: Callable[[str], contextlib.AbstractContextManager[Any]] | None) -> float:
    """Return the seconds of a draft lift, perhaps beside others who watch it."""
    job = client.make("a red mug", quality="draft", seed=5)["id"]
    with contextlib.nullcontext() if beside is None else beside(job):
        done = client.wait(job)
    client.delete(job)
    return done["figures"]["seconds"]


@contextlib.contextmanager
def watchers(address: str, job: str, how: str) -> Iterator[None]:
    """Watch a job from a process of its own, `WATCHERS` times."""
    command = [sys.executable, __file__, "--watch", how, "--address", address, "--job", job]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def watch(address: str, job: str, how: str) -> None:
    """Be `WATCHERS` clients."""
    import httpx

    limits = httpx.Limits(max_connections=WATCHERS, max_keepalive_connections=WATCHERS)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=None) as client:

        async def one(number: int) -> None:
            await asyncio.sleep(number / WATCHERS)
            while True:
                if how == "stream":
                    async with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
                        async for _ in answer.aiter_lines():
                            pass
                    return
                await client.get(f"/v1/jobs/{job}")
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one(number) for number in range(WATCHERS)))


def listing() -> float:
    """Return the median milliseconds of the first page of a history of 10,000 jobs, its server's part."""
    from fastapi.testclient import TestClient

    from viewfold.serve.app import create_app

    with tempfile.TemporaryDirectory() as folder:
        queue = Queue(Path(folder) / QUEUE, limits=QueueLimits(queued=20_000, queued_each=20_000))
        with queue.file.writing() as db:
            db.executemany(
                "INSERT INTO job (id, owner, kind, title, request, state, created) VALUES (?, 'local', 'make', ?, "
                "'{}', 'done', 0)",
                [(f"{number:026d}", f"a red mug {number}") for number in range(10_000)],
            )
        client, times = TestClient(create_app(Path(folder), queue), base_url="http://localhost"), []
        for _ in range(30):
            began = time.perf_counter()
            assert client.get("/v1/jobs").json()["total"] == 10_000
            times.append(1000 * (time.perf_counter() - began))
        queue.close()
    return statistics.median(times)


def resident_mib(process: int) -> float:
    """Return the memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def memory(client: Client, pids: dict[str, int], *, jobs: int) -> dict[str, float]:
    """Return by how much processes grow from the first tenth of many small jobs to the last."""
    early: dict[str, float] = {}
    names: list[str] = []
    for number in range(jobs):
        names.append(client.make("a red mug", quality="views", steps=1, seed=number)["id"])
        if number % 20 == 19 or number == jobs - 1:
            client.wait(names[-1])
        if number + 1 == max(20, jobs // 10):
            early = {name: resident_mib(pid) for name, pid in pids.items()}
    client.wait(names[-1])
    late = {name: resident_mib(pid) for name, pid in pids.items()}
    print({name: f"{early[name]:.0f} -> {late[name]:.0f} MiB over {jobs} jobs" for name in pids})
    return {name: late[name] / early[name] for name in pids}


def worker_pid(data: Path) -> int:
    """Return the process of the worker, as the log says."""
    lines = (data.parent / "serve.log").read_text().splitlines()
    return [line["pid"] for line in map(json.loads, lines) if line["event"] == "worker_ready"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="small ones, for memory")
    parser.add_argument("--lifts", type=int, default=2, help="with and without watchers, each")
    parser.add_argument("--watch", choices=["stream", "poll"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        os.nice(19)  # they stand for other machines: what they compute themselves should cost the lift nothing
        asyncio.run(watch(options.address, options.job, options.watch))
        return
    found: dict[str, float | None] = {"first page of 10,000 jobs, median (ms)": listing()}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "serve"
        with server(data) as (address, process), Client(address) as client:
            found["first paint (s)"] = first_paint(address)
            found["first view after the click (s)"] = min(first_view(client) for _ in range(3))
            found["job accepted while another computes, median (ms)"] = accepted(client, n=50)
            alone, streamed, polled = [], [], []
            for _ in range(options.lifts):  # in turn, so that a machine that changes its pace does so for all
                alone.append(lift_seconds(client, None))
                streamed.append(lift_seconds(client, lambda job: watchers(address, job, "stream")))
                polled.append(lift_seconds(client, lambda job: watchers(address, job, "poll")))
            print(f"lifts alone {alone}, beside streams {streamed}, beside pollers {polled} s")
            found["lift beside 200 streams (ratio)"] = min(streamed) / min(alone)
            found["lift beside 200 pollers, one question a second each (ratio)"] = min(polled) / min(alone)
            pids = {"server": process.pid, "worker": worker_pid(data)}
            for name, ratio in memory(client, pids, jobs=options.jobs).items():
                found[f"{name}'s memory over the jobs (ratio)"] = ratio
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end\n")
    print("| | here | asked |\n|---|---|---|")
    for name, asked in ASKED.items():
        value = found.get(name)
        print(f"| {name} | {'not measured' if value is None else f'{value:.3g}'} | {asked:g} |")


if __name__ == "__main__":
    main()
