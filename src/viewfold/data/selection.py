"""Which samples are packed: by licence, faces, textures, emptiness, captions and likeness to one that is packed."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.data.manifest import Entry
from viewfold.errors import InputError

LOOK_BITS = 192
"""8 x 8 comparisons of neighbours in each of three colours."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a sample must be like; the default takes all."""

    licence: tuple[str, ...] = ()
    """Licences to take, * standing for anything ("CC0*", "CC-BY-4.0"); without regard to case."""
    faces: tuple[int, int] | None = None
    """Fewest and most triangles."""
    textured: bool = False
    """Take only assets with a texture."""
    coverage: float | None = None
    """Least share of the pixels that show something."""
    likeness: int | None = None
    """Most differing bits, of 192, at which a sample counts as a copy of one that is taken."""
    caption_words: int | None = None
    """Fewest words of the longest caption."""
    caption_match: str | None = None
    """Regular expression that a caption must hold."""

    def __post_init__(self) -> None:
        if self.caption_match is not None:
            try:
                re.compile(self.caption_match)
            except re.error as error:
                raise InputError(
                    f"`caption_match` must be a regular expression; got {self.caption_match!r}: {error}."
                ) from error
        if self.coverage is not None and not 0 <= self.coverage <= 1:
            raise InputError(f"`coverage` must lie between 0 and 1; got {self.coverage}.")
        if self.likeness is not None and not 0 <= self.likeness < LOOK_BITS // 2:
            raise InputError(f"`likeness` must lie between 0 and {LOOK_BITS // 2 - 1}; got {self.likeness}.")
        if self.faces is not None and not 0 <= self.faces[0] <= self.faces[1]:
            raise InputError(f"`faces` must be a rising range; got {self.faces[0]} to {self.faces[1]}.")

    def refuses(self, entry: Entry) -> str | None:
        """Return which rule leaves a sample out; None if it is taken.  What a rule asks about must be known."""
        licence = (entry.licence or "").lower()
        if self.licence and not any(fnmatch.fnmatchcase(licence, pattern.lower()) for pattern in self.licence):
            return f"licence {entry.licence or 'unknown'}"
        if self.faces is not None and (entry.faces is None or not self.faces[0] <= entry.faces <= self.faces[1]):
            return "faces unknown" if entry.faces is None else "too few or too many faces"
        if self.textured and not entry.textures:
            return "no texture"
        if self.coverage is not None and (entry.coverage is None or entry.coverage < self.coverage):
            return "nearly empty"
        words = max((len(caption.split()) for caption in entry.captions), default=0)
        if self.caption_words is not None and words < self.caption_words:
            return "caption too short"
        if self.caption_match is not None and not any(re.search(self.caption_match, text) for text in entry.captions):
            return "caption does not match"
        return None


def look_of(rgb: Float[Tensor, "3 h w"]) -> str:
    """Return a perceptual hash (a difference hash of each colour), 48 hexadecimal digits.

    Pictures come on one ground, so that their colour counts too: a red mug and a blue one differ.
    """
    small = torch.nn.functional.interpolate(rgb[None], (8, 9), mode="area")[0]
    bits = (small[:, :, 1:] > small[:, :, :-1] + 1 / 512).flatten().numpy()
    return np.packbits(bits).tobytes().hex()


class Looks:
    """Hashes of what was taken.  Of two within `likeness` bits at least one of `likeness` + 1 bands is the same."""

    def __init__(self, likeness: int) -> None:
        self._likeness = likeness
        edges = np.linspace(0, LOOK_BITS, likeness + 2).round().astype(int).tolist()
        self._bands = list(zip(edges, edges[1:], strict=False))
        self._found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)

    def like(self, look: str) -> str | None:
        """Return the uid of a taken sample that looks like this; None if none does."""
        number = int(look, 16)
        for key in self._keys(number):
            for uid, other in self._found.get(key, ()):
                if (number ^ other).bit_count() <= self._likeness:
                    return uid
        return None

    def add(self, uid: str, look: str) -> None:
        """Note that a sample is taken."""
        number = int(look, 16)
        for key in self._keys(number):
            self._found[key].append((uid, number))

    def _keys(self, number: int) -> list[tuple[int, int]]:
        return [(low, (number >> low) & ((1 << (high - low)) - 1)) for low, high in self._bands]
