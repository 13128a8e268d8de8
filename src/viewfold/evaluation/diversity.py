"""Do samples differ from each other as true assets do, and from those that were trained on?  By outlines, no network.

Two objects are compared as they stand, from the same cameras: the shapes of a kind vary in proportions, not in pose.
Colour is left out: a prompt fixes it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

CHANCE = 0.05
"""Share of true assets that count as near-copies: the nearest of them set the bar for samples."""


def shape_distance(
    first: Float[Tensor, "n v h w"], second: Float[Tensor, "m u i j"], *, chunk: int = 16
) -> Float[Tensor, "n m"]:
    """Return 1 - IoU of the outlines of each pair of objects, over all views together, 0 (equal) to 1 (disjoint).

    IoU = sum min(a, b) / (sum a + sum b - sum min(a, b)), of fractional coverage.

    Args:
        first, second: coverage in [0, 1] from the same cameras.
        chunk: objects of `first` compared at a time; bounds memory.

    Raises:
        InputError: pictures or views that do not match.
    """
    if first.shape[1:] != second.shape[1:]:
        raise InputError(
            f"`second` must show the same views at the same size as `first`, {tuple(first.shape[1:])}; "
            f"got {tuple(second.shape[1:])}."
        )
    others = second.flatten(1)[None]
    rows = []
    for some in first.flatten(1).split(chunk):
        common = torch.minimum(some[:, None], others).sum(-1)
        either = some.sum(-1)[:, None] + others.sum(-1) - common
        rows.append(1 - common / either.clamp(min=1e-6))
    return torch.cat(rows)


def measure_spread(coverage: Float[Tensor, "n v h w"]) -> float:
    """Return the mean distance between two different objects of a set.

    Raises:
        InputError: fewer than two objects.
    """
    n = len(coverage)
    if n < 2:
        raise InputError(f"`coverage` must hold at least 2 objects; got {n}.")
    distance = shape_distance(coverage, coverage)
    return float((distance.sum() - distance.diagonal().sum()) / (n * (n - 1)))


def find_near_copies(
    samples: Float[Tensor, "n v h w"],
    unseen: Float[Tensor, "m v h w"],
    trained: Float[Tensor, "k v h w"],
    *,
    chance: float = CHANCE,
) -> list[bool]:
    """Return which samples lie closer to a trained-on asset than all but the share `chance` of unseen true assets do.

    A generator that has learned the kind gives True for about that share; one that repeats its data, for nearly all.

    Args:
        samples, unseen, trained: coverage of objects of one kind from the same cameras.

    Raises:
        InputError: an empty set, or a `chance` outside (0, 1).
    """
    if not 0 < chance < 1 or min(len(samples), len(unseen), len(trained)) == 0:
        sizes = len(samples), len(unseen), len(trained)
        raise InputError(f"`chance` must lie in (0, 1) and no set be empty; got {chance} and sets of {sizes}.")
    bar = torch.quantile(shape_distance(unseen, trained).amin(1), chance)
    return (shape_distance(samples, trained).amin(1) < bar).tolist()
