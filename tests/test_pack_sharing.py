"""Packing by several processes: workers that read for it, a second packing at the same time, sources of one name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_cluster import Here
from test_packing import uids_in, write_small
from test_shards import write_render

from viewfold.cli import main
from viewfold.data.gallery import find_pictures
from viewfold.data.manifest import read_manifest
from viewfold.data.packing import pack
from viewfold.data.pool import WorkerDied
from viewfold.data.selection import Selection
from viewfold.data.workers import Workers


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def renders(folder: Path, count: int) -> Path:
    for number in range(count):
        write_small(folder, f"asset{number:02d}", views=2, caption=f"mug {number}")
    return folder


def test_shards_are_the_same_whoever_reads_and_nobody_reads_far_ahead(tmp_path: Path) -> None:
    source = renders(tmp_path / "renders", 9)
    (source / "asset04" / "000.webp").write_bytes(b"broken")
    few = Selection(caption_match="mug [0-6]")
    alone = pack(source, tmp_path / "alone", samples_per_shard=4, selection=few)
    pool = Here()
    shared = pack(source, tmp_path / "shared", samples_per_shard=4, selection=few, pool=pool)
    assert (alone.failed, alone.samples, alone.refused) == (shared.failed, shared.samples, shared.refused)
    assert tars(tmp_path / "alone") == tars(tmp_path / "shared") and alone.samples == 6
    assert len(pool.calls) == 9
    write_small(source, "asset02", views=2, caption="mug 0, another")
    for out, more in ((tmp_path / "alone", {}), (tmp_path / "shared", {"pool": (again := Here())})):
        pack(source, out, samples_per_shard=4, selection=few, **more)
    assert tars(tmp_path / "alone") == tars(tmp_path / "shared")
    assert {call[0].uid for call in again.calls} == {"asset02", "asset04", "asset07", "asset08"}, "what is not packed"


class Mortal(Here):
    """A pool whose worker dies over one item."""

    def submit(self, work: Any, /, *args: Any) -> Future[Any]:
        if args[0].uid != "asset01":
            return super().submit(work, *args)
        future: Future[Any] = Future()
        future.set_exception(WorkerDied("its worker died 4 times"))
        return future


def test_an_item_over_which_workers_die_is_named_and_tried_again_next_time(tmp_path: Path) -> None:
    source = renders(tmp_path / "renders", 3)
    report = pack(source, tmp_path / "out", pool=Mortal())
    assert report.samples == 2 and report.failed == [("asset01", "`asset01` cannot be read: its worker died 4 times.")]
    assert pack(source, tmp_path / "out").samples == 1 and len(uids_in(tmp_path / "out")) == 3


@pytest.mark.slow
def test_processes_that_are_killed_leave_the_work_to_this_one(tmp_path: Path) -> None:
    source = renders(tmp_path / "renders", 12)
    with Workers(2) as pool:
        pool.submit(os.getpid).result()
        for process in list(pool._pool._processes.values()):  # noqa: SLF001 - as the system would
            os.kill(process.pid, signal.SIGKILL)
        report = pack(source, tmp_path / "out", pool=pool)
    assert report.samples == 12 and report.failed == []


@pytest.mark.slow
def test_two_packings_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    source = tmp_path / "renders"
    for number in range(24):
        write_render(source, f"asset{number:02d}", value=number / 24)
    command = [sys.executable, "-m", "viewfold.cli", "pack", str(source), "--out", str(tmp_path / "out")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes and set(codes) <= {0, 4}, said
    assert all("another one is packing" in text for code, text in zip(codes, said, strict=True) if code)
    assert main(command[3:]) == 0
    assert uids_in(tmp_path / "out") == [f"asset{number:02d}" for number in range(24)]


def test_two_sources_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    write_small(tmp_path / "one", "mug", caption="a red mug")
    write_small(tmp_path / "two", "mug", caption="a blue mug")
    write_small(tmp_path / "two", "car")
    pack(tmp_path / "one", tmp_path / "out")
    report = pack(tmp_path / "two", tmp_path / "out")
    assert report.samples == 1 and f"packed from `{tmp_path / 'one' / 'mug'}` already" in report.failed[0][1]
    assert read_manifest(tmp_path / "out")["mug"].captions == ("a red mug",)
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    assert pack(tmp_path / "moved", tmp_path / "out").kept == 2, "the same content may come from elsewhere"
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(tmp_path / "moved")
    assert pack(tmp_path / "two", tmp_path / "out").replaced == 1


def test_two_tars_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder, colour in (("one", (255, 0, 0)), ("two", (0, 0, 255))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / "a.png")
        with tarfile.open(tmp_path / folder / "00000.tar", "w") as tar:
            tar.add(tmp_path / "a.png", "000.png")
            (tmp_path / "a.txt").write_text(folder)
            tar.add(tmp_path / "a.txt", "000.txt")
    assert pack(find_pictures(tmp_path / "one"), tmp_path / "out").samples == 1
    report = pack(find_pictures(tmp_path / "two"), tmp_path / "out")
    assert report.replaced == 0 and "already, with another content" in report.failed[0][1]


@pytest.mark.heavy
def test_ray_packs_what_one_process_does(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = renders(tmp_path / "renders", 20)
    assert main(["pack", str(source), "--out", str(tmp_path / "alone")]) == 0
    command = [sys.executable, "-m", "viewfold.cli", "pack", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--cluster", "auto"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert tars(tmp_path / "out") == tars(tmp_path / "alone")
