"""What people say about a toy: captions for training, and the words kept back from every caption to test with.

Every wording names the kind and the main colour; most name the accent too.  `write_captions` draws from one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from viewfold.data.toybox.palette import SYNONYMS, Finish
from viewfold.data.toybox.toy import Kind

T = TypeVar("T")

N_CAPTIONS = 12
"""Wordings per asset."""

MAX_WORDS = 22
"""In a caption of a group: the shipped text encoder reads 32 tokens, and some words are two or three."""

WORDINGS = (
    "{a_main} {noun} with {a_accent} {part}",
    "{main} {noun} with {a_accent} {part}",
    "the {main} {noun} with the {accent} {part}",
    "{main} {noun}, {accent} {part}",
    "{a_noun}, {main}, with {a_accent} {part}",
    "{a_noun} in {main} with {a_accent} {part}",
    "{a_main} {noun} whose {part} {is_are} {accent}",
    "{a_main} {noun} that has {a_accent} {part}",
    "the {noun} is {main} and its {part} {is_are} {accent}",
    "{a_noun} that is {main}, with its {part} in {accent}",
    "a {size} {main} {noun} with {a_accent} {part}",
    "a {size} {noun} painted {main}, its {part} {accent}",
    "a picture of {a_main} {noun} with {a_accent} {part}",
    "a 3d model of {a_main} {noun} with {a_accent} {part}",
    "{a_main}-{coloured} {noun} and {a_accent}-{coloured} {part}",
    "{a_main} {noun} and its {accent} {part}",
    "my {size} {main} {noun} has {a_accent} {part}",
    "one {main} {noun}, with {accent} for the {part}",
    "{noun}: {main}; {part}: {accent}",
)
"""Forms of a caption that name both colours; the first is canonical."""

WORN_WORDINGS = (
    "{a_main} {noun} wearing {a_accent} {part}",
    "the {size} {main} {noun} wears {a_accent} {part}",
    "{a_main} {noun} dressed in {a_accent} {part}",
    "{a_main} {noun} in {a_accent} {part}",
)
"""Further forms where the accent is worn."""

MAIN_WORDINGS = (
    "{a_main} {noun}",
    "a {size} {main} {noun}",
    "{noun}, {main}",
    "{noun} in {main}",
)
"""Forms that name the main colour alone."""

RELATION_WORDINGS: dict[str, tuple[str, ...]] = {
    "on": ("{a} on {b}", "{a} on top of {b}", "{a} standing on {b}", "{b} with {a} on it", "{b} and on it {a}"),
    "worn by": ("{b} wearing {a}", "{b} with {a} on its head", "{a} on {b}", "{b} in {a}", "{b} that wears {a}"),
    "beside": ("{a} beside {b}", "{a} next to {b}", "{a} and {b}", "{b} with {a} beside it", "{a} standing by {b}"),
    "in front of": ("{a} in front of {b}", "{b} behind {a}", "{b} with {a} in front", "{a} before {b}"),
}
"""Relation to forms for two things; the first is canonical."""

SIZES = ("small", "little", "cute", "simple", "nice", "pretty", "big", "tiny", "plain")

RESERVED = (
    "settee", "automobile", "cottage", "android", "toadstool", "duckling", "aircraft", "yacht", "kettle", "tankard",
    "lantern", "fir", "spaceship", "goldfish", "fedora", "armchair", "crimson", "azure", "emerald", "lemon", "ebony",
    "ivory", "tangerine", "lavender", "rose", "teal", "charcoal", "chocolate",
    "locomotive", "chopper", "kitten", "puppy", "bunny", "tortoise", "parasol", "fortress", "blossom", "gelato", "cub",
    "orb", "burgundy", "fuchsia",
)  # fmt: skip
"""Words that no caption contains, so that prompts made of them test what the text encoder knows by itself."""

UNSEEN_WORDING_PROMPTS: tuple[tuple[str, str, str], ...] = (
    ("a crimson settee", "sofa", "red"),
    ("an azure automobile", "car", "blue"),
    ("an emerald automobile", "car", "green"),
    ("an ivory cottage", "house", "white"),
    ("a lemon yellow cottage", "house", "yellow"),
    ("an ebony android", "robot", "black"),
    ("a crimson toadstool", "mushroom", "red"),
    ("a lemon coloured duckling", "duck", "yellow"),
    ("an ivory aircraft", "aeroplane", "white"),
    ("a tangerine yacht", "boat", "orange"),
    ("a lavender kettle", "teapot", "purple"),
    ("a charcoal tankard", "mug", "grey"),
    ("a teal fedora", "hat", "cyan"),
    ("a chocolate brown armchair", "chair", "brown"),
    ("an emerald fir", "tree", "green"),
    ("a rose pink lantern", "lamp", "pink"),
    ("a crimson spaceship", "rocket", "red"),
    ("a tangerine goldfish", "fish", "orange"),
    ("an azure snowman", "snowman", "blue"),
    ("a chocolate table", "table", "brown"),
    ("a burgundy locomotive", "train", "maroon"),
    ("a crimson chopper", "helicopter", "red"),
    ("an ebony kitten", "cat", "black"),
    ("a chocolate puppy", "dog", "brown"),
    ("an ivory bunny", "rabbit", "white"),
    ("an emerald tortoise", "turtle", "green"),
    ("an azure parasol", "umbrella", "blue"),
    ("a charcoal fortress", "castle", "grey"),
    ("a fuchsia blossom", "flower", "magenta"),
    ("a lemon yellow gelato", "ice cream", "yellow"),
    ("a chocolate brown cub", "bear", "brown"),
    ("a lavender orb", "ball", "purple"),
)
"""(prompt, kind, main colour); each holds at least one word of `RESERVED`."""


def article(phrase: str) -> str:
    """Return the phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def write_captions(kind: Kind, main: str, accent: str, finish: Finish, rng: np.random.Generator) -> list[str]:
    """Return `N_CAPTIONS` different captions; the first is canonical ("a red mug with a blue handle")."""
    captions = [_fill(WORDINGS[0], kind, Words(main, accent, kind.name, kind.part, finish.words[0]))]
    forms = (*WORDINGS, *MAIN_WORDINGS, *(WORN_WORDINGS if kind.worn else ()))
    while len(captions) < N_CAPTIONS:
        for index in rng.permutation(len(forms)):
            caption = _fill(forms[index], kind, _draw_words(kind, main, accent, finish, rng))
            if caption not in captions and len(captions) < N_CAPTIONS:
                captions.append(caption)
    return captions


