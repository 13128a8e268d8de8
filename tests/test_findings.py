"""report.json by hand: two runs, what they differ in, every case, and what could not be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_fakes import case, mesh_record, views_record

from viewfold.evaluation.findings import Findings, case_json, find, json_chunks
from viewfold.evaluation.interval import mean, paired_difference


def document(findings: Findings) -> dict[str, Any]:
    return json.loads("".join(json_chunks(findings)), parse_constant=pytest.fail)


def test_nothing_is_a_document_as_well() -> None:
    assert document(find([])) == {
        "command": "", "machine": {}, "n_failed": 0, "runs": [], "comparisons": [], "failed": [], "cases": [],
    }  # fmt: skip
    machine = {"Machine": "a laptop"}
    told = document(find([], [("a", "gone"), ("b", "broken")], command="viewfold evaluate", machine=machine))
    assert (told["command"], told["machine"], told["n_failed"]) == ("viewfold evaluate", machine, 2)
    assert told["failed"] == [{"name": "a", "reason": "gone"}, {"name": "b", "reason": "broken"}]


def test_a_case_is_told_whole_and_its_prompt_once(tmp_path: Path) -> None:
    record = views_record(0.75)
    one = case(tmp_path, "a mug", {**record, "prompt": "a mug"}, run="r", seed=4)
    assert case_json(one) == {
        "run": "r", "kind": "views", "path": one.path, "prompt": "a mug", "seed": 4, "scores": dict(one.scores),
        "maker": {"model": "toybox", "weights_sha256": "a" * 64, "dtype": "float32", "device": "cpu"},
        "record": {name: value for name, value in record.items() if name != "prompt"},
    }  # fmt: skip
    assert one.scores["score"] == 0.75
    assert document(find([one]))["cases"] == [json.loads(json.dumps(case_json(one)))]


def test_a_run_of_both_kinds_counts_each_and_its_cases_come_worst_first(tmp_path: Path) -> None:
    scores = [("a", views_record(0.9)), ("b", views_record(0.5)), ("c", mesh_record(closed=True))]
    told = document(find([case(tmp_path, prompt, record, run="r") for prompt, record in scores]))
    (run,) = told["runs"]
    assert (run["name"], run["n"]) == ("r", {"views": 2, "mesh": 1}) and told["comparisons"] == []
    figure = mean([0.9, 0.5])
    assert run["figures"]["views"]["agreement"] == pytest.approx(
        {"value": figure.value, "low": figure.low, "high": figure.high, "n": 2}
    )
    assert run["figures"]["mesh"]["faces"] == {"value": 1000.0, "low": None, "high": None, "n": 1}
    maker = {"model": "toybox", "weights_sha256": "a" * 64, "dtype": "float32", "device": "cpu"}
    assert run["makers"] == [{**maker, "n": 3}]
    assert [each["prompt"] for each in told["cases"]] == ["b", "a", "c"]


def test_the_first_run_is_compared_with_each_other_one(tmp_path: Path) -> None:
    values = {"new": (0.6, 0.9), "old": (0.5, 0.7), "odd": (0.1, 0.3)}
    cases = [
        case(tmp_path, prompt, views_record(value), run=run)
        for run, both in values.items()
        for prompt, value in zip("ab", both, strict=True)
    ]
    told = document(find(cases))
    assert [run["name"] for run in told["runs"]] == ["new", "old", "odd"], "in the order in which they came"
    assert [(each["first"], each["second"]) for each in told["comparisons"]] == [("new", "old"), ("new", "odd")]
    against_old, against_odd = told["comparisons"]
    figure = paired_difference([0.5, 0.7], [0.6, 0.9])
    shown = against_old["second_minus_first"]["agreement"]
    assert shown == pytest.approx(
        {"value": figure.value, "low": figure.low, "high": figure.high, "n": 2, "holds_zero": False}
    )
    assert shown["value"] == pytest.approx(-0.15) and against_old["second_minus_first"]["colours"]["holds_zero"]
    assert (against_old["n_pairs"], against_old["left_out"], against_old["kind"]) == (2, {}, "views")
    places = {(each.run, each.prompt): each.path for each in cases}
    assert against_old["greatest_loss_first"] == [
        [places["new", "b"], places["old", "b"]], [places["new", "a"], places["old", "a"]],
    ]  # fmt: skip
    assert against_odd["second_minus_first"]["agreement"]["value"] == pytest.approx((-0.5 - 0.6) / 2)
    assert [each["run"] for each in told["cases"]] == ["new", "new", "old", "old", "odd", "odd"]


def test_it_is_written_piece_by_piece_a_case_a_line(tmp_path: Path) -> None:
    cases = [case(tmp_path, f"{n}", views_record(n / 10)) for n in range(4)]
    pieces = list(json_chunks(find(cases)))
    assert len(pieces) == 1 + 4 + 1 and max(len(piece) for piece in pieces[1:]) < 1500
    lines = "".join(pieces).splitlines()
    assert [json.loads(line.rstrip(","))["prompt"] for line in lines[-6:-2]] == ["0", "1", "2", "3"]
    assert lines[:2] == ["{", ' "command": "",'] and lines[-2:] == [" ]", "}"]


def test_what_no_file_of_json_can_say_is_null(tmp_path: Path) -> None:
    strange = find([case(tmp_path, "a", {**views_record(0.5), "extra": [float("nan"), 1.0]})])
    assert document(strange)["cases"][0]["record"]["extra"] == [None, 1.0]
