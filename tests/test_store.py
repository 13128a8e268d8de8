"""What is written stands whole or not at all, and says why it could not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from viewfold.errors import OutputError
from viewfold.store import atomic_write, check_output


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


def test_what_was_there_stays_when_its_successor_fails(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(ValueError, match="later"), atomic_write(tmp_path / "a.txt") as path:
        path.write_text("after")
        raise ValueError("later")
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
