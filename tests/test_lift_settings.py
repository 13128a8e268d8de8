"""What the settings of a distillation say, and when its guard calls a field collapsed: by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from fakes import tiny_model
from lift_fakes import PerfectPrior, ball_views

from viewfold.camera import framing_distance
from viewfold.cli import main
from viewfold.errors import FitError, InputError
from viewfold.lifting.distillation import DistilSettings
from viewfold.lifting.guard import Guard, collapse_limits, largest_coverage
from viewfold.lifting.presets import MVDREAM, MVDREAM_NOISE, STANDARD, represented
from viewfold.lifting.score import SCORES, SDI, SDS, VSD, Reconstruction, Score, begin
from viewfold.lifting.stages import LiftSettings, lift
from viewfold.scene.grid import GridField

AS_RELEASED = DistilSettings(
    steps=10_000, anneal_steps=8_000, noise_at_start=(0.98, 0.98), noise_at_end=(0.02, 0.50), guidance=50.0
)


def test_mvdreams_schedule_can_be_said() -> None:
    assert AS_RELEASED.noise == MVDREAM_NOISE
    for step in (0, 1, 4_000, 7_999, 8_000, 9_999):
        assert AS_RELEASED.noise.at(step) == MVDREAM_NOISE.at(step)


def test_unless_it_is_said_the_noise_anneals_over_all_steps() -> None:
    noise = DistilSettings(steps=40).noise
    assert (noise.low.steps, noise.high.steps) == (40, 40)
    assert DistilSettings(steps=40, anneal_steps=0).noise.at(0) == (20, 300)
    with pytest.raises(InputError, match="anneal_steps"):
        DistilSettings(anneal_steps=-1)


def test_a_score_is_chosen_told_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    for name in ("reconstruction", "sds", "sdi", "ism", "asd"):

        def record(_: object, name: str = name, **more: object) -> torch.Tensor:
            told.append((name, more))
            return torch.zeros(())

        monkeypatch.setattr(f"viewfold.lifting.score.{name}_loss", record)
    prior, latents = PerfectPrior(lambda cameras, size: torch.zeros(1)), torch.zeros(1, 4, 3, 2, 2)
    chosen = (DistilSettings().score, Reconstruction(rescale=0.25), *SCORES[1:5])
    for score in chosen:
        begin(score, prior=prior, prompts=["a"], negatives=["b"], guidance=3.0)(latents, cameras=None, t="now")
    assert [name for name, _ in told] == ["reconstruction", "reconstruction", "sds", "sdi", "ism", "asd"]
    assert all((more["guidance"], more["t"], more["prior"]) == (3.0, "now", prior) for _, more in told)
    assert [more["rescale"] for _, more in told[:2]] == [0.5, 0.25]
    assert [more["settings"] for _, more in told[3:]] == list(chosen[3:])
    assert [len(more["condition"]) for _, more in told] == [2, 2, 2, 2, 2, 3]  # type: ignore[arg-type]
    assert asdict(DistilSettings(score=SDS()))["score"] == {"kind": "sds"}
    assert asdict(DistilSettings(score=SDI(steps=4)))["score"]["steps"] == 4
    with pytest.raises(InputError, match=r"`score` must be one of Reconstruction\(\), SDS\(\), .*, VSD\(\); got 'vsd'"):
        DistilSettings(score="vsd")
    with pytest.raises(InputError, match="`rescale` must lie between 0 and 1; got 2.0"):
        Reconstruction(rescale=2.0)
    with pytest.raises(InputError, match="PerfectPrior, which has no `learner`; got VSD"):
        begin(VSD(), prior=prior, prompts=["a"], negatives=[""], guidance=3.0)


def test_settings_of_a_lift_are_json() -> None:
    settings = asdict(LiftSettings(distil=AS_RELEASED))
    assert json.loads(json.dumps(settings))["distil"]["anneal_steps"] == 8_000


@pytest.mark.parametrize(
    ("coverage", "lowest", "highest"),
    [
        (0.1, 0.025, 0.50),  # 2.5 x 0.1 is less than a thin thing may show from another side
        (0.4, 0.100, 0.76),  # 2.5 x 0.4 is the whole picture: 0.4 + 0.6 x 0.6
        (0.6, 0.150, 0.84),
        (0.9, 0.225, 0.96),
    ],
)
def test_the_guard_fires_at_any_coverage_of_hand_worked_ones(coverage: float, lowest: float, highest: float) -> None:
    assert collapse_limits(coverage) == (pytest.approx(lowest), pytest.approx(highest))
    for share, healthy in ((highest - 0.01, True), (highest + 0.01, False), (1.0, False), (lowest - 0.01, False)):
        grid = GridField(resolution=4)
        guard = Guard(grid, coverage=coverage, learning_rate=0.1)
        assert guard.step(grid.grid.sum(), coverage=torch.tensor(share)) == healthy, share
        assert guard.rollbacks == int(not healthy)


@pytest.mark.parametrize("coverage", [0.05, 0.2, 0.4, 0.54, 0.67])
def test_a_field_that_fills_all_that_is_rendered_never_passes(coverage: float) -> None:
    """From the usual distance the sphere that is rendered covers 0.68 of a picture: a limit of 0.76 would be none."""
    most = largest_coverage(40.0, framing_distance(40.0))
    assert most == pytest.approx(0.68, abs=0.02)
    assert coverage < collapse_limits(coverage, most=most)[1] < most


def test_silhouettes_beyond_what_is_rendered_do_not_fire() -> None:
    assert collapse_limits(0.8, most=0.68)[1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "steps", "guidance"),
    [
        ([], 0, 3.0),
        (["--quality", "draft"], 0, 3.0),
        (["--quality", "high"], 60, 3.0),
        (["--quality", "draft", "--steps", "7", "--guidance", "5"], 7, 5.0),
    ],
)
def test_a_quality_says_how_much_is_done_and_options_override_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], steps: int, guidance: float
) -> None:
    asked = []

    def stop(*_: object, settings: object, **__: object) -> None:
        asked.append(settings)
        raise FitError("enough is known.")

    monkeypatch.setattr("viewfold.cli.lift.open_model", lambda *_, **__: tiny_model())
    monkeypatch.setattr("viewfold.make.lift", stop)
    assert main(["lift", "a red mug", "--out", str(tmp_path / "mug.glb"), *options]) == 5
    assert (asked[0].distil.steps, asked[0].distil.guidance, asked[0].fit.steps) == (steps, guidance, 80)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_each_score_is_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], score: Score
) -> None:
    asked = []

    def stop(*_: object, settings: object, **__: object) -> None:
        asked.append(settings)
        raise FitError("enough is known.")

    monkeypatch.setattr("viewfold.cli.lift.open_model", lambda *_, **__: tiny_model())
    monkeypatch.setattr("viewfold.make.lift", stop)
    command = ["lift", "a red mug", "--out", str(tmp_path / "mug.glb"), "--score", score.kind]
    assert main([*command, "--steps", "5"]) == 5
    assert asked[0].distil.score == score and asked[0].distil.steps == 5
    assert main(command) == 2 and len(asked) == 1, "a score that nothing would use is refused"
    assert f"`--score` must come with a distillation; got {score.kind}" in capsys.readouterr().err


def test_a_representation_that_is_asked_for_keeps_a_presets_own_numbers() -> None:
    assert represented(STANDARD, None) is STANDARD and represented(STANDARD, "grid") is STANDARD
    assert represented(MVDREAM, "hash").representation is MVDREAM.representation
    found = {kind: represented(MVDREAM, kind).representation.kind for kind in ("grid", "sdf", "gaussians")}
    assert found == {kind: kind for kind in found}


def test_a_prior_that_cannot_learn_is_refused_before_anything_is_fitted() -> None:
    prior = PerfectPrior(lambda cameras, size: torch.zeros(1))
    settings = LiftSettings(distil=DistilSettings(score=VSD(), steps=1))
    stages: list[str] = []

    def progress(stage: str, step: int, total: int) -> None:
        stages.append(stage)

    with pytest.raises(InputError, match="PerfectPrior, which has no `learner`; got VSD"):
        lift(prior, "a red ball", views=ball_views(), settings=settings, progress=progress)
    assert stages == []