def write_group_captions(
    things: Sequence[tuple[Kind, str, str, Finish]], relations: Sequence[str], rng: np.random.Generator
) -> list[str]:
    """Return `N_CAPTIONS` different captions of (kind, main, accent, finish) in relation; the first is canonical."""
    captions = [_relate([_name(*thing, None) for thing in things], relations, None)]
    while len(captions) < N_CAPTIONS:
        caption = _relate([_name(*thing, rng) for thing in things], relations, rng)
        if caption not in captions and len(caption.split()) <= MAX_WORDS:
            captions.append(caption)
    return captions


def _name(kind: Kind, main: str, accent: str, finish: Finish, rng: np.random.Generator | None) -> str:
    """Return "a red mug" or, one time in five, "a red mug with a blue handle"."""
    if rng is None:
        return _fill(MAIN_WORDINGS[0], kind, Words(main, accent, kind.name, kind.part, finish.words[0]))
    words = _draw_words(kind, main, accent, finish, rng)
    draw = rng.random()
    return _fill(WORDINGS[0] if draw < 0.2 else MAIN_WORDINGS[draw > 0.8], kind, words)


def _relate(names: list[str], relations: Sequence[str], rng: np.random.Generator | None) -> str:
    """Fold the names into one phrase, "a on b, and next to them c"."""
    phrase = names[0]
    for place, (name, relation) in enumerate(zip(names[1:], relations, strict=True)):
        forms = RELATION_WORDINGS[relation]
        alone = place == len(relations) - 1 == 0  # a phrase inside another stays plain
        phrase = (forms[0] if rng is None or not alone else _choose(forms, rng)).format(a=phrase, b=name)
    return phrase


class Words(NamedTuple):
    """What one caption calls things."""

    main: str
    accent: str
    noun: str
    part: str
    finish: tuple[str, str]
    """Before the colour and before the noun."""

    size: str = "small"
    coloured: str = "coloured"


def _draw_words(kind: Kind, main: str, accent: str, finish: Finish, rng: np.random.Generator) -> Words:
    return Words(
        main=_choose(SYNONYMS[main], rng),
        accent=_choose(SYNONYMS[accent], rng),
        noun=_choose(kind.nouns, rng),
        part=_choose(kind.part_nouns, rng),
        finish=_choose(finish.words, rng),
        size=SIZES[rng.integers(len(SIZES))],
        coloured="coloured" if rng.random() < 0.5 else "colored",
    )


def _choose(words: tuple[T, ...], rng: np.random.Generator) -> T:
    """Return the first half of the time, else any."""
    return words[0] if rng.random() < 0.5 else words[rng.integers(len(words))]


def _fill(form: str, kind: Kind, words: Words) -> str:
    main, noun = (f"{look} {word}".lstrip() for look, word in zip(words.finish, (words.main, words.noun), strict=True))
    return form.format(
        main=main,
        a_main=article(main),
        accent=words.accent,
        a_accent=words.accent if kind.plural else article(words.accent),
        noun=noun,
        a_noun=article(noun),
        part=words.part,
        is_are="are" if kind.plural else "is",
        size=words.size,
        coloured=words.coloured,
    )
