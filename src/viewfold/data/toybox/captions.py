"""What people say about a toy: captions for training, and the words kept back from every caption to test with.

Every wording names the kind and the main colour; most name the accent too.  `write_captions` draws from one seed.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np

from viewfold.data.toybox.palette import SYNONYMS, Finish
from viewfold.data.toybox.toy import Kind

T = TypeVar("T")

N_CAPTIONS = 12
"""Wordings per asset."""

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

SIZES = ("small", "little", "cute", "simple", "nice", "pretty", "big", "tiny", "lovely", "plain")

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
            words = Words(
                main=_choose(SYNONYMS[main], rng),
                accent=_choose(SYNONYMS[accent], rng),
                noun=_choose(kind.nouns, rng),
                part=_choose(kind.part_nouns, rng),
                finish=_choose(finish.words, rng),
                size=SIZES[rng.integers(len(SIZES))],
                coloured="coloured" if rng.random() < 0.5 else "colored",
            )
            caption = _fill(forms[index], kind, words)
            if caption not in captions and len(captions) < N_CAPTIONS:
                captions.append(caption)
    return captions


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
