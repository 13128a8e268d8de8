"""CLIP score and R-precision: by hand with an encoder that is told its directions."""

from __future__ import annotations

import math

import pytest
import torch
from encoder_fakes import ReadingEncoder, mean_color, shown

from viewfold.errors import InputError
from viewfold.evaluation.alignment import Alignment
from viewfold.evaluation.encoder import Encoded, TextEncoder
from viewfold.evaluation.source import Shown

DIRECTIONS = {"red": [2.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0], "gold": [1.0, 1.0, 0.0]}


def picture(color: tuple[float, float, float], prompt: str, subject: str) -> Shown:
    rgb = torch.tensor(color)[:, None, None].expand(3, 2, 2)
    return Shown(name=f"{subject}/{color}", rgb=rgb, prompt=prompt, subject=subject)


def measured(*pictures: Shown, prompts: tuple[str, ...] = tuple(DIRECTIONS)) -> Alignment:
    encoder = ReadingEncoder(mean_color, DIRECTIONS)
    assert isinstance(encoder, TextEncoder)
    alignment = Alignment(encoder, prompts)
    alignment.add(pictures, encoder.encode(torch.stack([p.rgb for p in pictures])))
    return alignment


def test_scores_by_hand_are_means_over_objects() -> None:
    found = measured(
        picture((1.0, 0.0, 0.0), "red", "a"),  # 100, right
        picture((0.0, 1.0, 0.0), "red", "a"),  # 0, wrong
        picture((0.0, 0.5, 0.0), "green", "b"),  # 100, right: brightness makes no difference
    ).result()
    assert (found.objects, found.prompts) == (2, 3)
    assert found.score.value == pytest.approx(75.0) and found.score.n == 2
    assert found.r_precision is not None and found.r_precision.value == pytest.approx(0.75)
    assert list(found.figures()) == ["CLIP score (given)", "CLIP R-precision (given, 3 prompts)"]
    half = measured(picture((1.0, 0.0, 1.0), "gold", "a")).result()
    assert half.score.value == pytest.approx(100 * 0.5) and half.r_precision is not None
    assert half.r_precision.value == 0.0, "red is nearer, at 0.71"


def test_an_angle_beyond_a_right_one_scores_nothing() -> None:
    encoder = ReadingEncoder(lambda rgb: -mean_color(rgb), DIRECTIONS)
    alignment = Alignment(encoder, ["red"])
    shot = picture((1.0, 0.0, 0.0), "red", "a")
    alignment.add([shot], encoder.encode(shot.rgb[None]))
    found = alignment.result()
    assert found.score.value == 0.0 and found.r_precision is None, "there is nothing to choose among one prompt"


def test_a_network_that_sees_no_difference_scores_chance() -> None:
    encoder = ReadingEncoder(mean_color, dict.fromkeys(DIRECTIONS, [1.0, 1.0, 1.0]))
    alignment = Alignment(encoder, list(DIRECTIONS) * 2)
    shots = [picture((0.3, 0.2, 0.1), prompt, prompt) for prompt in DIRECTIONS]
    alignment.add(shots, encoder.encode(torch.stack([p.rgb for p in shots])))
    found = alignment.result()
    assert found.prompts == 3 and found.r_precision is not None, "prompts that come twice count once"
    assert found.r_precision.value == pytest.approx(1 / 3)


def test_two_prompts_are_a_choice_and_one_picture_alone_is_an_object() -> None:
    found = measured(picture((1.0, 0.5, 0.0), "red", ""), prompts=("red", "green")).result()
    assert found.r_precision is not None and (found.r_precision.value, found.r_precision.n) == (1.0, 1)
    assert found.score.value == pytest.approx(100 * 2 / math.sqrt(5)) and found.objects == 1
    nameless = [Shown(name=f"{n}", rgb=torch.ones(3, 2, 2), prompt="red") for n in range(3)]
    alignment = measured(*nameless, *shown(2, size=2))
    assert alignment.seen == 3, "those without a subject are each their own, those without a prompt none"
    assert alignment.result().score.value == pytest.approx(100 / math.sqrt(3))


def test_prompts_are_read_a_few_at_a_time_and_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfold.evaluation.alignment.TEXTS", 2)
    read: list[list[str]] = []

    class Listening(ReadingEncoder):
        def encode_text(self, prompts: list[str]) -> torch.Tensor:
            read.append(prompts)
            return super().encode_text(prompts)

    shots = [picture(color, prompt, prompt) for color, prompt in (((1.0, 0.9, 0.0), "gold"), ((1.0, 0.1, 0.0), "red"))]
    encoder = Listening(mean_color, DIRECTIONS)
    alignment = Alignment(encoder, list(DIRECTIONS))
    for shot in shots:  # one at a time
        alignment.add([shot], encoder.encode(shot.rgb[None]))
    assert read == [["red", "green"], ["gold"]]
    found = alignment.result()
    assert found.r_precision is not None and (found.r_precision.value, found.objects) == (1.0, 2)


def test_features_of_half_precision_are_counted_in_double() -> None:
    """Of two prompts a thousandth of a degree apart the nearer one is found."""
    near = {"one": [1.0, 1e-5, 0.0], "two": [1.0, 0.0, 1e-5]}
    encoder = ReadingEncoder(mean_color, near)
    alignment = Alignment(encoder, list(near))
    shot = picture((1.0, 0.0, 0.5), "two", "a")
    alignment.add([shot], Encoded(encoder.encode(shot.rgb[None]).features.half()))
    found = alignment.result()
    assert found.r_precision is not None and found.r_precision.value == 1.0
    assert found.score.value == pytest.approx(100 * (1 + 0.5e-5) / math.sqrt(1.25), rel=1e-9)


def test_what_has_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        measured(prompts=())
    with pytest.raises(InputError, match="none has one"):
        measured(*shown(2)).result()
    with pytest.raises(InputError, match="'blue' is missing"):
        measured(picture((1.0, 0.0, 0.0), "blue", "a"))
    with pytest.raises(InputError, match="direction"):
        measured(picture((0.0, 0.0, 0.0), "red", "a"))
    with pytest.raises(InputError, match="direction"):
        measured(picture((1.0, 0.0, 0.0), "red", "a"), picture((0.0, 0.0, 0.0), "red", "a"))
    nan = ReadingEncoder(mean_color, {"red": [math.nan, 0.0, 0.0]})
    with pytest.raises(InputError, match="finite features"):
        Alignment(nan, ["red"])
    with pytest.raises(InputError, match="one width"):
        Alignment(ReadingEncoder(mean_color, DIRECTIONS), ["red"]).add(
            [picture((1.0, 0.0, 0.0), "red", "a")], Encoded(torch.ones(1, 2))
        )
