"""Which toys there are to draw from: a judge, a benchmark or a model of an earlier day speaks of a smaller world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from viewfold.data.toybox.asset import KINDS, Asset, is_held_out
from viewfold.data.toybox.palette import COLORS
from viewfold.errors import InputError

_COMBINATION = 0  # a stream of random numbers of its own: Asset draws others from the same seed


@dataclass(frozen=True, kw_only=True)
class World:
    """What toys are drawn from, by default everything there is.  The order of the names decides what a seed gives."""

    kinds: tuple[str, ...] = tuple(KINDS)
    colors: tuple[str, ...] = tuple(COLORS)

    def __post_init__(self) -> None:
        for field, names, known in (("kinds", self.kinds, KINDS), ("colors", self.colors, COLORS)):
            strange = [name for name in names if name not in known]
            if strange or not names or len(set(names)) < len(names):
                raise InputError(f"`{field}` must be different names from {', '.join(known)}; got {strange or names}.")
        if len(self.colors) < 2:
            raise InputError(f"`colors` must be two or more, one for each part; got {self.colors}.")


def sample_asset(seed: int, *, held_out: bool = False, world: World = World()) -> Asset:  # noqa: B008
    """Draw an asset from a seed, among the combinations to train on, or among the held-out ones.

    Raises:
        InputError: a negative seed; a world in which no combination is held out.
    """
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more; got {seed}.")
    rng = np.random.default_rng([seed, _COMBINATION])
    kind = world.kinds[rng.integers(len(world.kinds))]
    for _ in range(_TRIES):
        main, accent = (world.colors[i] for i in rng.choice(len(world.colors), 2, replace=False))
        if is_held_out(kind, main, accent) == held_out:
            return Asset.of(kind, main, accent, seed=seed)
    raise InputError(f"`world` must hold a combination of {kind} that is held out; {world.colors} are too few colours.")


_TRIES = 10_000
"""One in ten combinations is held out: among a dozen colours this many draws are never needed."""
