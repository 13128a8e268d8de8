"""What `--help` says: a line for every option, true defaults, and messages that name options of groups too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from viewfold.cli import (
    assets,
    blind,
    doctor,
    evaluate,
    generate,
    lift,
    main,
    measuring,
    origin,
    pack,
    personalize,
    placement,
    render,
    report,
    training,
)


@pytest.mark.parametrize(
    "verb", ["generate", "lift", "assets", "render", "pack", "train", "personalize", "evaluate", "weights", "doctor"]
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"viewfold {verb}" in capsys.readouterr().out


def test_every_option_has_a_line_of_help() -> None:
    groups = (
        generate.CameraFlags, generate.DrawingFlags, placement.PlacementFlags, origin.OriginFlags, training.RateFlags,
        training.ProcessFlags, training.WatchFlags, training.DataFlags, pack.SelectionFlags, report.ReportFlags,
        report.SurveyFlags, blind.BlindFlags, blind.VoteFlags, measuring.SpreadFlags,
    )  # fmt: skip
    verbs = (
        generate.Generate,
        lift.Lift,
        assets.Assets,
        render.Render,
        pack.Pack,
        training.Train,
        personalize.Personalize,
    )
    verbs += (doctor.Doctor, evaluate.Evaluate)
    for home in (*groups, *verbs):
        lines = Path(sys.modules[home.__module__].__file__ or "").read_text().splitlines()
        for name, kind in home.__annotations__.items():
            at = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
            assert at, f"{home.__name__}.{name}"
            assert kind in {group.__name__ for group in groups} or all(
                lines[i + 1].startswith('    """') and lines[i + 1].endswith('"""') for i in at
            ), f"{home.__name__}.{name} must have one line of help"


def test_the_help_tells_the_true_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the model or the library chooses, the line of help says what; nowhere does it say None."""
    from viewfold.lifting.presets import DRAFT, HIGH, STANDARD
    from viewfold.model.defaults import T2I, TOYBOX
    from viewfold.training.diffusion import DiffusionSettings

    lift, train = STANDARD, DiffusionSettings()
    told = {
        "generate": [
            f"default {TOYBOX.steps} with toybox, {T2I.steps} with MVDream's",
            f"default {TOYBOX.guidance:g} with toybox, {T2I.guidance:g} with MVDream's",
            f"default {TOYBOX.azimuth_deg:g}, with MVDream's {T2I.azimuth_deg:g}",
            f"horizon; by default {TOYBOX.elevation_deg:g}",
            f'default none with toybox, "{T2I.suffix}" with MVDream\'s',
        ],
        "lift": [
            f"toybox {TOYBOX.lift_views}, draft {DRAFT.survey.most}",
            f"default none, and {HIGH.distil.steps} with high",
            f"default {lift.distil.guidance:g}",
            f"default {lift.mesh.faces}",
            f"default {lift.mesh.texture_size}",
        ],
        "train": [
            f"those of earlier runs included; by default {train.loop.steps}",
            f"Objects a step and process; by default {train.batch}",
            f"Views of each object; by default {train.views}",
            f"Peak learning rate; by default {train.loop.lr:g}",
            f"Steps over which the rate rises; by default {train.loop.warmup}",
            f"Pull of the weights towards zero; by default {train.loop.weight_decay:g}",
            f"Largest norm of the gradient; by default {train.loop.clip:g}",
            f"averaged weights, which are the result; by default {train.loop.ema:g}",
            f"same memory; by default {train.loop.accumulate}",
            f"Minutes between two checkpoints; by default {train.loop.checkpoint_minutes:g}",
            f"Newest checkpoints to keep; by default {train.loop.keep}",
            f"Steps between two checks; by default {train.loop.check_steps}",
            f"before their steps ask; by default {train.loop.read_ahead}",
        ],
    }
    assert (TOYBOX.elevation_deg, TOYBOX.negative) == (T2I.elevation_deg, T2I.negative)
    for verb, lines in told.items():
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert not [line for line in lines if line not in text]
        assert "None" not in text


def test_the_options_of_a_group_are_named_as_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a mug", "--offload", "model", "--device", "cpu"]) == 2
    assert "`--offload` must be none on a CPU" in capsys.readouterr().err
