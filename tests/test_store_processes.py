"""Several processes that write one place: whole results alone, and nothing left of those that were killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from test_store import names, posix, text_of, two_ways, write

from viewfold.errors import OutputError
from viewfold.store import atomic_write, lock, temporary

__all__ = ["two_ways"]

WRITER = """
import os, sys, time
from pathlib import Path
from viewfold.store import atomic_write, sync
path, who, count, way = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
if "turns" in way:
    sync._renameat2 = lambda: None
if "dies" in way:
    real = os.replace
    os.replace = lambda *paths: os.kill(os.getpid(), 9) if str(paths[1]) == str(path) else real(*paths)
for index in range(count):
    with atomic_write(path) as new:
        new.mkdir()
        for name in ("a", "b"):
            (new / name).write_text(f"{who} {index}")
        if "waits" in way:
            print("ready", flush=True)
            time.sleep(60)
"""


@contextmanager
def writer(path: Path, who: str, *, count: int = 1, way: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(path), who, str(count), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if "waits" in way:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_of_two_writers_of_one_folder_a_reader_always_sees_a_whole_result(two_ways: str, tmp_path: Path) -> None:
    path, seen = tmp_path / "a", set()
    write(path, "first")
    with writer(path, "x", count=200, way=two_ways) as x, writer(path, "y", count=200, way=two_ways) as y:
        until = time.monotonic() + 60
        while None in (x.poll(), y.poll()) and time.monotonic() < until:
            try:
                folder = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                assert two_ways == "by turns"
                continue
            try:
                seen.add(whole(folder))
            except FileNotFoundError:
                pass  # this one was replaced while it was read
            finally:
                os.close(folder)
        assert (x.wait(60), y.wait(60)) == (0, 0)
    assert len(seen) > 10 and text_of(path) in ("x 199", "y 199") and names(tmp_path) == ["a"]


def whole(folder: int) -> str:
    texts = []
    for name in ("a", "b"):
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
            texts.append(file.read())
    assert texts[0] == texts[1] != ""
    return texts[0]


@posix
def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with writer(path, "killed", way="waits") as killed, writer(path, "alive", way="waits"):
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        assert names(tmp_path) == [".a.viewfold-0", ".a.viewfold-1"]
        assert text_of(tmp_path / ".a.viewfold-0" / "new" / "a") == "killed 0"
        write(tmp_path / "b", "of another name")
        assert len(names(tmp_path)) == 3
        write(path, "whole")
        assert names(tmp_path) == [".a.viewfold-1", "a", "b"]
        assert text_of(tmp_path / ".a.viewfold-1" / "new" / "a") == "alive 0"
    write(path, "again")
    assert names(tmp_path) == ["a", "b"] and text_of(path) == "again"


KILLED_AT_EACH_LINE = """
import os, shutil, signal, sys, time
from pathlib import Path
from viewfold.store import atomic_write, temporary
path, then = Path(sys.argv[1]), sys.argv[2]

def traced(frame, event, argument):
    global left
    if frame.f_code.co_filename == temporary.__file__ and event == "line":
        left -= 1
        if left == 0:
            if then == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)  # while the other one looks for what is left
    return traced

line = killed = 0
while killed == line:
    line, left = line + 1, line + 1
    child = os.fork()
    if child == 0:
        sys.settrace(traced)
        with atomic_write(path) as new:
            new.write_text("child")
        os._exit(0)
    if then == "dies":
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    else:
        time.sleep(0.03)
    temporary.sweep(path)
    here = sorted(entry.name for entry in path.parent.iterdir())
    if then != "dies":
        assert os.waitpid(child, 0)[1] == 0, line
        killed += line < 60
        here = sorted(entry.name for entry in path.parent.iterdir())
    assert here in ([path.name], []), (line, here)
print(line)
"""


@posix
@pytest.mark.parametrize("then", ["dies", "waits"])
def test_a_writer_is_killed_or_kept_waiting_at_any_line_of_ours(then: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_LINE, str(tmp_path / "a"), then],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 60


@posix
def test_what_was_killed_on_another_machine_is_left_alone(tmp_path: Path) -> None:
    """Whether its writer is gone cannot be told from here: some network disks keep locks within a machine."""
    with writer(tmp_path / "a", "killed", way="waits") as killed:
        killed.send_signal(signal.SIGKILL)
    (tmp_path / ".a.viewfold-0" / "held").write_text("elsewhere")
    write(tmp_path / "a", "whole")
    assert names(tmp_path) == [".a.viewfold-0", "a"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="tells which files are open on Linux alone")
@pytest.mark.parametrize("locks", [True, False])
def test_nothing_stays_on_a_disk_that_keeps_what_is_open(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives a file that is removed while it is open another name in its folder; Windows does not remove it."""
    real = shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if not any(Path(name).is_relative_to(path) for name in open_files()):
            real(path, **options)

    monkeypatch.setattr(temporary.shutil, "rmtree", rmtree)
    if not locks:
        monkeypatch.setattr(temporary, "fcntl", None)
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "b") as new:
        new.write_text("half")
        raise ZeroDivisionError
    write(tmp_path / "a", "first")
    write(tmp_path / "a", "second")
    assert names(tmp_path) == ["a"] and text_of(tmp_path / "a") == "second"


def open_files() -> Iterator[str]:
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the list itself
            yield os.readlink(f"/proc/self/fd/{descriptor}")


@posix
def test_a_folder_whose_writer_was_killed_between_two_renames_returns(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, "before")
    with writer(path, "killed", way="turns, dies") as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert names(tmp_path) == [".a.viewfold-0"]
    with pytest.raises(ZeroDivisionError), atomic_write(path):
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and text_of(path) == "before"


def test_a_lock_is_for_one_at_a_time_and_says_so_in_the_words_of_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.lock"
    with (
        lock(path, "one at a time."),
        pytest.raises(OutputError, match=r"^one at a time\.$"),
        lock(path, "one at a time."),
    ):
        pytest.fail("two hold it")
    with lock(path, "it is free again"):
        pass
    with pytest.raises(OutputError, match="cannot be locked"), lock(tmp_path / "deep", ""):
        pass
