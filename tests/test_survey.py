"""The views that a lift asks for: which cameras, in how many runs, and the best of several."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import tiny_model
from lift_fakes import ball, ball_views

from viewfold import make
from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import InputError, PromptError
from viewfold.label import UNLABELLED
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.presets import DRAFT, HIGH, STANDARD
from viewfold.lifting.stages import FitSettings, GridSettings, LiftSettings, MeshSettings
from viewfold.lifting.survey import Survey
from viewfold.model.weights_hash import weights_hash
from viewfold.views import Views

ANCHORS = Cameras.orbit(4, elevation_deg=15, fov_deg=30, distance=2.0)
BALL = ball_views(n_views=4)
GIVEN = Views(rgb=torch.zeros(4, 3, 8, 8), cameras=ANCHORS)
SMALL = {
    "fit": FitSettings(steps=8),
    "representation": GridSettings(resolution=16, samples=16),
    "mesh": MeshSettings(resolution=24, faces=200, texture_size=32),
    "polish": PolishSettings(steps=2),
}


def heights(cameras: Cameras) -> list[int]:
    sine = cameras.position[:, 2] / cameras.position.norm(dim=-1)
    return [round(math.degrees(math.asin(float(s)))) for s in sine]


def directions(cameras: Cameras) -> list[float]:
    x, y, _ = cameras.position.T
    return [round(float(a) % 360, 2) for a in torch.rad2deg(torch.atan2(x, -y))]


def test_the_others_stand_between_the_anchors_at_every_height_and_share_their_lens() -> None:
    others = Survey(views=12, elevations_deg=(0.0, 35.0)).others(ANCHORS)
    assert others is not None and heights(others) == [0, 35] * 4
    assert directions(others) == [22.5 + 45 * i for i in range(8)]
    assert others.fov_deg.tolist() == [30.0] * 8
    torch.testing.assert_close(others.position.norm(dim=-1), torch.full((8,), 2.0))


@pytest.mark.parametrize("views", [1, 3, 4])
def test_no_more_than_the_anchors_need_nobody_else(views: int) -> None:
    assert Survey(views=views).others(ANCHORS) is None


def test_what_a_survey_leaves_open_is_the_models_own() -> None:
    assert Survey().resolved(views=16, around=False) == Survey(views=16, around=False)
    assert Survey(views=5, around=True).resolved(views=16, around=False) == Survey(views=5, around=True)
    assert Survey(most=8).resolved(views=16, around=True).views == 8
    assert Survey(most=8).resolved(views=4, around=True).views == 4
    assert Survey(most=8, views=12).resolved(views=4, around=True).views == 12


@pytest.mark.parametrize(
    ("name", "value"), [("views", 0), ("views", 65), ("most", 0), ("elevations_deg", ()), ("elevations_deg", (0, 90.0))]
)
def test_a_survey_that_cannot_be_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"`{name}` must"):
        Survey(**{name: value})


def test_the_qualities_differ_in_what_they_say() -> None:
    assert (DRAFT.survey.most, DRAFT.polish.steps, DRAFT.distil.steps) == (8, 0, 0)
    assert STANDARD.polish.steps == 80
    assert STANDARD.survey == Survey() and STANDARD.distil.steps == 0 and STANDARD == LiftSettings()
    assert HIGH.survey == Survey() and HIGH.distil.steps == 60


class Asked:
    """Stands for `generate`: draws the true ball, and records what it was asked for."""

    def __init__(self, **defaults: Any) -> None:
        self.model = tiny_model()
        self.model.register_to_config(**defaults)
        self.calls: list[dict[str, Any]] = []

    def generate(self, model: Any, prompt: str, *, cameras: Cameras, given: Views | None = None, **rest: Any) -> Views:
        assert model is self.model and rest["origin"] is None
        rest["progress"](1, 1)
        self.calls.append({"cameras": cameras, "given": given, "seed": rest["seed"]})
        seen = Cameras.cat([given.cameras, cameras]) if given is not None else cameras
        return Views(rgb=ball(seen, size=32)[0], cameras=seen, prompt=prompt, run={"seed": rest["seed"]})


class Signer:
    """An origin hook that counts."""

    def __init__(self) -> None:
        self.signed: list[tuple[int, tuple[int, ...]]] = []

    def check_prompt(self, prompt: str) -> None:
        if "forbidden" in prompt:
            raise PromptError("`prompt` is forbidden.")

    def sign(self, views: Views, made: Any) -> Views:
        assert made.seed in (3, 5)
        self.signed.append((len(views), made.given))
        return views

    def label(self, views: Views, made: Any) -> Any:
        return UNLABELLED


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(asked: Asked, **options: Any) -> Any:
        monkeypatch.setattr(make, "generate", asked.generate)
        survey = options.pop("survey", Survey())
        settings = LiftSettings(survey=survey, **SMALL)
        return make.lift(asked.model, options.pop("prompt", "a red ball"), settings=settings, **options)

    return run


def test_anchors_come_first_and_the_others_around_them(lifted: Any) -> None:
    asked, signer = Asked(lift_views=12), Signer()
    asset = lifted(asked, seed=3, origin=signer)
    first, second = asked.calls
    assert len(first["cameras"]) == 4 and first["given"] is None and heights(first["cameras"]) == [15] * 4
    assert len(second["cameras"]) == 8 and len(second["given"]) == 4
    assert first["seed"] == second["seed"] == 3
    assert len(asset.views) == 12 and signer.signed == [(12, ())]  # together: the model drew the anchors too
    assert asset.report["settings"]["survey"]["views"] == 12 and asset.report["settings"]["survey"]["around"] is True


def test_a_model_may_draw_all_at_once(lifted: Any) -> None:
    asked = Asked(lift_views=12, lift_around=False)
    lifted(asked, origin=None)
    (only,) = asked.calls
    assert len(only["cameras"]) == 12 and only["given"] is None and set(heights(only["cameras"])) == {5, 15, 30}


@pytest.mark.parametrize("views", [2, 4])
def test_few_views_are_anchors_alone(lifted: Any, views: int) -> None:
    asked = Asked(lift_views=12)
    asset = lifted(asked, survey=Survey(views=views), origin=None)
    (only,) = asked.calls
    assert len(only["cameras"]) == len(asset.views) == views


def test_the_best_of_several_tries_is_lifted(lifted: Any) -> None:
    asked = Asked(lift_views=6)
    seen: list[int] = []

    def scorer(views: Views) -> float:
        seen.append(views.run["seed"])
        return [0.2, 0.9, 0.9][len(seen) - 1]

    asset = lifted(asked, seed=5, tries=3, scorer=scorer, origin=None)
    assert seen == [5, 8, 11] and len(asked.calls) == 4
    assert asked.calls[3]["seed"] == 8 and asked.calls[3]["given"].run["seed"] == 8
    assert asset.views.run["tries"] == {"seeds": [5, 8, 11], "scores": [0.2, 0.9, 0.9], "chosen": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tries": 0}, "`tries` must lie between 1 and 64; got 0"),
        ({"tries": 2}, "`scorer` must be given to choose among 2 tries"),
        ({"tries": 2, "scorer": len, "views": GIVEN}, "`tries` must be 1 where `views` are given"),
        ({"tries": 2, "scorer": lambda views: math.nan}, "`scorer` must return numbers"),
        ({"prompt": "a forbidden ball"}, "forbidden"),
    ],
)
def test_what_cannot_be_tried_is_refused(lifted: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, PromptError), match=message):
        lifted(Asked(), origin=Signer(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "somewhere", "--views", "4"], "`--views` must be left out with `--from`"),
        (["--from", "somewhere", "--tries", "2"], "`--tries` must be left out with `--from`"),
        (["--quality", "mvdream", "--from", "somewhere"], "`--quality` mvdream begins with a blob"),
        (["--quality", "mvdream-reduced", "--views", "4"], "`--quality` mvdream-reduced begins with a blob"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_a_model_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewfold.cli.lift.open_model", lambda *_, **__: pytest.fail("a model was read"))
    assert main(["lift", "a mug", *options]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_tries_of_a_model_that_draws_all_at_once_are_whole_sets(lifted: Any) -> None:
    asked = Asked(lift_views=6, lift_around=False)
    asset = lifted(asked, seed=0, tries=2, scorer=lambda views: float(len(views) + views.run["seed"]), origin=None)
    assert [len(call["cameras"]) for call in asked.calls] == [6, 6]
    assert asset.views.run["tries"] == {"seeds": [0, 3], "scores": [6.0, 9.0], "chosen": 3}


def test_the_record_says_what_is_known_of_the_light(lifted: Any) -> None:
    """Of the model's own views, as its index says; of others, or of a model that says nothing, it is estimated."""
    for known, views, kind in ((True, None, "Light"), (False, None, "Estimate"), (True, BALL, "Estimate")):
        options = {} if views is None else {"views": views}
        asset = lifted(Asked(lift_views=4, known_light=known), origin=None, **options)
        told = asset.report["settings"]["paint"]["light"]
        assert set(told) == {"Light": {"sky", "ground", "key", "direction"}}.get(kind, set(told)), kind
        assert (told.get("kind") == "estimate") == (kind == "Estimate")


def test_views_that_the_model_drew_before_are_lit_as_its_own(lifted: Any) -> None:
    asked = Asked(lift_views=4, known_light=True)
    mine = replace(BALL, run={"weights_sha256": weights_hash(asked.model)})
    assert "sky" in lifted(asked, origin=None, views=mine).report["settings"]["paint"]["light"]
