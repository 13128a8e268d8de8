"""Draw from several seeds and keep the best, by whatever says which that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from viewfold.errors import InputError
from viewfold.views import Views

Scorer = Callable[[Views], float]
"""Says how good some views are; more is better."""

MAX_TRIES = 64


def check_tries(tries: int) -> None:
    """Refuse a number of drawings.

    Raises:
        InputError: it does not lie between 1 and `MAX_TRIES`.
    """
    if not 1 <= tries <= MAX_TRIES:
        raise InputError(f"`tries` must lie between 1 and {MAX_TRIES}; got {tries}.")


def best_of(draw: Callable[[int], Views], seeds: Sequence[int], scorer: Scorer) -> Views:
    """Return the views of the seed that scores best, of equals the first; `run["tries"]` tells of all.

    One drawing is kept at a time beside the best.

    Raises:
        InputError: no seed or more than `MAX_TRIES`, or a score that is no number.
    """
    check_tries(len(seeds))
    best, scores = None, []
    for seed in seeds:
        views = draw(seed)
        scores.append(float(scorer(views)))
        if not scores[-1] == scores[-1]:
            raise InputError(f"`scorer` must return numbers; got {scores}.")
        if best is None or scores[-1] > max(scores[:-1]):
            best, chosen = views, seed
    assert best is not None
    return replace(best, run=best.run | {"tries": {"seeds": list(seeds), "scores": scores, "chosen": chosen}})
