"""What is remarkable about a set of photographs of one subject: too few, blurred, repeated, or of different things.

Sentences for their owner; nothing is left out because of them.  Measured on framed pictures of one size, over grey.
The thresholds are for toys from four sides, of which none may be called anything (docs/personalize.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from viewfold.ground import border_pixels, distance_to, ground_color
from viewfold.views import GROUND

FEW, ENOUGH, MANY = 3, 8, 20
"""Pictures: fewer are said to be few, so many are enough, more are said to be many."""

BLURRED = 0.25
"""Of the median variance of the Laplacian; four sides of a toy have 0.48 at least, blur of 1 px leaves under 0.2."""

SAME = 0.015
"""Root mean square difference at `SAME_SIZE`, sRGB; a copy saved anew has less, a turn of 20 degrees more."""

SAME_SIZE = 32

PLAIN = 0.1
"""A border that is further from its own median by half is no plain ground, and its subject not known."""

GROUND_DISTANCE = 0.09
"""Colours at least so far from a plain ground (Euclidean, sRGB) are the subject's."""

LIGHTNESS = 0.4
"""How much lightness counts beside CIELAB's a and b: light falls differently on each side."""

FAR = 18.0
"""Distance in that space from which on a colour is another one."""

STRANGE = 0.5
"""Share of a subject in colours that half of the other pictures do not have; four sides of a toy: 0.13 at most."""


def remarks(rgba: Float[Tensor, "n 4 size size"], names: Sequence[str]) -> list[str]:
    """Return what an owner should know of the set, a sentence each, with the names of the pictures."""
    rgb = rgba[:, :3] * rgba[:, 3:] + GROUND * (1 - rgba[:, 3:])
    found = []
    if len(rgba) < FEW:
        count = "one picture" if len(rgba) == 1 else f"{len(rgba)} pictures"
        found.append(f"only {count}: {FEW} to {ENOUGH} from different sides show more of the subject")
    if len(rgba) > MANY:
        found.append(f"{len(rgba)} pictures, all of which are used: {FEW} to {ENOUGH} from different sides are enough")
    if blurred := [names[i] for i in blurred_ones(rgb)]:
        found.append(f"blurred beside the others: {', '.join(blurred)}")
    found += [f"the same picture, or nearly: {names[i]} and {names[j]}" for i, j in repeated_pairs(rgb)]
    if strange := [names[i] for i in strange_ones(rgba)]:
        found.append(f"as if of another thing, by its colours: {', '.join(strange)}")
    return found


def blurred_ones(rgb: Float[Tensor, "n 3 size size"]) -> list[int]:
    """Return which pictures have far less detail than the median: by the variance of their Laplacian."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    detail = conv2d(rgb.flatten(0, 1)[:, None], kernel).unflatten(0, (-1, 3)).var(dim=(1, 2, 3, 4))
    return (detail < BLURRED * detail.quantile(0.5)).nonzero()[:, 0].tolist()


def repeated_pairs(rgb: Float[Tensor, "n 3 size size"]) -> list[tuple[int, int]]:
    """Return pictures that look like an earlier one, each once: (earlier, later)."""
    small = interpolate(rgb, (SAME_SIZE, SAME_SIZE), mode="area").flatten(1)
    close = (torch.cdist(small, small) / small.shape[1] ** 0.5 < SAME).tril(-1)
    return [(int(row.nonzero()[0]), later) for later, row in enumerate(close) if row.any()]


def strange_ones(rgba: Float[Tensor, "n 4 size size"]) -> list[int]:
    """Return which pictures show mostly colours that half of the others do not have, wherever they show them.

    Pictures whose subject is not known (opaque, on no plain ground) are left aside; fewer than three cannot tell.
    """
    subjects = {i: mask for i, picture in enumerate(rgba) if (mask := _subject(picture)) is not None}
    palettes = {i: _palette(rgba[i], mask) for i, mask in subjects.items()}
    if len(palettes) < FEW:
        return []
    found = []
    for i, (colors, shares) in palettes.items():
        missing = [
            float(shares[np.linalg.norm(colors[:, None] - others[None], axis=-1).min(axis=1) > FAR].sum())
            for j, (others, _) in palettes.items()
            if j != i
        ]
        if sorted(missing)[(len(missing) - 1) // 2] > STRANGE:
            found.append(i)
    return found


def _subject(rgba: Float[Tensor, "4 size size"]) -> Bool[Tensor, "size size"] | None:
    """Return which pixels are the subject's: by coverage, or by their distance from a plain ground."""
    mask = rgba[3] > 0.9
    if mask.all():
        rgb, width = rgba[None, :3], max(1, rgba.shape[-1] // 32)
        distance = distance_to(ground_color(rgb, width=width), rgb)
        if float(border_pixels(distance, width=width).median()) > PLAIN:
            return None
        mask = distance[0, 0] > GROUND_DISTANCE
    return mask if mask.float().mean() > 0.02 else None


def _palette(
    rgba: Float[Tensor, "4 size size"], mask: Bool[Tensor, "size size"]
) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, " k"]]:
    """Return a subject's colours on a grid in CIELAB, lightness scaled by `LIGHTNESS`, and the share of each."""
    from skimage.color import rgb2lab

    lab = rgb2lab(rgba[:3, mask].T.numpy()[None])[0] * (LIGHTNESS, 1, 1)
    cells, counts = np.unique((lab / (FAR / 3)).round(), axis=0, return_counts=True)
    often = counts >= 0.003 * counts.sum()
    return cells[often] * (FAR / 3), counts[often] / counts[often].sum()
