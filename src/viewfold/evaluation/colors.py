"""How saturated and how contrasty an object is, by itself and among others.

    saturation = mean of (max - min) / max of red, green and blue  (HSV's S)
    contrast   = standard deviation of 0.2126 r + 0.7152 g + 0.0722 b  (Rec. 709's weights, of sRGB as it is)
    clipped    = share of pixels of which a colour is burnt out (above 0.99) or all are drowned (below 0.01)

Distillation with strong guidance drives all three up (MVDream, section 3.2.2).  How much is much depends on what is
drawn, so that it is told as a place in a corpus: `Corpus.place` of renders of true things.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

BURNT, DROWNED = 0.99, 0.01
"""Colours beyond which a picture says no more."""


@dataclass(frozen=True, kw_only=True)
class Colors:
    """Of the object's pixels, each from 0 to 1."""

    saturation: float
    contrast: float
    clipped: float


def measure_colors(rgb: Float[Tensor, "v 3 h w"], *, coverage: Float[Tensor, "v 1 h w"]) -> Colors | None:
    """Return the colours of the object in all views together; None where there is nothing to see.

    Args:
        rgb: sRGB in [0, 1].
        coverage: of the object (`find_coverage`).
    """
    if not float(coverage.mean()) > 1e-4:
        return None
    weight = coverage / coverage.sum()
    most, least = rgb.amax(dim=1, keepdim=True), rgb.amin(dim=1, keepdim=True)
    saturation = ((most - least) / most.clamp_min(1e-3) * weight).sum()
    luma = (rgb * torch.tensor([0.2126, 0.7152, 0.0722]).to(rgb)[:, None, None]).sum(dim=1, keepdim=True)
    middle = (luma * weight).sum()
    contrast = ((luma - middle).square() * weight).sum().sqrt()
    clipped = (((most > BURNT) | (most < DROWNED)) * weight).sum()
    return Colors(saturation=float(saturation), contrast=float(contrast), clipped=float(clipped))


class Corpus:
    """Colours of many things, to be placed among."""

    def __init__(self, colors: Iterable[Colors]) -> None:
        """Take the colours of renders of true things; only their numbers are kept.

        Raises:
            InputError: there are none.
        """
        rows = [asdict(each) for each in colors]
        if not rows:
            raise InputError("`corpus` must hold at least one set of views that shows something.")
        self._sorted = {name: sorted(row[name] for row in rows) for name in rows[0]}

    def __len__(self) -> int:
        return len(self._sorted["saturation"])

    def place(self, colors: Colors) -> dict[str, float]:
        """Return the share of the corpus that has less of each, 0 to 1; equal ones count half.

        Above 0.95 is more than 95 of 100 true things have.
        """
        places = {}
        for name, value in asdict(colors).items():
            known = self._sorted[name]
            places[name] = (bisect_left(known, value) + bisect_right(known, value)) / 2 / len(known)
        return places
