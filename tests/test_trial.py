"""Prompts x seeds x models: where each drawing goes, what is drawn again (nothing), and what is refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_model

from viewfold import trial
from viewfold.cli import main
from viewfold.errors import InputError, WeightsError
from viewfold.pipeline import MultiViewPipeline, batch
from viewfold.trial import draw_all, name_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one network."""
    places = [tmp_path_factory.mktemp("models") / name for name in ("one", "two")]
    for place in places:
        tiny_model(place)
    return places


def nothing(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be drawn")


def test_every_prompt_is_drawn_with_every_model_and_seed_once(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, prompts, said = [str(f) for f in folders], ["a red mug", "a car", "a car"], []
    loaded: list[str] = []

    def load(name: str) -> MultiViewPipeline:
        loaded.append(name)
        return tiny_model()

    def draw() -> list[trial.Drawing]:
        settings: dict[str, Any] = {"open_model": load, "steps": 1, "n_views": 2}
        return list(draw_all(models, prompts, [0, 5], tmp_path, progress=lambda *now: said.append(now), **settings))

    found = draw()
    assert [(d.model, d.seed, d.prompt) for d in found] == [
        (m, s, p) for m in ("one", "two") for s in (0, 5) for p in ("a red mug", "a car")
    ]
    assert loaded == models and said[:3] == [("one 0", 1, 2), ("one 0", 2, 2), ("one 5", 1, 2)]
    for drawing in found:
        assert drawing.folder is not None and drawing.folder.parent == tmp_path / drawing.model / str(drawing.seed)
        run = json.loads((drawing.folder / "run.json").read_text())
        assert (run["prompt"], run["settings"]["seed"]) == (drawing.prompt, drawing.seed)
    monkeypatch.setattr(batch, "generate", nothing)
    assert draw() == found, "and not again"


def test_a_prompt_that_says_nothing_and_a_model_that_is_damaged_are_told_and_the_rest_is_drawn(
    tmp_path: Path, folders: list[Path]
) -> None:
    def load(name: str) -> MultiViewPipeline:
        if name.endswith("one"):
            raise WeightsError("it is damaged")
        return tiny_model()

    prompts = ["a mug", "\U0001f916"]
    found = list(draw_all([str(f) for f in folders], prompts, [0], tmp_path, open_model=load, steps=1, n_views=2))
    assert [bool(d.folder) for d in found] == [False, False, True, False]
    assert [d.reason for d in found[:2]] == ["it is damaged"] * 2
    assert "`prompt` must" in found[3].reason
    assert found[0].name == "one, seed 0, 'a mug'"


def test_what_cannot_be_is_refused_before_a_model_is_loaded(tmp_path: Path, folders: list[Path]) -> None:
    one = str(folders[0])
    for models, seeds, kind, message in (
        ([one], [], InputError, "`seeds` must be 1 to"),
        ([one], [1, 1], InputError, "1 of them different|1 different"),
        ([], [0], InputError, "`models` must name at least one"),
        ([one, "elsewhere/one"], [0], InputError, "one is there twice"),
        ([one, "no such model"], [0], WeightsError, "which is none of them"),
    ):
        with pytest.raises(kind, match=message):
            draw_all(models, ["a mug"], seeds, tmp_path, open_model=nothing)
    assert name_models(["mvdream-sd21", "a b/c d/", "..."]) == ["mvdream-sd21", "c-d", "model"]


def test_the_command_draws_measures_and_reports_and_goes_on_where_it_was(
    tmp_path: Path, folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("a red mug\n\U0001f916\na blue car\n")
    words = ["evaluate", "--model", *map(str, folders), "--prompts", str(tmp_path / "list.txt"), "--seed", "0,1"]
    words += ["--steps", "1", "--out", str(tmp_path / "out"), "--ab", str(tmp_path / "ab"), "--device", "cpu"]
    assert main(words) == 3
    said = capsys.readouterr()
    assert "one, seed 0, '\U0001f916'" in said.err and "4 could not be used" in said.err
    told = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert [run["name"] for run in told["runs"]] == ["one", "two"] and len(told["cases"]) == 8
    assert told["n_failed"] == 4 and told["comparisons"][0]["n_pairs"] == 4
    assert len(json.loads((tmp_path / "ab" / "ab-key.json").read_text())["pairs"]) == 4
    monkeypatch.setattr(batch, "generate", nothing)
    (tmp_path / "list.txt").write_text("a red mug\na blue car\n")
    assert main(words) == 0
    capsys.readouterr()
    for wrong in ("0,x", "", "1.5"):
        assert main([*words, "--seed", wrong]) == 2
        assert "`--seed` must be whole numbers" in capsys.readouterr().err
