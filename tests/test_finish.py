"""A prompt names its finish, in whole words, and the rarer of two counts."""

from __future__ import annotations

import pytest

from viewfold.data.toybox.palette import FINISHES as TOYS
from viewfold.lifting.finish import FINISHES, PLAIN, read_finish


@pytest.mark.parametrize(
    ("prompt", "roughness", "metallic"),
    [
        ("a red mug", 0.9, 0.0),
        ("a shiny red mug", 0.35, 0.0),
        ("a red Metal mug", 0.35, 1.0),
        ("a polished metal teapot", 0.35, 1.0),
        ("a wooden treasure chest", 0.6, 0.0),
        ("a cast iron pan", 0.6, 1.0),
        ("an iron, cast", 0.35, 1.0),
        ("a CHROME bumper", 0.1, 1.0),
        ("a matte black car", 0.9, 0.0),
        ("a statue of gold", 0.35, 1.0),
        ("a golden retriever", 0.9, 0.0),
        ("a woodpecker", 0.9, 0.0),
        ("an ironing board", 0.9, 0.0),
        ("", 0.9, 0.0),
    ],
)
def test_a_finish_is_read_off_the_words(prompt: str, roughness: float, metallic: float) -> None:
    finish = read_finish(prompt)
    assert (finish.roughness, finish.metallic) == (roughness, metallic)


def test_a_prompt_without_a_finish_is_plain() -> None:
    assert read_finish("a duck") is PLAIN


def test_what_the_shipped_models_captions_say_of_gloss_and_metal_is_what_its_toys_were_drawn_with() -> None:
    for name in ("glossy", "metal"):
        toy = TOYS[name]
        for before, after in toy.words:
            finish = read_finish(f"a {before} red {after} mug")
            assert (finish.roughness, finish.metallic) == (toy.roughness, toy.metallic), (before, after)


def test_no_word_stands_for_two_finishes_and_all_numbers_are_shares() -> None:
    words = [word for _, some in FINISHES for word in some]
    assert len(words) == len(set(words)) and all(word == word.lower() for word in words)
    assert all(0 <= n <= 1 for finish, _ in FINISHES for n in (finish.roughness, finish.metallic))
