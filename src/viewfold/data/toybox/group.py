"""Two or three toys in relation: a mug on a table, a bear wearing a hat, a ball beside a chair.

Only sizes and places are decided here.  What stands on something needs the shelf that the builder of its support
leaves in `Toy.shelf`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from viewfold.data.toybox.asset import KINDS, Asset, is_held_out
from viewfold.data.toybox.captions import write_group_captions
from viewfold.data.toybox.world import World, sample_asset, sample_finish
from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh

SUPPORTS = ("table", "chair", "sofa")
HEADS = ("cat", "dog", "bear", "owl", "duck")
HEADWEAR = ("hat",)
LOADS = (
    "mug", "teapot", "lamp", "hat", "car", "boat", "rocket", "snowman", "robot", "duck", "mushroom", "cat", "dog",
    "rabbit", "bear", "owl", "turtle", "cactus", "cake", "ball",
)  # fmt: skip

RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "on": (LOADS, SUPPORTS),
    "worn by": (HEADWEAR, HEADS),
    "beside": (tuple(KINDS), tuple(KINDS)),
    "in front of": (tuple(KINDS), tuple(KINDS)),
}
"""Relation to the kinds that may come before and after it; drawn equally often."""

_GROUPED, _GROUP, _PLACE, _WORDING = 4, 5, 6, 7  # streams of random numbers, after those of world.py and asset.py


@dataclass(frozen=True)
class Group:
    """Toys in relation.  Two groups of equal fields have equal meshes and captions, on any machine."""

    things: tuple[Asset, ...]
    """Two or three, all of the group's seed: the first stands in the first relation to the second, and both together
    in the second relation to the third."""

    relations: tuple[str, ...]
    """Keys of `RELATIONS`, one fewer than things; the second is "beside" or "in front of"."""

    seed: int
    """Draws sizes, places and captions."""

    def __post_init__(self) -> None:
        if len(self.things) not in (2, 3) or len(self.relations) != len(self.things) - 1:
            raise InputError(
                f"`things` must be two or three, with one relation fewer; got {len(self.things)} and {self.relations}."
            )
        for relation, allowed in zip(self.relations, (tuple(RELATIONS), _GROUND), strict=False):
            if relation not in allowed:
                raise InputError(f"`relations` must come from {', '.join(allowed)} here; got {self.relations}.")
        before, after = RELATIONS[self.relations[0]]
        if self.things[0].kind not in before or self.things[1].kind not in after:
            kinds = " and ".join(thing.kind for thing in self.things[:2])
            raise InputError(f"`things` must be able to be {self.relations[0]!r} one another; got {kinds}.")

    @property
    def uid(self) -> str:
        """A name that is unique among assets and groups and safe as a file name."""
        words = [thing.uid[: -len(f"-{self.seed:08d}")] for thing in self.things]
        for place, relation in enumerate(self.relations):
            words.insert(2 * place + 1, relation.replace(" ", "-"))
        return f"{'_'.join(words)}-{self.seed:08d}"

    @property
    def identity(self) -> dict[str, object]:
        """What the group is made of, for its card."""
        return {"things": [thing.identity for thing in self.things], "relations": list(self.relations)}

    @property
    def held_out(self) -> bool:
        """Whether the combination of kind and colours of any of the things is never trained on."""
        return any(thing.held_out for thing in self.things)

    @property
    def captions(self) -> list[str]:
        """Several wordings, the canonical one first."""
        return write_group_captions(
            [(KINDS[t.kind], t.main, t.accent, t.look) for t in self.things],
            self.relations,
            np.random.default_rng([self.seed, _WORDING]),
        )

    def mesh(self) -> Mesh:
        """Build the toys and put them together: z up, fronts towards -y, inside the sphere of radius 0.5."""
        rng = np.random.default_rng([self.seed, _PLACE])
        first, second, *third = (thing.build() for thing in self.things)
        (mesh, _), (support, shelf) = first, second
        if self.relations[0] in _GROUND:
            together = _place(mesh, support, self.relations[0], rng)
        else:
            assert shelf is not None, f"{self.things[1].kind} has no shelf"
            x, y, z, width = shelf
            low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
            scale = float(width * rng.uniform(0.85, 1.0) / (high - low)[:2].max())
            foot = torch.tensor([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
            together = Mesh.cat([support, _moved(mesh, scale, torch.tensor([x, y, z]) - scale * foot)])
        if third:
            together = _place(together, third[0][0], self.relations[1], rng, share=1.3)
        return together.fit_sphere(0.4999)


_GROUND = ("beside", "in front of")
"""Relations of things that stand on the ground."""


def _moved(mesh: Mesh, scale: float, offset: torch.Tensor) -> Mesh:
    return replace(mesh, vertices=mesh.vertices * scale + offset)


def _standing(mesh: Mesh, size: float) -> Mesh:
    """Return the mesh about the z axis, on the ground, in a sphere of this radius."""
    mesh = mesh.fit_sphere(size)
    return _moved(mesh, 1.0, torch.tensor([0.0, 0.0, -float(mesh.vertices[:, 2].min())]))


def _place(mesh: Mesh, other: Mesh, relation: str, rng: np.random.Generator, *, share: float = 1.0) -> Mesh:
    """Join two things that stand on the ground; what is in front is smaller, so that both are seen from there.

    Args:
        share: how much larger the first one is than a single thing would be.
    """
    ahead = relation == "in front of"
    one = _standing(mesh, share * (rng.uniform(0.5, 0.62) if ahead else rng.uniform(0.75, 1.0)))
    two = _standing(other, 1.0)
    axis = 1 if ahead else 0
    gap = float(one.vertices[:, axis].amax() - two.vertices[:, axis].amin() + rng.uniform(0.05, 0.2))
    offset = torch.zeros(3)
    if ahead:
        offset[1], offset[0] = -gap, float(rng.uniform(-0.3, 0.3))
    else:  # a bounding box is symmetric about its middle, so the gap is the same on either side
        offset[0] = gap if rng.random() < 0.5 else -gap
    return Mesh.cat([_moved(one, 1.0, offset), two])


def sample_toy(seed: int, *, held_out: bool = False, world: World = World()) -> Asset | Group:  # noqa: B008
    """Draw one toy or, as often as `world.groups` says, a group of them.

    Raises:
        InputError: a negative seed; a world in which no combination is held out.
    """
    if seed >= 0 and np.random.default_rng([seed, _GROUPED]).random() < world.groups:
        return sample_group(seed, held_out=held_out, world=world)
    return sample_asset(seed, held_out=held_out, world=world)


def sample_group(seed: int, *, held_out: bool = False, world: World = World()) -> Group:  # noqa: B008
    """Draw two toys in relation, or, one time in five, three; their main colours differ.

    Raises:
        InputError: a negative seed; a world of too few kinds or colours.
    """
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more; got {seed}.")
    rng = np.random.default_rng([seed, _GROUP])
    sides = {name: [[k for k in world.kinds if k in side] for side in pair] for name, pair in RELATIONS.items()}
    possible = [name for name, (before, after) in sides.items() if before and after]
    relations = [possible[rng.integers(len(possible))]]
    if rng.random() < 0.2 and len(world.kinds) > 2:
        relations.append(_GROUND[rng.integers(len(_GROUND))])
    things: list[Asset] = []
    for kinds in (*sides[relations[0]], *([list(world.kinds)] * (len(relations) - 1))):
        things.append(_sample_thing(seed, kinds, things, held_out and not things, rng, world))
    return Group(tuple(things), tuple(relations), seed)


def _sample_thing(
    seed: int, kinds: list[str], others: list[Asset], held_out: bool, rng: np.random.Generator, world: World
) -> Asset:
    """Draw a toy of another kind and another main colour than the others."""
    free = [kind for kind in kinds if kind not in [other.kind for other in others]]
    if not free or len(world.colors) <= len(others) + 1:
        raise InputError(f"`world` must hold more kinds and colours for a group; got {len(kinds)} kinds here.")
    kind = free[rng.integers(len(free))]
    pairs = [
        (main, accent)
        for main in world.colors
        for accent in world.colors
        if main != accent
        and main not in [other.main for other in others]
        and is_held_out(kind, main, accent) == held_out
    ]
    if not pairs:
        raise InputError(f"`world` must hold more colours; none are left for the {kind}.")
    main, accent = pairs[rng.integers(len(pairs))]
    return Asset.of(kind, main, accent, seed=seed, finish=sample_finish(rng, world))
