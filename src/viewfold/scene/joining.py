"""Join pieces of a solid that a thin part holds together, and that a threshold has cut apart: a robot's neck, a pole.

A part that is thinner than a voxel or two has less of the field's opacity than a thick one, so that one threshold for
all of the object loses it first at its thinnest place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

WIDEST_GAP = 5.0
"""In voxels: pieces that lie farther apart are left apart."""

FAINTEST = 0.1
"""Of the level: what the field must show in a gap for it to be bridged."""

LEAST_SHARE = 0.002
"""Of the solid's voxels: smaller pieces are crumbs, and not joined."""

ABOVE = 1.1
"""Of the level: what a bridge is raised to."""

MOST = 6
"""Pieces that are looked at, the largest; fog that falls into hundreds is left alone."""

STEPS = 7
"""Halvings of the range in which the opacity of the saddle between two pieces is searched."""


def join_pieces(values: Float[Tensor, "z y x"], level: float) -> Float[Tensor, "z y x"]:
    """Return the values with a bridge between pieces above a level, where the field is faintly there between them.

    A bridge lies where a lower level would join the two, the highest that does, and on the shortest ways between them;
    nothing else changes.  Pieces that nothing faint joins stay apart, and so does what is separate indeed.

    Args:
        values: opacity, or anything that falls off away from the solid.
        level: of the surface, above 0.
    """
    from scipy.ndimage import distance_transform_edt

    array = values.cpu().numpy()
    solid = array > level
    pieces, count = _labelled(solid)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = [number + 1 for number in np.argsort(-sizes)[:MOST] if sizes[number] >= LEAST_SHARE * sizes.sum()]
    if len(large) < 2:
        return values
    joined = array.copy()
    for at, first in enumerate(large[:-1]):
        from_first: Any = distance_transform_edt(pieces != first)
        for second in large[at + 1 :]:
            ways = from_first + distance_transform_edt(pieces != second)
            if ways[~solid].min() > WIDEST_GAP + 1:
                continue
            saddle = _saddle(array, pieces == first, pieces == second, level)
            if saddle is not None:
                gap = ~solid & (array > saddle)
                joined[gap & (ways <= ways[gap].min() + 1)] = ABOVE * level
    return torch.from_numpy(joined).to(values)


def _saddle(
    array: Float[np.ndarray, "z y x"],
    first: Bool[np.ndarray, "z y x"],
    second: Bool[np.ndarray, "z y x"],
    level: float,
) -> float | None:
    """Return about the highest value above which two pieces are one; None where it is too faint."""

    def joins(value: float) -> bool:
        pieces, _ = _labelled(array > value)
        return bool(pieces[first][0] == pieces[second][0])

    low, high = FAINTEST * level, level
    if not joins(low):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if joins(middle) else (low, middle)
    return low


def _labelled(mask: Bool[np.ndarray, "z y x"]) -> tuple[np.ndarray, int]:
    """Return the number of the piece of each node, 0 outside, and how many there are; corners do not join."""
    from scipy.ndimage import label

    pieces: Any = label(mask)
    return pieces
