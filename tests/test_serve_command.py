"""`viewfold serve` as a person starts it: from a prompt to an asset, through kill -9 of either side, and in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from viewfold.cli import main
from viewfold.scene.meshfile import load_mesh
from viewfold.serve.client import Client
from viewfold.serve.queue import Queue
from viewfold.serve.server import _listen


@contextmanager
def started(data: Path, *options: str, kill: bool = True) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a server's process and address."""
    command = [sys.executable, "-m", "viewfold.cli", "serve", "--data", str(data), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = (data.parent / f"{data.name}.log").open("a")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("http://"), (data.parent / f"{data.name}.log").read_text()
        yield server, line.split()[0]
    finally:
        if kill and server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(90)
        server.stdout.close()
        log.close()


def until(what: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


def said(data: Path, event: str) -> list[dict[str, Any]]:
    """Return the lines of the log of one kind."""
    lines = (data.parent / f"{data.name}.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.mark.slow
def test_a_server_that_ends_in_order_ends_its_workers_and_leaves_what_waits(tmp_path: Path):
    data = tmp_path / "serve"
    with started(data) as (server, address), Client(address) as client:
        job = client.make("a red mug", quality="views")
        done = client.wait(job["id"])
        assert done["state"] == "done" and done["figures"]["views"] == 4
        assert client.about()["models"][0]["image_size"] == 64
        waits = client.make("a blue car", quality="high")
        until(lambda: client.job(waits["id"])["state"] == "running")
        server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
    queue = Queue(data / "queue.sqlite")
    assert queue.get(waits["id"]).state == "queued" and queue.get(waits["id"]).resumed == 0
    assert said(data, "job_given_back") and said(data, "ended")
    assert "red mug" not in (tmp_path / "serve.log").read_text()


@pytest.mark.heavy
def test_a_job_survives_the_death_of_its_worker_and_of_the_server_and_goes_on_from_where_it_was(tmp_path: Path):
    data = tmp_path / "serve"
    with started(data, kill=False) as (server, address), Client(address) as client:
        job = client.make("a red mug", quality="draft", seed=3)["id"]
        whole = client.make("a red mug", quality="draft", seed=3)["id"]
        until(lambda: (client.job(job)["progress"] or {}).get("phase") == "fit")
        os.kill(said(data, "worker_ready")[-1]["pid"], signal.SIGKILL)
        until(lambda: client.job(job)["resumed"] == 1 and (client.job(job)["progress"] or {}).get("phase") == "mesh")
        assert any("goes on from" in note for note in client.job(job)["notes"])
        server.kill()
    with started(data) as (_, address), Client(address) as client:
        done, other = client.wait(job), client.wait(whole)
        assert done["state"] == other["state"] == "done" and done["resumed"] == 1  # told to go is no death
        for each in (job, whole):
            client.download(each, "asset.glb", tmp_path / f"{each}.glb")
        assert [said["state"] for said in client.jobs()] == ["done", "done"]
    # What was killed twice is, bit for bit, what was not.
    meshes = [load_mesh(tmp_path / f"{each}.glb") for each in (job, whole)]
    assert meshes[0].vertices.equal(meshes[1].vertices) and meshes[0].faces.equal(meshes[1].faces)


@pytest.mark.slow
def test_two_servers_do_not_share_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = tmp_path / "serve"
    with started(data):
        assert main(["serve", "--data", str(data), "--port", "0"]) == 4
    assert "another server is at work" in capfd.readouterr().err


def test_another_address_wants_tokens_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = str(tmp_path / "serve")
    assert main(["serve", "--data", data, "--host", "0.0.0.0"]) == 2
    assert "--add-user NAME" in capfd.readouterr().err
    assert main(["serve", "--data", data, "--add-user", "ann"]) == 0
    token = capfd.readouterr().out.strip()
    assert len(token) >= 43 and token not in (tmp_path / "serve" / "tokens.json").read_text()
    assert main(["serve", "--data", data, "--remove-user", "ann"]) == 0
    assert main(["serve", "--data", data, "--remove-user", "ann"]) == 2
    assert "--remove-user" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "65536"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--job-minutes", "0"], "--job-minutes"),
        (["--queued", "0"], "--queued"),
        (["--host", "no.such.host.invalid", "--port", "80"], "--host"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: str
):
    data = tmp_path / "serve"
    if options[0] == "--host":
        main(["serve", "--data", str(data), "--add-user", "ann"])
    assert main(["serve", "--data", str(data), *options]) == 2
    assert words in capfd.readouterr().err


def test_small_answers_are_sent_at_once():
    """asyncio switches Nagle's delay off by the protocol of the socket: 40 ms an answer."""
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_damaged_queue_is_refused_and_left_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "queue.sqlite").write_bytes(b"no database" * 1000)
    assert main(["serve", "--data", str(tmp_path), "--port", "0"]) == 4
    assert "sound SQLite file" in capfd.readouterr().err
    assert (tmp_path / "queue.sqlite").read_bytes() == b"no database" * 1000
