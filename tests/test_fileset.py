"""Files that belong together take their places together: after a failure, a kill, and beside other writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_store import names, posix

from viewfold.errors import OutputError
from viewfold.store import atomic_files, complete_files, fileset

OLD = {"a.obj": "old: a.mtl", "a.mtl": "old", "a_1.png": "old", "a.json": "old"}
NEW = {"a.obj": "new: a.mtl", "a.mtl": "new", "a.webp": "new", "a.json": "new"}
"""A set over an older one: two files replaced beside the main one, one new, one (a_1.png) no longer there."""


def write(folder: Path, files: dict[str, str], *, alone: bool = False, stale: tuple[str, ...] = ("a_1.png",)) -> None:
    with atomic_files(folder / "a.obj", alone=alone, stale=lambda path: stale) as new:
        for name, text in files.items():
            new.with_name(name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_set_appears_and_replaces_an_older_one_with_what_it_left(tmp_path: Path) -> None:
    write(tmp_path / "deep", OLD, stale=())
    assert read(tmp_path / "deep") == OLD
    (tmp_path / "deep" / "other.png").write_text("somebody else's")
    write(tmp_path / "deep", NEW)
    assert read(tmp_path / "deep") == NEW | {"other.png": "somebody else's"}


def test_a_block_that_fails_or_does_not_make_the_main_file_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD, stale=())
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path / "a.obj") as new:
        new.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError, match="did not make it"), atomic_files(tmp_path / "a.obj") as new:
        new.with_name("a.mtl").write_text("half")
    assert read(tmp_path) == OLD


def test_a_stale_name_that_the_new_set_has_too_stays(tmp_path: Path) -> None:
    write(tmp_path, OLD, stale=())
    write(tmp_path, NEW, stale=("a.mtl", "a.json", "not there"))
    assert read(tmp_path) == NEW | {"a_1.png": "old"}


@pytest.mark.parametrize("place", ["a.webp", "a_1.png", "a.obj"])
def test_a_folder_in_one_of_the_places_is_refused_and_stays(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "precious").write_text("")
    with pytest.raises(OutputError, match=rf"{place}` cannot be written: it is a folder"):
        write(tmp_path, NEW)
    assert names(tmp_path) == [place] and names(tmp_path / place) == ["precious"]


@posix
def test_a_link_to_the_main_file_stays_and_the_set_stands_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.obj").symlink_to(tmp_path / "real" / "a.obj")
    with atomic_files(tmp_path / "link.obj") as new:
        assert new.name == "a.obj"
        for name, text in NEW.items():
            new.with_name(name).write_text(text)
    assert (tmp_path / "link.obj").is_symlink() and read(tmp_path / "real") == NEW


# Renames that fail ---------------------------------------------------------------------------------------------------


def _steps(monkeypatch: pytest.MonkeyPatch, folder: Path, *, alone: bool) -> int:
    """How many renames the exchange of the sets takes."""
    count, real = [], os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (count.append(paths), real(*paths)))
        write(folder, OLD, stale=())
        count.clear()
        write(folder, NEW, alone=alone)
    return len(count)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, OutputError), (errno.EIO, OSError)])
def test_whichever_rename_fails_the_older_set_stands_again(
    alone: bool, code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_steps, real = _steps(monkeypatch, tmp_path / "counted", alone=alone), os.replace
    assert n_steps == (9 if alone else 10)  # ready; aside: a.obj, a_1.png, a.json, a.mtl, a.webp; in: the four new ones
    for failing in range(n_steps):
        folder, done = tmp_path / str(failing), 0

        def replace(*paths: Any, failing: int = failing) -> None:
            nonlocal done
            done += 1
            if done == failing + 1:
                raise OSError(code, "as a test says", str(paths[1]))
            real(*paths)

        write(folder, OLD, stale=())
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(kind):
                write(folder, NEW, alone=alone)
        assert read(folder) == OLD, failing
        write(folder, NEW, alone=alone)
        assert read(folder) == NEW


def test_the_file_that_is_followed_leaves_first_and_comes_back_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody who follows it finds files of two sets, while a failure is undone either."""
    write(tmp_path, OLD, stale=())
    moved: list[str] = []
    real = os.replace

    def replace(*paths: Any) -> None:
        if (Path(paths[0]).parent.name, Path(paths[1]).name) == ("ready", "a.obj") and "failed" not in moved:
            moved.append("failed")
            raise OSError(errno.EIO, "as a test says")
        real(*paths)
        moved.extend(
            f"{word} {p.name}" for word, p in zip(("from", "to"), map(Path, paths), strict=True) if p.parent == tmp_path
        )

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="as a test says"):
        write(tmp_path, NEW)
    assert moved[0] == "from a.obj" and moved[-1] == "to a.obj" and moved.count("to a.obj") == 1


def test_a_set_is_on_the_disk_before_the_first_of_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    def replace(*paths: Any) -> None:
        done.append(f"move {Path(paths[1]).name}")
        real_replace(*paths)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("tells which file is meant on Linux alone")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path, NEW, stale=())
    ready = done.index("move ready")
    assert {*NEW, "new", "plan"} <= set(done[:ready])
    assert done[ready + 1] == ".a.obj.viewfold-0", "the journal's name, before anything is moved"
    assert done.index(tmp_path.name) > done.index("move a.obj")


def test_what_can_neither_be_moved_nor_moved_back_waits_and_the_message_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD, stale=())
    real = os.replace

    def replace(*paths: Any) -> None:
        if Path(paths[1]).name == "a.mtl" and Path(paths[0]).parent.name in ("ready", "kept"):
            raise OSError(errno.EROFS, "as a test says")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OutputError, match=r"It waits in `.*\.a\.obj\.viewfold-0/ready`; saving there again"):
            write(tmp_path, NEW)
    complete_files(tmp_path / "a.obj")
    assert read(tmp_path) == NEW


