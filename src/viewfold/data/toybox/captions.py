"""What people say about a toy: captions for training, and the words kept back from every caption to test with.

Every wording names the kind and the main colour; most name the accent too.  `write_captions` draws from one seed.
"""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.palette import SYNONYMS
from viewfold.data.toybox.toy import Kind

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
    "{noun}: {main}; {part}: {accent}",
    "{a_main} {noun}",
    "a {size} {main} {noun}",
    "{noun}, {main}",
)
"""Forms of a caption; the first is canonical, the last three name the main colour alone."""

SIZES = ("small", "little", "cute", "simple", "nice", "shiny", "big")

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


def write_captions(kind: Kind, main: str, accent: str, rng: np.random.Generator) -> list[str]:
    """Return `N_CAPTIONS` different captions; the first is canonical ("a red mug with a blue handle")."""
    captions = [_fill(WORDINGS[0], kind, main, accent, kind.name, kind.part, size="small", coloured="coloured")]
    while len(captions) < N_CAPTIONS:
        for index in rng.permutation(len(WORDINGS)):
            caption = _fill(
                WORDINGS[index],
                kind,
                _choose(SYNONYMS[main], rng),
                _choose(SYNONYMS[accent], rng),
                _choose(kind.nouns, rng),
                _choose(kind.part_nouns, rng),
                size=SIZES[rng.integers(len(SIZES))],
                coloured="coloured" if rng.random() < 0.5 else "colored",
            )
            if caption not in captions and len(captions) < N_CAPTIONS:
                captions.append(caption)
    return captions


def _choose(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """Return the first word half of the time, else any."""
    return words[0] if rng.random() < 0.5 else words[rng.integers(len(words))]


def _fill(form: str, kind: Kind, main: str, accent: str, noun: str, part: str, *, size: str, coloured: str) -> str:
    return form.format(
        main=main,
        a_main=article(main),
        accent=accent,
        a_accent=accent if kind.plural else article(accent),
        noun=noun,
        a_noun=article(noun),
        part=part,
        is_are="are" if kind.plural else "is",
        size=size,
        coloured=coloured,
    )
