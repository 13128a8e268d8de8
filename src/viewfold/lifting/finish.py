"""How rough and how metallic an object is, by the finish that its prompt names.

Pictures of 64 to 256 pixels hardly show it, and a prompt says it outright.  Knows words; no pictures, no network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finish:
    """glTF's two numbers of a surface."""

    roughness: float
    """0 to 1."""

    metallic: float
    """0 to 1."""


PLAIN = Finish(roughness=0.9, metallic=0.0)
"""Of a prompt that names none."""

FINISHES: tuple[tuple[Finish, tuple[str, ...]], ...] = (
    (Finish(roughness=0.9, metallic=0.0), ("matt", "matte", "clay", "plaster", "felt", "velvet", "wool", "woolen",
     "woollen", "knitted", "plush", "furry", "fluffy", "cloth", "fabric", "rubber", "stone", "brick", "concrete",
     "paper", "cardboard", "unpolished", "unglazed")),
    (Finish(roughness=0.1, metallic=1.0), ("chrome", "chromed", "mirrored")),
    (Finish(roughness=0.6, metallic=1.0), ("rusty", "rusted", "cast iron", "wrought iron", "brushed metal",
     "brushed steel", "brushed aluminium", "brushed aluminum")),
    (Finish(roughness=0.35, metallic=1.0), ("metal", "metallic", "steel", "iron", "gold", "silver", "brass", "copper",
     "bronze", "aluminium", "aluminum", "titanium", "gilded", "gold plated", "gold-plated", "tin")),
    (Finish(roughness=0.35, metallic=0.0), ("glossy", "shiny", "polished", "plastic", "porcelain", "ceramic",
     "lacquered", "varnished", "glazed", "enamelled", "enameled", "patent leather", "glass")),
    (Finish(roughness=0.6, metallic=0.0), ("wooden", "wood", "oak", "pine", "walnut", "mahogany", "teak", "bamboo",
     "leather", "wicker")),
)  # fmt: skip
"""Finishes with their words, in the order in which they count: "polished metal" is a metal and "cast iron" a rough one.

The numbers of metal and gloss are those that the shipped model's toys were drawn with (docs/data.md); those of matt,
wood and chrome are usual ones of glTF samples.  Colours that are also metals (gold, silver, bronze, copper, tin) count
as metals: who wants the colour says golden.
"""


def read_finish(prompt: str) -> Finish:
    """Return the finish that a prompt names, `PLAIN` if it names none; of several, the first in `FINISHES`."""
    for finish, words in FINISHES:
        if re.search(rf"\b({'|'.join(map(re.escape, words))})\b", prompt.lower()):
            return finish
    return PLAIN
