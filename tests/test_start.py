"""The start of the command line: what it leaves undone until the work begins."""

import gc
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from viewfold.cli import command, main
from viewfold.cli.progress import progress_bars


@pytest.mark.parametrize("long", [True, False])
def test_the_garbage_collector_rests_while_libraries_load_and_works_while_the_program_does(
    long: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def run(verb: object) -> None:
        seen.append(gc.isenabled())
        with progress_bars() if long else nullcontext():
            seen.append(gc.isenabled())

    monkeypatch.setattr(command.Assets, "run", run)
    assert gc.isenabled()
    assert main(["assets", "1", "--out", str(tmp_path / "toys")]) == 0
    assert seen == [False, long] and gc.isenabled() and gc.get_freeze_count() == 0


def test_a_process_that_ends_is_not_looked_through_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["viewfold", "assets", "1", "--out", str(tmp_path / "toys")])
    try:
        assert main() == 0
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
