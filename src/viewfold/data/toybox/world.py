"""Which toys there are to draw from: a judge, a benchmark or a model of an earlier day speaks of a smaller world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from viewfold.data.toybox.asset import KINDS, Asset, is_held_out
from viewfold.data.toybox.palette import COLORS, FINISHES
from viewfold.errors import InputError

_COMBINATION, _FINISH = 0, 3  # streams of random numbers of their own: Asset draws others from the same seed


@dataclass(frozen=True, kw_only=True)
class World:
    """What toys are drawn from, by default everything there is.  The order of the names decides what a seed gives."""

    kinds: tuple[str, ...] = tuple(KINDS)
    colors: tuple[str, ...] = tuple(COLORS)
    finishes: tuple[str, ...] = tuple(FINISHES)
    """Half of the toys have the first of these, the others any."""

    groups: float = 0.1
    """How often `sample_toy` draws several toys in relation instead of one."""

    def __post_init__(self) -> None:
        fields = (
            ("kinds", self.kinds, KINDS),
            ("colors", self.colors, COLORS),
            ("finishes", self.finishes, FINISHES),
        )
        for field, names, known in fields:
            strange = [name for name in names if name not in known]
            if strange or not names or len(set(names)) < len(names):
                raise InputError(f"`{field}` must be different names from {', '.join(known)}; got {strange or names}.")
        if not 0 <= self.groups <= 1:
            raise InputError(f"`groups` must lie between 0 and 1; got {self.groups}.")
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
            finish = sample_finish(np.random.default_rng([seed, _FINISH]), world)
            return Asset.of(kind, main, accent, seed=seed, finish=finish)
    raise InputError(f"`world` must hold a combination of {kind} that is held out; {world.colors} are too few colours.")


_TRIES = 10_000
"""One in ten combinations is held out: among a dozen colours this many draws are never needed."""


def sample_finish(rng: np.random.Generator, world: World) -> str:
    """Draw the name of a finish."""
    return world.finishes[0 if rng.random() < 0.5 else rng.integers(len(world.finishes))]
