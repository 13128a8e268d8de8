"""Work on a cluster: by a pool in this process, and (heavy) by Ray with workers and drivers that are killed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from viewfold.camera import Cameras
from viewfold.cluster import Cluster
from viewfold.data.assets import write_assets
from viewfold.data.pool import WorkerDied, work_in_pool
from viewfold.data.render import RenderSettings, render_assets
from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError, OutputError
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

FOUR = Cameras.orbit(4, elevation_deg=15)
SETTINGS = RenderSettings(size=16, orbits=1, views=2)


class Here:
    """A pool that works at once, in this process, and notes how many calls it had at the same time."""

    at_once = 3

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, work: Any, /, *args: Any) -> Future[Any]:
        self.calls.append(args)
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Judge:
    """Work that some items fail."""

    made = 0

    def __init__(self, bad: str) -> None:
        Judge.made += 1
        self.bad = bad

    def __call__(self, item: str) -> str | None:
        if item == "dead":
            raise WorkerDied("its worker died 4 times")
        if item == "full":
            raise OutputError("the disk is full")
        return "it is bad" if item == self.bad else None


def test_a_pool_is_never_given_more_than_it_asks_for_and_each_result_belongs_to_its_item() -> None:
    asked: list[str] = []

    def items():
        for item in ("a", "bad", "dead", "b", "c"):
            asked.append(item)
            yield item

    pool, before = Here(), Judge.made
    results = work_in_pool(items(), functools.partial(Judge, "bad"), pool)
    first = next(results)
    assert asked == ["a", "bad", "dead"]
    found = dict([first, *results])
    assert found == {"a": None, "bad": "it is bad", "dead": "its worker died 4 times", "b": None, "c": None}
    assert Judge.made == before + 1, "a worker makes what it works with once"
    with pytest.raises(OutputError, match="disk is full"):
        list(work_in_pool(["full"], functools.partial(Judge, "bad"), pool))


def test_renders_of_a_pool_are_those_of_this_process(tmp_path: Path) -> None:
    write_assets(tmp_path / "assets", count=2)
    (tmp_path / "assets" / "broken.glb").write_bytes(b"glTF")
    (tmp_path / "assets" / "broken.txt").write_text("a mug")
    one = render_assets(tmp_path / "assets", tmp_path / "one", settings=SETTINGS)
    two = render_assets(tmp_path / "assets", tmp_path / "two", settings=SETTINGS, pool=Here())
    assert (one.done, one.failed[0][0]) == (two.done, two.failed[0][0]) == (2, "broken.glb")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.webp"))
    assert len(files) == 4
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    again = render_assets(tmp_path / "assets", tmp_path / "two", settings=SETTINGS, pool=Here())
    assert (again.done, again.skipped, len(again.failed)) == (0, 2, 1)


@pytest.mark.parametrize(("more", "message"), [
    (["--workers", "2"], "`--workers` must be left out with"),
    (["--timeout", "3"], "`--timeout` and"),
])  # fmt: skip
def test_what_a_cluster_does_not_do_is_refused(more: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    from viewfold.cli import main

    assert main(["render", str(tmp_path), "--out", str(tmp_path / "out"), "--cluster", "auto", *more]) == 2
    assert message in capsys.readouterr().err
    assert main(["generate", "a mug", "--cluster", "auto"]) == 2


@pytest.mark.parametrize(("said", "begun"), [("Could not find any running Ray instance.", 2), ("Failed to connect", 1)])
def test_auto_begins_a_cluster_where_there_is_none_and_not_beside_one_that_keeps_us_out(said: str, begun: int) -> None:
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        calls.append(options)
        if "address" in options:
            raise ConnectionError(said)

    cluster = object.__new__(Cluster)
    cluster._ray = SimpleNamespace(init=init)
    with contextlib.nullcontext() if begun == 2 else pytest.raises(InputError, match="ask for a token"):
        cluster._connect("auto")
    assert len(calls) == begun


def run(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "viewfold.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def workers() -> list[int]:
    """Processes of Ray that have a unit in hand; its own agents stay."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                line = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"ray::_work"):
                found.append(int(path.name))
    return found


