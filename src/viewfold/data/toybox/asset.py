"""One toy: its identity, its captions and its mesh, all from (kind, colours, seed).

The held-out law (docs/data.md): combinations with sha1("kind|main,accent") divisible by 10 are never trained on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from viewfold.data.toybox.animals import ANIMALS
from viewfold.data.toybox.captions import write_captions
from viewfold.data.toybox.engines import ENGINES
from viewfold.data.toybox.household import HOUSEHOLD
from viewfold.data.toybox.landscape import LANDSCAPE
from viewfold.data.toybox.outdoors import OUTDOORS
from viewfold.data.toybox.palette import COLORS, FINISHES, Finish
from viewfold.data.toybox.picnic import PICNIC
from viewfold.data.toybox.toy import Kind, Shelf, Toy
from viewfold.data.toybox.vehicles import VEHICLES
from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh

LICENCE = "CC0-1.0"
AUTHOR = "viewfold toybox"

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (*HOUSEHOLD, *VEHICLES, *OUTDOORS, *ANIMALS, *ENGINES, *LANDSCAPE, *PICNIC)
}
"""Every kind of toy by its canonical noun."""

_SHAPE, _WORDING = 1, 2  # independent streams of random numbers from one seed; 0 is world.py's


def is_held_out(kind: str, main: str, accent: str) -> bool:
    """Return whether a combination is kept for measuring quality; about one in ten is."""
    return int(hashlib.sha1(f"{kind}|{main},{accent}".encode()).hexdigest(), 16) % 10 == 0


@dataclass(frozen=True)
class Asset:
    """A toy.  Two assets of equal fields have equal meshes and captions, on any machine."""

    kind: str
    """A key of `KINDS`."""

    colors: tuple[tuple[str, str], ...]
    """(part, colour name), the main part first, then the accent."""

    seed: int
    """Draws the proportions and the captions; 0 or more."""

    finish: str = "matt"
    """Of the main part and the accent, a key of `FINISHES`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"`kind` must be one of {', '.join(KINDS)}; got {self.kind!r}.")
        kind = KINDS[self.kind]
        if tuple(part for part, _ in self.colors) != (kind.body, kind.part):
            raise InputError(f"`colors` must name the parts {kind.body!r} and {kind.part!r}; got {self.colors!r}.")
        for _, color in self.colors:
            if color not in COLORS:
                raise InputError(f"`colors` must come from {', '.join(COLORS)}; got {color!r}.")
        if self.main == self.accent:
            raise InputError(f"`colors` must differ between the parts; got {self.main!r} twice.")
        if self.finish not in FINISHES:
            raise InputError(f"`finish` must be one of {', '.join(FINISHES)}; got {self.finish!r}.")
        if self.seed < 0:
            raise InputError(f"`seed` must be 0 or more; got {self.seed}.")

    @classmethod
    def of(cls, kind: str, main: str, accent: str, *, seed: int = 0, finish: str = "matt") -> Asset:
        """Make an asset by the names of its kind, two colours and finish."""
        if kind not in KINDS:
            raise InputError(f"`kind` must be one of {', '.join(KINDS)}; got {kind!r}.")
        return cls(kind, ((KINDS[kind].body, main), (KINDS[kind].part, accent)), seed, finish)

    @property
    def main(self) -> str:
        """The name of the main colour."""
        return self.colors[0][1]

    @property
    def accent(self) -> str:
        """The name of the accent's colour."""
        return self.colors[1][1]

    @property
    def look(self) -> Finish:
        """The finish behind its name."""
        return FINISHES[self.finish]

    @property
    def uid(self) -> str:
        """A name that is unique among assets and safe as a file name."""
        finish = "" if self.finish == "matt" else f"{self.finish}-"
        return f"{self.kind}-{self.main}-{self.accent}-{finish}{self.seed:08d}".replace(" ", "-")

    @property
    def identity(self) -> dict[str, object]:
        """What the toy is, for its card; the main part first."""
        return {"kind": self.kind, "colors": [list(pair) for pair in self.colors], "finish": self.finish}

    @property
    def held_out(self) -> bool:
        """Whether the combination of kind and colours is never trained on."""
        return is_held_out(self.kind, self.main, self.accent)

    @property
    def captions(self) -> list[str]:
        """Several wordings, the canonical one first."""
        rng = np.random.default_rng([self.seed, _WORDING])
        return write_captions(KINDS[self.kind], self.main, self.accent, self.look, rng)

    def mesh(self) -> Mesh:
        """Build the toy: z up, front towards -y, inside the sphere of radius 0.5 about the origin."""
        return self.build()[0].fit_sphere(0.4999)

    def build(self) -> tuple[Mesh, Shelf | None]:
        """Return the toy as its kind makes it, any size, any place, and the shelf that others may stand on."""
        toy = Toy(np.random.default_rng([self.seed, _SHAPE]))
        KINDS[self.kind].build(toy)
        mesh = toy.mesh(main=COLORS[self.main], accent=COLORS[self.accent], finish=self.look)
        return mesh, toy.shelf
