"""One thing of a report: each score from its place in a record, what orders it, and what is kept of its maker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_fakes import mesh_record, views_record

from viewfold import limits
from viewfold.evaluation.case import Case, make_case, read_maker, scores_of
from viewfold.evaluation.summary import WORST_GAP_PX

VIEWS = {
    "agreement": {"score": 0.8, "worst_view": 0.5, "outline": 0.7, "gap_px": 1.5, "color": 0.6},
    "distinctness": 0.25,
    "repetition": {"mean": 0.15},
    "epipolar": {"ratio": 0.35},
    "colors": {"saturation": 0.45, "contrast": 0.05},
    "halves": {"psnr_db": 21.0},
    "left_out": {"psnr_db": 19.0},
}
MESH = {
    "reference": {"f_score": 0.9, "chamfer": 0.01, "psnr_db": 24.0, "outline_iou": 0.85},
    "health": {
        "n_faces": 4000, "n_pieces": 3, "closed": True, "n_open_edges": 1, "n_crowded_edges": 2, "n_flipped_edges": 3,
        "n_degenerate": 4, "n_repeated": 5, "n_crossings": 6,
    },
}  # fmt: skip


def scores(record: dict[str, Any]) -> dict[str, float]:
    return dict(make_case("somewhere", record).scores)


def test_scores_of_views_stand_where_the_record_has_them() -> None:
    assert scores(VIEWS) == pytest.approx(
        {
            "score": 0.8 * 0.25, "agreement": 0.8, "worst view": 0.5, "outlines": 0.7, "gap": 1.5, "colours": 0.6,
            "distinctness": 0.25, "repetition": 0.15, "epipolar": 0.35, "saturation": 0.45, "contrast": 0.05,
            "halves": 21.0, "left out": 19.0,
        }
    )  # fmt: skip
    assert list(scores(VIEWS)) == [score.name for score in scores_of("views")], "in their order"


def test_scores_of_a_mesh_stand_where_the_record_has_them() -> None:
    wanted = {"F-score": 0.9, "Chamfer": 0.01, "PSNR": 24.0, "IoU": 0.85, "closed": 1.0, "pieces": 3, "faces": 4000}
    assert scores(MESH) == pytest.approx(wanted | {"faults": 1000 * (1 + 2 + 3 + 4 + 5 + 6) / 4000})
    assert list(scores(MESH)) == [score.name for score in scores_of("mesh")], "in their order"


def test_more_is_better_of_what_should_be_much() -> None:
    said = {score.name: score.better for kind in ("views", "mesh") for score in scores_of(kind)}
    assert {name for name, better in said.items() if better == "low"} == {
        "gap", "repetition", "epipolar", "Chamfer", "faults",
    }  # fmt: skip
    assert {name for name, better in said.items() if better is None} == {"saturation", "contrast", "pieces", "faces"}


def test_what_was_not_measured_has_no_score() -> None:
    assert scores({}) == {}
    only = {"agreement": {"score": 0.8, "gap_px": None, "outline": "good"}, "distinctness": None, "halves": [1]}
    assert scores(only) == {"score": 0.8, "agreement": 0.8}, "of unknown distinctness agreement stands alone"
    assert scores({"distinctness": 0.5}) == {"distinctness": 0.5}
    assert scores({"agreement": {"gap_px": 2 * WORST_GAP_PX}}) == {"gap": WORST_GAP_PX}
    assert scores({"agreement": {"gap_px": float("inf")}}) == {}, "the record is finite first"
    unknown = {"n_faces": 1000, "n_open_edges": 3, "n_crossings": None}
    assert scores({"health": unknown}) == {"faults": 3.0, "faces": 1000}
    assert scores({"health": unknown | {"n_faces": 0}}) == {"faces": 0}
    assert "faults" not in scores({"health": {"n_faces": 1000}})


def test_the_first_two_scores_that_know_good_from_bad_order_things() -> None:
    assert make_case("a", VIEWS).goodness == pytest.approx((0.2, 0.8))
    assert make_case("a", MESH).goodness == pytest.approx((0.9, -0.01))
    assert make_case("a", {"health": MESH["health"]}).goodness == pytest.approx((1.0, -5.25))
    assert make_case("a", {"agreement": {"gap_px": 1.0, "color": 0.5}}).goodness == pytest.approx((-1.0, 0.5))
    assert make_case("a", {"colors": VIEWS["colors"]}).goodness == (), "neither way is good"


def test_a_thing_is_called_by_its_prompt_or_else_by_its_place(tmp_path: Path) -> None:
    place = tmp_path / "mug"
    place.mkdir()
    plain = make_case(place, views_record(0.5) | {"path": "elsewhere"}, run="r")
    assert (plain.kind, plain.path, plain.run) == ("views", str(place), "r") and "path" not in plain.record
    assert (plain.name, plain.subject, plain.seed) == ("mug", "mug", None)
    assert make_case(place, views_record(0.5), name="cups/mug").subject == "cups/mug"
    (place / "run.json").write_text(json.dumps({"prompt": "a mug", "seed": 4}))
    told = make_case(place, views_record(0.5), name="cups/mug")
    assert (told.name, told.subject, told.key) == ("cups/mug", "a mug", ("views", "a mug", 4))
    assert make_case(place, mesh_record(closed=True)).key == ("mesh", "a mug", 4)
    assert Case(kind="mesh", path="", record={}).key == ("mesh", "", None)


def test_a_record_lies_in_a_folder_of_views_and_beside_a_mesh(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"prompt": "views", "settings": {"seed": 1}}))
    (tmp_path / "mug.json").write_text(json.dumps({"prompt": "mesh", "settings": {"seed": 2}}))
    assert read_maker(tmp_path) == ("views", 1, {})
    for name in ("mug.glb", "mug.OBJ"):
        assert read_maker(tmp_path / name) == ("mesh", 2, {})
    assert read_maker(tmp_path / "cup.glb") == ("", None, {}), "no record is no fault"


def told(tmp_path: Path, **record: Any) -> tuple[str, int | None, dict[str, Any]]:
    (tmp_path / "run.json").write_text(json.dumps(record))
    return read_maker(tmp_path)


def test_all_that_is_kept_of_a_maker(tmp_path: Path) -> None:
    kept = {
        "model": "toybox", "weights_sha256": "0123456789abcdef" * 4, "dtype": "float16", "scheduler": "ddim",
        "device": "cpu", "steps": 50, "guidance": 7.5, "suffix": ", 3d asset", "versions": {"torch": "2.9"},
    }  # fmt: skip
    lora = [{"file": "a.safetensors", "sha256": "0123456789", "weight": 1}, {"file": "b.safetensors"}, {"sha256": "9"}]
    found = told(tmp_path, prompt="a mug", seed=3, lora=lora, secret="no", **kept)
    assert found == ("a mug", 3, kept | {"lora": ["a.safetensors 01234567", "b.safetensors"]})
    assert told(tmp_path, model="first", settings={"model": "second", "steps": 2, "seed": 5}, provenance={"steps": 3}) \
        == ("", 5, {"model": "first", "steps": 2}), "what stands nearer to the top is believed"  # fmt: skip
    assert told(tmp_path, provenance={"steps": 3, "prompt": "not here"}) == ("", None, {"steps": 3})


def test_what_is_kept_of_strangers_words_is_bounded(tmp_path: Path) -> None:
    long = "x" * 20_000
    many = {f"{number:02d}{long}": long for number in range(20)} | {"00": 1}
    parts = [{"file": f"{number}{long}", "sha256": long} for number in range(20)]
    prompt, _, maker = told(tmp_path, prompt=long, model=long, versions=many, lora=parts)
    assert len(prompt) == limits.PROMPT_CHARACTERS and maker["model"] == "x" * 200
    assert len(maker["versions"]) == 16 and {(len(k), len(v)) for k, v in maker["versions"].items()} == {(200, 200)}
    assert [len(part) for part in maker["lora"]] == [200 + 1 + 8] * 8
    for seed, wanted in ((2**63 - 1, 2**63 - 1), (-(2**63) + 1, -(2**63) + 1), (2**63, None), (1.0, None)):
        assert told(tmp_path, seed=seed)[1] == wanted
    for steps, wanted in (
        (10**9 - 1, {"steps": 10**9 - 1}),
        (10**9, {}),
        (-(10**9), {}),
        (True, {}),
        (0, {"steps": 0}),
    ):
        assert told(tmp_path, steps=steps)[2] == wanted
    for hash in ("a" * 63, "a" * 65, "A" * 64, "g" * 64, 7):
        assert told(tmp_path, weights_sha256=hash)[2] == {}
    assert told(tmp_path, model="", versions={}, lora=[{}], dtype=16)[2] == {}