@pytest.mark.heavy
def test_ray_renders_what_one_process_does_though_workers_and_the_driver_are_killed(tmp_path: Path) -> None:
    """Kill each worker once, then the driver, then start again: every asset is there once, as without a cluster."""
    pytest.importorskip("ray")
    write_assets(tmp_path / "assets", count=30)
    flags = ["--size", "96", "--orbits", "2", "--views", "8"]
    with run("render", str(tmp_path / "assets"), "--out", str(tmp_path / "alone"), *flags) as alone:
        said, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, said
    out = tmp_path / "out"
    command = ["render", str(tmp_path / "assets"), "--out", str(out), *flags, "--cluster", "auto"]

    def count() -> int:
        return len(list(out.glob("*/meta.json")))

    killed, end = set(), time.monotonic() + 240
    with run(*command, start_new_session=True) as process:
        while count() < 12 and time.monotonic() < end:
            for pid in workers():
                if pid not in killed and len(killed) < 2 and count() > 2 * len(killed):
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert len(killed) == 2 and 12 <= count() < 30
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"], capture_output=True)
    with run(*command) as done:
        said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    names = sorted(path.parent.name for path in (tmp_path / "alone").glob("*/meta.json"))
    assert len(names) == 30 and names == sorted(path.parent.name for path in out.glob("*/meta.json"))
    for name in names:
        for picture in (tmp_path / "alone" / name).glob("*.webp"):
            assert picture.read_bytes() == (out / name / picture.name).read_bytes()


@pytest.mark.heavy
def test_ray_draws_a_file_of_prompts_and_names_what_it_cannot(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red mug\na blue chair\n" + "x" * 20_000 + "\n")
    command = ["generate", "--prompts", str(prompts), "--out", str(tmp_path / "out"), "--steps", "1"]
    with run(*command, "--cluster", "auto") as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and "xxx" in said, said
    assert sorted(json.loads(path.read_text())["prompt"] for path in (tmp_path / "out").glob("*/run.json")) == [
        "a blue chair", "a red mug"
    ]  # fmt: skip


@pytest.mark.heavy
def test_ray_measures_what_one_process_does_in_the_same_order(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for number in range(3):
        rgb = rasterize(sample_asset(number).mesh(), FOUR, size=32).over(0.5)
        Views(rgb=rgb, cameras=FOUR).save(tmp_path / "many" / str(number), turntable=False)
    (tmp_path / "many" / "1" / "002.png").write_bytes(b"no picture")
    said = []
    for more in ([], ["--cluster", "auto"]):
        with run("evaluate", "many", "--json", *more, cwd=tmp_path) as process:
            said.append(process.communicate(timeout=300)[0])
            assert process.returncode == 3, said
    records = [[json.loads(line) for line in out.splitlines() if line.startswith("{")] for out in said]
    assert records[0] == records[1] and [record["path"] for record in records[0]] == ["many/0", "many/2"]


@pytest.mark.heavy
def test_a_cluster_that_asks_for_its_token_is_joined_by_its_address(tmp_path: Path) -> None:
    """`ray start` asks everybody for the token in ~/.ray, if there is one; Ray's own `init` does not bring it along."""
    pytest.importorskip("ray")
    write_assets(tmp_path / "assets", count=2)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = [
        "start",
        "--head",
        "--num-cpus=1",
        "--include-dashboard=false",
        "--port=6398",
        "--node-ip-address=127.0.0.1",
    ]
    try:
        subprocess.run([*ray, *head], check=True, capture_output=True, env=environment, timeout=120)
        command = ["render", str(tmp_path / "assets"), "--out", str(tmp_path / "out"), "--size", "16"]
        with run(*command, "--cluster", "127.0.0.1:6398", env=environment) as process:
            said, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and "2 assets rendered" in said, said
    finally:
        subprocess.run([*ray, "stop", "--force"], capture_output=True, env=environment)


@pytest.mark.heavy
def test_an_address_without_a_cluster_is_named() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="there is none at 127.0.0.1:1"):
        Cluster("127.0.0.1:1")
