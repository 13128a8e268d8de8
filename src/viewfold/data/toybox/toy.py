"""A toy under construction: solids in slots of colour, and the numbers that vary from seed to seed.

A kind (household.py, vehicles.py, ...) is a function that puts solids into a `Toy`; `Toy.mesh` paints and joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from viewfold.data.toybox.palette import DETAILS, FINISHES, Color, Finish
from viewfold.data.toybox.primitives import Number, Solid
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh

MAIN, ACCENT = "main", "accent"

Shelf = tuple[float, float, float, float]
"""x, y, z of the middle of a place where another toy may stand, and its width."""


class Toy:
    """Collects the solids of one asset; all its randomness comes from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.solids: list[tuple[str, Solid]] = []
        self.shelf: Shelf | None = None

    def draw(self, low: Number, high: Number) -> float:
        """Return a number between `low` and `high`."""
        return float(low + (high - low) * self.rng.random())

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def main(self, *solids: Solid) -> None:
        """Add solids in the main colour."""
        self.solids += [(MAIN, solid) for solid in solids]

    def accent(self, *solids: Solid) -> None:
        """Add solids in the accent's colour."""
        self.solids += [(ACCENT, solid) for solid in solids]

    def detail(self, name: str, *solids: Solid) -> None:
        """Add small solids in a fixed colour of `DETAILS`."""
        self.solids += [(name, solid) for solid in solids]

    def mesh(self, *, main: Color, accent: Color, finish: Finish) -> Mesh:
        """Join the solids where they are, with one material a colour; details are matt."""
        palette = {MAIN: main, ACCENT: accent, **DETAILS}
        slots = list(dict.fromkeys(slot for slot, _ in self.solids))
        offsets = np.cumsum([0, *(len(solid.vertices) for _, solid in self.solids)])
        faces = [solid.faces + offset for (_, solid), offset in zip(self.solids, offsets[:-1], strict=True)]
        owner = [np.full(len(solid.faces), slots.index(slot)) for slot, solid in self.solids]
        vertices = np.concatenate([solid.vertices for _, solid in self.solids])
        return Mesh(
            vertices=torch.from_numpy(vertices.astype(np.float32)),
            faces=torch.from_numpy(np.concatenate(faces).astype(np.int64)),
            face_material=torch.from_numpy(np.concatenate(owner).astype(np.int64)),
            materials=tuple(
                _paint(palette[slot], finish if slot in (MAIN, ACCENT) else FINISHES["matt"]) for slot in slots
            ),
        )


def _paint(color: Color, finish: Finish) -> Material:
    return Material(color=color, roughness=finish.roughness, metallic=finish.metallic)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of toy: how it is built, and what people call it and its accent."""

    name: str
    """The canonical noun, unique among kinds."""

    build: Callable[[Toy], None]
    """Puts the solids of one toy, front towards -y, z up, any size, any place, into a `Toy`."""

    nouns: tuple[str, ...]
    """What captions call it; the first is `name`."""

    body: str
    """The name of the part in the main colour."""

    part: str
    """The name of the part in the accent's colour, canonical."""

    part_nouns: tuple[str, ...]
    """What captions call the accent; the first is `part`."""

    plural: bool = False
    """Whether the accent is several things (legs, wings)."""

    worn: bool = False
    """Whether the accent is something that one wears (a hat, a jumper)."""
