"""Claims: one process at a time works on a name, and a dead one holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from viewfold.errors import OutputError
from viewfold.store import Claims
from viewfold.store.claims import CLAIMS

HOLD = """
import sys
from viewfold.store.claims import Claims
claims = Claims(sys.argv[1])
print([claims.take(name) for name in sys.argv[2:]], flush=True)
sys.stdin.readline()
"""


def holder(folder: Path, *names: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), *names]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_name_that_another_process_has_is_refused_until_that_is_killed(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        assert claims.take("mine")
        with holder(tmp_path, "mine", "theirs") as other:
            assert other.stdout is not None and other.stdout.readline() == "[False, True]\n"
            assert not claims.take("theirs") and claims.take("free")
            other.kill()
            other.wait()
            assert claims.take("theirs")
    assert list(tmp_path.iterdir()) == [], "the last one removes the file"


def test_the_file_stays_while_another_has_a_name_and_a_new_file_is_noticed(tmp_path: Path) -> None:
    late = Claims(tmp_path)
    with holder(tmp_path, "theirs") as other:
        assert other.stdout is not None and other.stdout.readline() == "[True]\n"
        with Claims(tmp_path):
            pass
        assert (tmp_path / CLAIMS).is_file()
        other.kill()
    (tmp_path / CLAIMS).unlink()  # as the last process of before does, after `late` opened it
    with late, holder(tmp_path, "first") as other:
        assert other.stdout is not None and other.stdout.readline() == "[True]\n"
        assert not late.take("first"), "asked in the file that there is now"
        other.kill()


def test_what_is_let_go_of_can_be_taken(tmp_path: Path) -> None:
    with Claims(tmp_path / "new") as claims:
        assert claims.take("a")
        claims.release("a")
        assert claims.take("a")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Claims(tmp_path / "file" / "out")
