"""Several drawings, of which the best is kept: the choice itself, and `generate --tries`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError
from viewfold.evaluation.consistency import measure_consistency
from viewfold.evaluation.record import score_views
from viewfold.pipeline.tries import best_of
from viewfold.scene.rasterize import rasterize
from viewfold.store import read_json
from viewfold.views import Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)


def numbered(seed: int) -> Views:
    return Views(rgb=torch.full((4, 3, 8, 8), seed / 100), cameras=CAMERAS, run={"seed": seed})


def test_the_best_is_kept_and_all_are_told() -> None:
    drawn: list[int] = []

    def draw(seed: int) -> Views:
        drawn.append(seed)
        return numbered(seed)

    scores = {3: 0.5, 6: 0.75, 9: 0.75, 12: 0.25}
    found = best_of(draw, [3, 6, 9, 12], lambda views: scores[views.run["seed"]])
    assert drawn == [3, 6, 9, 12]
    assert found.run == {"seed": 6, "tries": {"seeds": [3, 6, 9, 12], "scores": [0.5, 0.75, 0.75, 0.25], "chosen": 6}}
    assert torch.equal(found.rgb, numbered(6).rgb), "of equals the first"
    with pytest.raises(InputError, match="must return numbers"):
        best_of(draw, [0, 1], lambda views: float("nan") if views.run["seed"] else 1.0)
    for seeds in ([], range(65)):
        with pytest.raises(InputError, match="between 1 and 64"):
            best_of(draw, seeds, lambda views: 0.0)


def test_copies_score_nothing_and_true_renders_what_they_agree() -> None:
    rgb = rasterize(sample_asset(11).mesh(), CAMERAS, size=64).over(0.5)
    true = Views(rgb=rgb, cameras=CAMERAS)
    assert score_views(true) == pytest.approx(measure_consistency(rgb, CAMERAS).score)
    assert score_views(Views(rgb=rgb[[0, 0, 0, 0]], cameras=CAMERAS)) == 0.0
    near = Cameras.at(azimuth_deg=[0.0, 8.0], elevation_deg=15.0)
    beside = rasterize(sample_asset(11).mesh(), near, size=64).over(0.5)
    assert score_views(Views(rgb=beside, cameras=near)) == pytest.approx(measure_consistency(beside, near).score)
    wide = torch.ones(4, 1, 64, 64)
    assert score_views(Views(rgb=rgb, alpha=wide, cameras=CAMERAS)) == 0.0, "alpha is believed: no ground is left"


@pytest.mark.slow
def test_generate_keeps_the_seed_that_agrees_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a red mug", "--steps", "2", "--device", "cpu"]
    assert main([*words, "--tries", "3", "--seed", "5", "--out", str(tmp_path / "best")]) == 0
    assert "of 3: scores" in capsys.readouterr().out
    tries = read_json(tmp_path / "best" / "run.json")["tries"]
    assert tries["seeds"] == [5, 6, 7] and tries["scores"][tries["seeds"].index(tries["chosen"])] == max(
        tries["scores"]
    )
    assert main([*words, "--seed", str(tries["chosen"]), "--out", str(tmp_path / "one")]) == 0
    for number in range(4):
        best, one = (tmp_path / name / f"{number:03d}.png" for name in ("best", "one"))
        assert torch.equal(Views.load(best.parent).rgb[number], Views.load(one.parent).rgb[number])


def test_what_it_cannot_choose_among_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("a red mug\n")
    for words, message in (
        (["--prompts", str(tmp_path / "list.txt"), "--tries", "2"], "`--tries` must be left out with"),
        (["a mug", "--tries", "2", "--views", "1"], "`--tries` must be 1 for a single view"),
        (["a mug", "--tries", "0"], "`--tries` must lie between 1 and 64"),
        (["a mug", "--tries", "65"], "`--tries` must lie between 1 and 64"),
    ):
        assert main(["generate", *words]) == 2
        assert message in capsys.readouterr().err
