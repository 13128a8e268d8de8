"""`viewfold evaluate` by many workers: the same figures in the same order as by one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from test_evaluate_command import CAMERAS, copies, records

from viewfold.cli import main
from viewfold.data.pool import answers_in_order
from viewfold.data.toybox import sample_asset
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views


@pytest.fixture(scope="module")
def toy() -> Mesh:
    return sample_asset(11).mesh()


@pytest.fixture(scope="module")
def true(toy: Mesh) -> Views:
    return Views(rgb=rasterize(toy, CAMERAS, size=64).over(0.5), cameras=CAMERAS)


def test_processes_measure_what_one_does_in_the_same_order(
    tmp_path: Path, true: Views, toy: Mesh, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        true.save(tmp_path / "many" / name, turntable=False)
    copies(true).save(tmp_path / "many" / "d", turntable=False)
    (tmp_path / "many" / "b" / "002.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    one = records(capsys, "many")
    many = records(capsys, "many", "--workers", 2)
    assert (
        one[0] == many[0] == 3 and one[1] == many[1] and [r["path"] for r in many[1]] == ["many/a", "many/c", "many/d"]
    )
    assert "b: " in many[2] and "1 could not be used" in many[2]
    save_mesh(toy, tmp_path / "toy.glb")
    beside = ("toy.glb", "--reference", "toy.glb", "--fit")
    assert records(capsys, *beside) == records(capsys, *beside, "--workers", 2)


def test_workers_and_cluster_are_held_to_what_they_can_be(
    tmp_path: Path, true: Views, capsys: pytest.CaptureFixture[str]
) -> None:
    true.save(tmp_path / "views", turntable=False)
    for words, said in ((("--workers", "0"), "at least 1"), (("--workers", "2", "--cluster", "auto"), "left out")):
        assert main(["evaluate", str(tmp_path / "views"), *words]) == 2
        assert said in capsys.readouterr().err


def test_answers_come_in_the_order_of_the_items_and_no_more_are_asked_for_than_there_is_room() -> None:
    asked: list[int] = []

    class Late:
        at_once = 2

        def submit(self, work: Any, /, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            started.append((future, work, args))
            if len(started) == 2:  # the second one is finished first
                for each, call, given in reversed(started):
                    each.set_result(call(*given))
                started.clear()
            return future

    def items() -> Iterator[int]:
        for number in range(4):
            asked.append(number)
            yield number

    started: list[tuple[Future[Any], Any, Any]] = []
    found = []
    for item, future in answers_in_order(items(), lambda number: 10 * number, Late()):
        found.append((item, future.result()))
        assert len(asked) <= len(found) + 2
    assert found == [(0, 0), (1, 10), (2, 20), (3, 30)]
