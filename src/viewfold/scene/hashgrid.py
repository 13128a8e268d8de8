"""The multi-resolution hash encoding: features of a point from grids of many resolutions, the fine ones hashed.

Mueller, Evans, Schied and Keller, "Instant neural graphics primitives with a multiresolution hash encoding", 2022.
In PyTorch alone (scene/trilinear.py), on any device.  What is made of the features is scene/hashfield.py's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.errors import InputError
from viewfold.scene.trilinear import Lattice, interpolate, interpolate_with_slope

FIRST_FEATURES = 1e-4
"""Features begin uniformly between plus and minus this (Instant NGP, section 4)."""

MAX_LEVELS, MAX_FEATURES, MAX_LOG2_ROWS, MAX_RESOLUTION = 32, 8, 24, 2**20


@dataclass(frozen=True, kw_only=True)
class HashSettings:
    """The resolutions of an encoding and the size of its tables; the defaults are MVDream's, as released."""

    levels: int = 16
    """L: how many grids."""

    features: int = 2
    """F: features at each node."""

    log2_rows: int = 19
    """log2 T: a grid has at most so many rows; one with more nodes hashes them."""

    base: int = 16
    """N_min: cells along each axis of the coarsest grid."""

    growth: float = 1.4473
    """b: from one grid's cells to the next one's; 16 of them reach 4097."""

    def __post_init__(self) -> None:
        ranges = (
            ("levels", 1, MAX_LEVELS),
            ("features", 1, MAX_FEATURES),
            ("log2_rows", 3, MAX_LOG2_ROWS),
            ("base", 1, 1024),
            ("growth", 1.0, 4.0),
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")
        if self.resolution(self.levels - 1) > MAX_RESOLUTION:
            raise InputError(
                f"`levels` must end at {MAX_RESOLUTION} cells or fewer; got {self.resolution(self.levels - 1)}. "
                "Lower `levels` or `growth`."
            )

    def resolution(self, level: int) -> int:
        """Return N_l = floor(N_min b^l), the cells along each axis of a level (equation 2)."""
        return math.floor(self.base * self.growth**level)

    def lattices(self) -> tuple[Lattice, ...]:
        """Return where each level lies in the table: (N_l + 1)^3 rows one to one, or T hashed ones, if that is less."""
        found: list[Lattice] = []
        for level in range(self.levels):
            nodes = (self.resolution(level) + 1) ** 3
            first = found[-1].first + found[-1].rows if found else 0
            found.append(Lattice(resolution=self.resolution(level), first=first, rows=min(nodes, 2**self.log2_rows)))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class LevelGrowth:
    """Levels that join one after the other, coarse to fine, while an optimisation runs.

    As threestudio's ProgressiveBandHashGrid does, and Neuralangelo (Li et al. 2023, section 3.2): coarse levels shape
    the object before fine ones can make noise of it.
    """

    start: int = 8
    """Levels at first."""

    first_step: int = 2000
    """Until this step there are no more."""

    every: int = 500
    """Steps from one level to the next."""

    def __post_init__(self) -> None:
        if self.start < 1 or self.first_step < 0 or self.every < 1:
            raise InputError(
                "`start` and `every` must be at least 1, and `first_step` at least 0; got "
                f"{self.start}, {self.every} and {self.first_step}."
            )

    def at(self, step: int) -> int:
        """Return start + max(step - first_step, 0) // every, the number of levels after so many steps."""
        return self.start + max(step - self.first_step, 0) // self.every


class HashEncoding(nn.Module):
    """A table of features, and how to look them up.

    It holds the coarsest levels, as many as `resize` said; of these only the first `active` are looked up.  Features of
    the others are zero, which is what a mask makes of them, and are left out, without the cost.
    """

    def __init__(self, settings: HashSettings | None = None) -> None:
        """Make one of all levels, with features nearly zero, the same ones each time."""
        super().__init__()
        self.settings = settings or HashSettings()
        self.lattices = self.settings.lattices()
        self.active = self.settings.levels
        self.table = nn.Parameter(self._first_features(0, self.settings.levels))

    @property
    def held(self) -> int:
        """The number of levels in the table."""
        return sum(lattice.first < self.table.shape[1] for lattice in self.lattices)

    def resize(self, levels: int) -> None:
        """Drop fine levels from the table, or add them anew; all are active.  `table` becomes a new parameter."""
        if not 1 <= levels <= self.settings.levels:
            raise InputError(f"`levels` must lie between 1 and {self.settings.levels}; got {levels}.")
        last = self.lattices[levels - 1]
        kept = self.table.detach()[:, : last.first + last.rows]
        fresh = self._first_features(self.held, levels).to(kept)
        self.table, self.active = nn.Parameter(torch.cat([kept, fresh], dim=1).contiguous()), levels

    def forward(self, at: Float[Tensor, "p 3"]) -> Float[Tensor, "p d"]:
        """Return the F features of each active level at places of the unit cube; differentiable in both."""
        return interpolate(at, self.table, self.lattices[: self.active])

    def with_slope(self, at: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p 3 d"]]:
        """Return the features and their derivatives along x, y and z; differentiable in the table."""
        return interpolate_with_slope(at, self.table, self.lattices[: self.active])

    def _first_features(self, begin: int, end: int) -> Float[Tensor, "f rows"]:
        """Return the features that levels `begin` to `end` start with."""
        made = [torch.zeros(self.settings.features, 0)]
        for level in range(begin, end):
            shape = (self.settings.features, self.lattices[level].rows)
            drawn = torch.rand(shape, generator=torch.Generator().manual_seed(level))
            made.append((2 * drawn - 1) * FIRST_FEATURES)
        return torch.cat(made, dim=1)
