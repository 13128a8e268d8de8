"""What is written stands whole or not at all, says why it could not, and loses nothing that stood there before."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from viewfold.errors import OutputError
from viewfold.store import atomic_write, check_output, sync

posix = pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such locks and links")


def write(path: Path, text: str, *, folder: bool = True) -> None:
    with atomic_write(path) as new:
        if folder:
            new.mkdir()
            for name in ("a", "b"):
                (new / name).write_text(text)
        else:
            new.write_text(text)


def text_of(path: Path) -> str:
    if not path.is_dir():
        return path.read_text()
    texts = {(path / name).read_text() for name in ("a", "b")}
    assert len(texts) == 1, "a mixture"
    return texts.pop()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(params=["exchange", "by turns"])
def two_ways(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As a disk that exchanges two folders in one step, and as one that cannot."""
    if request.param == "by turns":
        monkeypatch.setattr(sync, "_renameat2", lambda: None)
    elif not exchanges(tmp_path):
        pytest.skip("this disk cannot exchange folders")
    return request.param


def exchanges(folder: Path) -> bool:
    pair = [folder / "first", folder / "second"]
    for path in pair:
        path.mkdir()
    able = sync._exchanged(*pair)
    for path in pair:
        path.rmdir()
    return able


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_the_folder_that_one_is_in_is_not_replaced_nor_one_above_it(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "views" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "views" / "model" if inside else tmp_path / "views")
    with pytest.raises(OutputError, match="the folder that you are in"):
        check_output(tmp_path / "views", holds="model")
    monkeypatch.chdir(tmp_path)
    check_output(tmp_path / "views", holds="model")


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, OutputError), (errno.EROFS, OutputError), (errno.EIO, OSError)]
)
def test_a_place_is_blamed_only_for_what_places_do(code: int, kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind) as error, atomic_write(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise OSError(code, "told by the system")
    assert isinstance(error.value, OutputError) == (kind is OutputError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.txt", "held", "old", "new", "new.held", "x" * 255, "\udcff"])
@pytest.mark.parametrize("folder", [False, True])
def test_any_name_may_be_written_and_written_again(folder: bool, name: str, tmp_path: Path) -> None:
    for text in ("before", "after"):
        write(tmp_path / name, text, folder=folder)
        assert text_of(tmp_path / name) == text and names(tmp_path) == [name]


@pytest.mark.parametrize("folder", [False, True])
def test_what_was_there_stays_when_its_successor_fails(folder: bool, tmp_path: Path) -> None:
    write(tmp_path / "a", "before", folder=folder)
    with pytest.raises(ValueError, match="later"), atomic_write(tmp_path / "a") as path:
        path.write_text("after")
        raise ValueError("later")
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_folder_and_a_file_do_not_replace_each_other(folder: bool, tmp_path: Path) -> None:
    write(tmp_path / "a", "before", folder=folder)
    with pytest.raises(OutputError):
        write(tmp_path / "a", "after", folder=not folder)
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


@posix
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("leads_nowhere", [False, True])
def test_a_link_stays_and_what_it_points_to_is_replaced(leads_nowhere: bool, folder: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    link.symlink_to(Path("disk") / "target")
    if not leads_nowhere:
        write(target, "before", folder=folder)
    write(link, "after", folder=folder)
    assert link.is_symlink() and not target.is_symlink() and text_of(target) == text_of(link) == "after"
    assert names(tmp_path) == ["disk", "link"] and names(target.parent) == ["target"]


def test_a_working_folder_may_change_while_a_relative_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with atomic_write("a.txt") as path:
        path.write_text("whole")
        os.chdir("elsewhere")
    assert (tmp_path / "a.txt").read_text() == "whole"


# Renames that fail ----------------------------------------------------------------------------------------------------


def failing(real: Callable[..., None], steps: set[int], code: int) -> Callable[..., None]:
    count = iter(range(10_000))

    def rename(*paths: object) -> None:
        if next(count) in steps:
            raise OSError(code, os.strerror(code))
        real(*paths)

    return rename


@pytest.mark.parametrize("steps", [{0}, {1}, {0, 1}, {1, 2}, set(range(9))])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_folder_survives_every_rename_that_fails(
    steps: set[int], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns: the old one aside, the new one in, and if that fails the old one back."""
    monkeypatch.setattr(sync, "_renameat2", lambda: None)
    write(tmp_path / "a", "before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace, steps, code))
        with pytest.raises(OutputError if code == errno.EACCES else OSError) as error:
            write(tmp_path / "a", "after")
    if steps == {1, 2}:  # it could not return: it waits, and the message says where
        kept = tmp_path / ".a.viewfold-0" / "old"
        assert not (tmp_path / "a").exists() and text_of(kept) == "before"
        assert str(kept) in "".join([str(error.value), *getattr(error.value, "__notes__", [])])
        with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a"):
            raise ZeroDivisionError
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


def test_a_file_survives_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", "before", folder=False)
    monkeypatch.setattr(os, "replace", failing(os.replace, {0}, errno.EACCES))
    with pytest.raises(OutputError, match="permission denied"):
        write(tmp_path / "a", "after", folder=False)
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENOSYS, errno.EINVAL])
def test_a_folder_survives_an_exchange_that_fails(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    write(tmp_path / "a", "before")
    monkeypatch.setattr(sync, "_renameat2", lambda: exchange)
    if code in (errno.ENOSYS, errno.EINVAL):  # this disk cannot: it is done in turns
        write(tmp_path / "a", "after")
        assert text_of(tmp_path / "a") == "after"
    else:
        with pytest.raises(OutputError if code == errno.EACCES else OSError):
            write(tmp_path / "a", "after")
        assert text_of(tmp_path / "a") == "before"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT])
def test_a_place_that_others_always_take_first_is_given_up(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", "before", folder=False)
    monkeypatch.setattr(os, "replace", failing(os.replace, set(range(sync.ATTEMPTS)), code))
    with pytest.raises((OSError, OutputError)):
        write(tmp_path / "a", "after", folder=False)
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "b"):
        pass  # nothing was made
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


def test_ctrl_c_between_two_renames_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_renameat2", lambda: None)
    write(tmp_path / "a", "before")
    real = os.replace

    def pressed(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "old":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", pressed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", "after")
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


def test_a_writer_that_was_quicker_is_replaced_as_well(two_ways: str, tmp_path: Path) -> None:
    for standing in (False, True):
        path = tmp_path / f"a{standing}"
        if standing:
            write(path, "before")
        with atomic_write(path) as new:
            write(path, "quicker")
            new.mkdir()
            for name in ("a", "b"):
                (new / name).write_text("later")
        assert text_of(path) == "later"
    assert names(tmp_path) == ["aFalse", "aTrue"]


def test_a_folder_that_comes_and_goes_between_the_renames_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer puts its result there after ours was moved aside: one of the two stands, and nothing fails."""
    monkeypatch.setattr(sync, "_renameat2", lambda: None)
    write(tmp_path / "a", "before")
    real, others = os.replace, iter(["quicker", "quicker still"])

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "old" and (text := next(others, "")):
            target.with_name("theirs").mkdir()
            for name in ("a", "b"):
                (target.with_name("theirs") / name).write_text(text)
            real(target.with_name("theirs"), tmp_path / "a")

    monkeypatch.setattr(os, "replace", rename)
    write(tmp_path / "a", "after")
    assert text_of(tmp_path / "a") == "after" and names(tmp_path) == ["a"]


# To the disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The inodes that were synced, and "rename"."""
    seen: list[object] = []
    real, replace, exchanged = os.fsync, os.replace, sync._exchanged
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.fstat(fd).st_ino), real(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("rename"), replace(*paths))[1])
    monkeypatch.setattr(sync, "_exchanged", lambda *paths: (seen.append("rename"), exchanged(*paths))[1])
    return seen


@posix
def test_the_contents_reach_the_disk_before_the_name_and_then_the_folder_of_the_name(
    events: list[object], tmp_path: Path
) -> None:
    write(tmp_path / "file", "text", folder=False)
    assert events == [(tmp_path / "file").stat().st_ino, "rename", tmp_path.stat().st_ino]
    for folder in (tmp_path / "folder", tmp_path / "folder"):
        events.clear()
        with atomic_write(folder) as new:
            (new / "deep").mkdir(parents=True)
            (new / "deep" / "a").write_text("")
            (new / "link").symlink_to(tmp_path)
        before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
        inside = [folder / "deep" / "a", folder / "deep", folder]
        assert before == [path.stat().st_ino for path in inside] and after == [tmp_path.stat().st_ino]


@posix
def test_folders_that_had_to_be_made_reach_the_disk(events: list[object], tmp_path: Path) -> None:
    write(tmp_path / "one" / "two" / "file", "text", folder=False)
    after = {event for event in events[events.index("rename") :] if event != "rename"}
    assert after == {path.stat().st_ino for path in (tmp_path / "one" / "two", tmp_path / "one", tmp_path)}


@pytest.mark.parametrize("folder", [False, True])
def test_a_disk_that_is_full_when_it_is_asked_to_keep_its_word(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", "before", folder=folder)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left"):
        write(tmp_path / "a", "after", folder=folder)
    assert text_of(tmp_path / "a") == "before" and names(tmp_path) == ["a"]


@posix
@pytest.mark.parametrize("files", [True, False])
def test_a_disk_that_syncs_no_folders_or_nothing_is_written_all_the_same(
    files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(descriptor: int) -> None:
        if not files or os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "no such call")

    monkeypatch.setattr(os, "fsync", unable)
    write(tmp_path / "a", "text")
    assert text_of(tmp_path / "a") == "text"


@posix
def test_a_folder_that_cannot_reach_the_disk_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write(tmp_path / "a", "text", folder=False)
