"""Toys in relation: where they stand, what is held out, what is said of them."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from viewfold.data.toybox import COLORS, KINDS, RESERVED, SYNONYMS, Asset, Group, World, sample_group, sample_toy
from viewfold.data.toybox.captions import MAX_WORDS, N_CAPTIONS, RELATION_WORDINGS
from viewfold.data.toybox.group import HEADS, LOADS, RELATIONS, SUPPORTS
from viewfold.errors import InputError

MUG = Asset.of("mug", "red", "white", seed=3)
TABLE = Asset.of("table", "blue", "black", seed=3)


def _reach(group: Group, *colors: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The bounds of what is painted in these colours."""
    mesh = group.mesh()
    index = [i for i, m in enumerate(mesh.materials) if m.color in [COLORS[color] for color in colors]]
    faces = mesh.faces[torch.isin(mesh.material_index(), torch.tensor(index))]
    points = mesh.vertices[faces.flatten()]
    return points.amin(0), points.amax(0)


@pytest.mark.slow
def test_a_seed_decides_everything():
    first, second = sample_group(4), sample_group(4)
    assert first == second and first.captions == second.captions and first.uid == second.uid
    assert torch.equal(first.mesh().vertices, second.mesh().vertices)
    groups = [sample_group(seed) for seed in range(200)]
    assert len({group.uid for group in groups}) == 200
    assert all(re.fullmatch(r"[a-z0-9_-]+", group.uid) for group in groups)
    assert {group.relations[0] for group in groups} == set(RELATIONS) == set(RELATION_WORDINGS)
    assert 0.1 < np.mean([len(group.things) == 3 for group in groups]) < 0.3


def test_a_tenth_of_the_toys_are_groups_and_a_world_may_have_none():
    drawn = [sample_toy(seed) for seed in range(600)]
    assert 0.06 < np.mean([isinstance(toy, Group) for toy in drawn]) < 0.14
    assert not any(isinstance(sample_toy(seed, world=World(groups=0.0)), Group) for seed in range(100))
    small = World(kinds=("mug", "table"), groups=1.0)
    kinds = {thing.kind for seed in range(20) for thing in sample_group(seed, world=small).things[:2]}
    assert kinds == {"mug", "table"}


@pytest.mark.slow
def test_a_group_is_held_out_if_any_of_its_things_is():
    assert not any(thing.held_out for seed in range(60) for thing in sample_group(seed).things)
    held = [sample_toy(seed, held_out=True, world=World(groups=1.0)) for seed in range(60)]
    assert all(isinstance(group, Group) and group.held_out for group in held)


def test_things_of_a_group_differ_in_kind_and_main_colour():
    for seed in range(60):
        things = sample_group(seed).things
        assert len({thing.kind for thing in things}) == len({thing.main for thing in things}) == len(things)


@pytest.mark.parametrize("load", LOADS)
def test_what_is_on_something_touches_it_and_is_above_it(load: str):
    for support in SUPPORTS:
        things = (Asset.of(load, "red", "white", seed=3), Asset.of(support, "blue", "black", seed=3))
        group = Group(things, ("on",), 3)
        low, high = _reach(group, "red", "white")
        bottom, top = _reach(group, "blue", "black")
        assert float(low[2]) > float(bottom[2]) + 0.1
        assert (low[:2] > bottom[:2]).all() and (high[:2] < top[:2]).all() or support != "table"
        if support == "table":
            assert 0 <= float(low[2] - top[2]) < 0.1  # wheels and feet, in colours of their own, may be between


@pytest.mark.parametrize("kind", HEADS)
def test_a_hat_is_worn_on_the_upper_half(kind: str):
    wearer = Asset.of(kind, "blue", "black", seed=2)
    group = Group((Asset.of("hat", "red", "white", seed=2), wearer), ("worn by",), 2)
    (low, high), (bottom, top) = _reach(group, "red"), _reach(group, "blue")
    assert low[2] > (bottom[2] + top[2]) / 2 and high[2] > top[2] and low[2] < top[2]
    assert group.captions[0] == f"a blue {kind} wearing a red hat"


def test_beside_and_in_front_of_stand_on_one_ground_without_touching():
    for seed in range(8):
        things = (replace(MUG, seed=seed), replace(TABLE, seed=seed))
        (low, high), (other_low, other_high) = (
            _reach(Group(things, ("in front of",), seed), color) for color in ("red", "black")
        )
        assert high[1] < other_low[1] and abs(float(low[2] - other_low[2])) < 1e-4  # black are the table's legs
        (low, high), (other_low, other_high) = (
            _reach(Group(things, ("beside",), seed), color) for color in ("red", "blue")
        )
        assert high[0] < other_low[0] or low[0] > other_high[0]


def test_captions_name_every_thing_and_its_colour_and_hold_no_reserved_word():
    assert Group((MUG, TABLE), ("on",), 3).captions[0] == "a red mug on a blue table"
    chair = Asset.of("chair", "green", "pink", seed=3)
    three = Group((MUG, TABLE, chair), ("on", "beside"), 3)
    assert three.captions[0] == "a red mug on a blue table beside a green chair"
    for seed in range(40):
        group = sample_group(seed)
        assert len(set(group.captions)) == N_CAPTIONS
        for caption in group.captions:
            assert len(caption.split()) <= MAX_WORDS
            assert not set(re.findall(r"[a-z]+", caption)) & set(RESERVED)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]", caption), caption
            for thing in group.things:
                assert any(noun in caption for noun in KINDS[thing.kind].nouns)
                assert any(color in caption for color in SYNONYMS[thing.main])


@pytest.mark.parametrize(
    ("things", "relations", "named"),
    [
        ((MUG,), (), "things"),
        ((MUG, TABLE), ("under",), "relations"),
        ((TABLE, MUG), ("on",), "things"),
        ((MUG, TABLE, MUG), ("on", "on"), "relations"),
        ((MUG, TABLE), ("on", "beside"), "things"),
    ],
)
def test_a_group_that_cannot_be_is_refused(things, relations, named):
    with pytest.raises(InputError, match=f"`{named}`"):
        Group(things, relations, 3)


def test_a_world_too_small_for_a_group_and_a_negative_seed_are_refused():
    with pytest.raises(InputError, match="`world`"):
        sample_group(0, world=World(kinds=("mug",)))
    with pytest.raises(InputError, match="`seed`"):
        sample_group(-1)
    with pytest.raises(InputError, match="`groups`"):
        World(groups=1.5)