# Kills ---------------------------------------------------------------------------------------------------------------

KILLED_AT_EVERY_STEP = """
import json, os, signal, sys
from pathlib import Path
from viewfold.store import atomic_files, complete_files
top, alone, old, new = Path(sys.argv[1]), sys.argv[2] == "alone", *map(json.loads, sys.argv[3:])

def write(folder, files, stale):
    with atomic_files(folder / "a.obj", alone=alone, stale=lambda path: stale) as made:
        for name, text in files.items():
            made.with_name(name).write_text(text)

def read(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}

def killed_at(folder, step):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0
    def watched(real):
        def call(*args, **options):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        return call
    with atomic_files(folder / "a.obj", alone=alone, stale=lambda path: ["a_1.png"]) as made:
        for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "fsync", "open", "listdir", "scandir"):
            setattr(os, name, watched(getattr(os, name)))
        for name, text in new.items():
            made.with_name(name).write_text(text)
    os._exit(0)

step, states = 0, []
while True:
    step += 1
    folder = top / str(step)
    write(folder, old, [])
    killed = killed_at(folder, step)
    seen = read(folder)
    if step % 2:
        complete_files(folder / "a.obj")
        after = read(folder)
        try:
            write(folder, old | {"a.obj": "half"}, None)
        except TypeError:
            pass
    else:
        write(folder, old, ["a.webp"])
        after = read(folder)
    states.append((seen, after, [p.name for p in folder.rglob(".*/*")]))
    if not killed:
        break
print(json.dumps(states))
"""


@posix
@pytest.mark.parametrize("alone", [False, True])
def test_killed_at_any_step_a_reader_finds_one_whole_set_or_none_and_the_next_run_completes_it(
    alone: bool, tmp_path: Path
) -> None:
    """Every second time nothing but `complete_files` runs; the other times the older set is written again."""
    words = ["alone" if alone else "together", json.dumps(OLD), json.dumps(NEW)]
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), *words]
    states = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(states) > 30
    followed = []
    for step, (seen, after, left) in enumerate(states, 1):
        main = seen.get("a.obj", "none")[:4].strip(": ")
        followed.append(main)
        if main != "none" and not alone:
            assert seen["a.mtl"] == main, step
            assert (seen.get("a_1.png") == "old") == (main == "old"), step
        assert after in ((OLD, NEW) if step % 2 else (OLD,)), step
        assert set(left) <= {"held", "plan"}, step  # killed while the temporary folder itself was removed
    assert followed == sorted(followed, key=["old", "none", "new"].index)
    assert set(followed) == ({"old", "new"} if alone else {"old", "none", "new"})
    finished = [after for step, (_, after, _) in enumerate(states, 1) if step % 2]
    assert OLD in finished and NEW in finished


@posix
def test_a_set_that_was_killed_half_way_is_never_moved_over_a_later_one(tmp_path: Path) -> None:
    """Two writers were at work: the first was killed between two renames after the second had made its files."""
    write(tmp_path, OLD, stale=())
    later = {"a.obj": "later", "a.mtl": "later"}
    with atomic_files(tmp_path / "a.obj", alone=False, stale=lambda path: ("a.json", "a.webp")) as made:
        for name, text in later.items():
            made.with_name(name).write_text(text)
        child = os.fork()
        if not child:
            fileset.os.replace = _dying(at="a.mtl")
            write(tmp_path, NEW)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert names(tmp_path) == [".a.obj.viewfold-0", ".a.obj.viewfold-1", "a.json"]
    assert read(tmp_path) == later
    complete_files(tmp_path / "a.obj")
    assert read(tmp_path) == later


def _dying(*, at: str) -> Any:
    real = os.replace

    def replace(*paths: Any) -> None:
        if Path(paths[1]).name == at and Path(paths[0]).parent.name == "ready":
            os.kill(os.getpid(), 9)
        real(*paths)

    return replace


WRITER = """
import sys
import time
from pathlib import Path
from viewfold.store import atomic_files
for index in range(int(sys.argv[3])):
    with atomic_files(Path(sys.argv[1]), alone=False) as made:
        for name in ("a.obj", "a.mtl", "a.json"):
            made.with_name(name).write_text(f"{sys.argv[2]} {index}")
"""


@posix
def test_a_writer_waits_until_another_has_moved_its_set(tmp_path: Path) -> None:
    import fcntl

    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a.obj"), "x", "1"]
    with subprocess.Popen(command) as process:
        made = tmp_path / ".a.obj.viewfold-0" / "plan"
        while not made.exists():
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert names(tmp_path) == [".a.obj.viewfold-0"] and (made.parent / "new").is_dir()
        os.close(folder)
        assert process.wait(60) == 0
    assert names(tmp_path) == ["a.json", "a.mtl", "a.obj"]


@posix
@pytest.mark.slow
def test_of_two_writers_the_sets_are_never_mixed(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "a.obj"), who, "60"]) for who in ("x", "y")]
    assert [process.wait(120) for process in both] == [0, 0]
    files = read(tmp_path)
    assert files.keys() == {"a.obj", "a.mtl", "a.json"} and len(set(files.values())) == 1


def test_nothing_is_completed_where_nothing_was_begun(tmp_path: Path) -> None:
    complete_files(tmp_path / "nowhere" / "a.obj")
    complete_files(tmp_path / "a.obj")
    assert names(tmp_path) == []
