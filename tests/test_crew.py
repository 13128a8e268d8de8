"""Work under limits: what hangs, grows or dies is named, and the rest goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from viewfold.data import crew
from viewfold.data.crew import Limits, resident_bytes, work_through
from viewfold.errors import InputError, OutputError


class Worker:
    """Does what an item says, and notes how often each was begun."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __call__(self, item: str) -> str | None:
        with (self.notes / item).open("a") as file:
            file.write("x")
        match item:
            case "hang":
                time.sleep(60)
            case "child hangs":
                subprocess.run(["sleep", "60"], check=False)
            case "grow":
                taken = []
                while True:
                    taken.append(bytearray(os.urandom(2**20) * 32))
                    time.sleep(0.002)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "full":
                raise OutputError("no space")
            case "bad":
                return "is bad"
        return None


class Maker:
    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __call__(self) -> Worker:
        return Worker(self.notes)


def begun(notes: Path, item: str) -> int:
    return len((notes / item).read_text())


def test_without_limits_one_worker_is_this_process_and_takes_items_as_it_goes(tmp_path: Path) -> None:
    taken: list[str] = []

    def items():
        for name in ("a", "bad", "c"):
            taken.append(name)
            yield name

    results = work_through(items(), Maker(tmp_path), workers=1, limits=Limits())
    assert next(results) == ("a", None) and taken == ["a"]
    assert list(results) == [("bad", "is bad"), ("c", None)]


@pytest.mark.slow
def test_who_hangs_or_dies_is_named_after_its_retries_and_the_rest_goes_on(tmp_path: Path) -> None:
    items = ["a", "hang", "bad", "child hangs", "die", "b", "c"]
    limits = Limits(timeout_s=1.0, retries=1)
    found = dict(work_through(items, Maker(tmp_path), workers=2, limits=limits))
    assert found == {
        "a": None,
        "b": None,
        "c": None,
        "bad": "is bad",
        "hang": "it took more than 1 s, 2 times",
        "child hangs": "it took more than 1 s, 2 times",
        "die": "its process died (SIGKILL), probably for lack of memory, 2 times",
    }
    assert [begun(tmp_path, name) for name in ("a", "bad", "hang", "die")] == [1, 1, 2, 2]


@pytest.mark.slow
def test_who_grows_is_ended_before_the_machine_is_full(tmp_path: Path) -> None:
    limits = Limits(memory_gib=1.0, retries=0)
    found = dict(work_through(["grow", "a"], Maker(tmp_path), workers=1, limits=limits))
    assert found == {"grow": "it took more than 1 GiB of memory", "a": None}


@pytest.mark.slow
def test_a_failure_that_ends_the_run_ends_the_processes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no space"):
        list(work_through(["hang", "full"], Maker(tmp_path), workers=2, limits=Limits()))
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert not [name for name in names if b"spawn_main" in name]


def test_the_memory_of_a_process_includes_that_of_those_that_it_starts() -> None:
    code = "import time; taken = bytes(1) * 2**26; taken = bytearray(taken); print('x', flush=True); time.sleep(60)"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    with subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.read(1) == b"x"
        assert resident_bytes(process.pid) > 2**26
        os.killpg(process.pid, signal.SIGKILL)
    assert resident_bytes(process.pid) == 0


@pytest.mark.parametrize(("name", "value"), [("timeout_s", 0.0), ("memory_gib", -1.0), ("retries", -1)])
def test_limits_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"`{name}` must"):
        Limits(**{name: value})


def test_memory_is_refused_where_it_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew.Path, "is_file", lambda self: False)
    with pytest.raises(InputError, match="only Linux"):
        Limits(memory_gib=1.0)
