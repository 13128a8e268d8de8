"""Toys: what a seed decides, what is kept from training, closed surfaces, and what captions may say."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from skimage.color import rgb2lab

from viewfold.camera import Cameras
from viewfold.data.toybox import (
    COLORS,
    FINISHES,
    KINDS,
    RESERVED,
    SYNONYMS,
    UNSEEN_WORDING_PROMPTS,
    Asset,
    World,
    is_held_out,
    sample_asset,
)
from viewfold.data.toybox import primitives as solids
from viewfold.data.toybox.captions import MAIN_WORDINGS, N_CAPTIONS, SIZES, WORDINGS, WORN_WORDINGS
from viewfold.errors import InputError
from viewfold.scene.rasterize import rasterize


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _says(caption: str, names: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", caption) for name in names)


def test_a_seed_decides_everything():
    first, second = sample_asset(11), sample_asset(11)
    assert first == second and first.uid == second.uid and first.captions == second.captions
    assert torch.equal(first.mesh().vertices, second.mesh().vertices)
    assert len({sample_asset(seed).uid for seed in range(50)}) == 50


def test_proportions_follow_the_seed_and_not_the_colours():
    red, blue, other = (
        Asset.of("mug", *pair, seed=seed)
        for pair, seed in ((("red", "blue"), 1), (("blue", "red"), 1), (("red", "blue"), 2))
    )
    assert torch.equal(red.mesh().vertices, blue.mesh().vertices)
    assert not torch.equal(red.mesh().vertices, other.mesh().vertices)


def test_held_out_is_the_tenth_of_combinations_whose_sha1_is_divisible_by_ten():
    assert is_held_out("mug", "red", "blue") == (int(hashlib.sha1(b"mug|red,blue").hexdigest(), 16) % 10 == 0)
    everything = [is_held_out(k, m, a) for k in KINDS for m in COLORS for a in COLORS if m != a]
    assert 0.07 < np.mean(everything) < 0.13
    for kind in KINDS:
        assert any(is_held_out(kind, m, a) for m in COLORS for a in COLORS if m != a)


@pytest.mark.parametrize("held_out", [False, True])
def test_samples_never_cross_the_split_and_cover_kinds_and_colours(held_out: bool):
    assets = [sample_asset(seed, held_out=held_out) for seed in range(600)]
    assert all(asset.held_out == held_out for asset in assets)
    assert {asset.kind for asset in assets} == set(KINDS)
    assert {asset.main for asset in assets} == {asset.accent for asset in assets} == set(COLORS)
    assert all(asset.main != asset.accent for asset in assets)


def test_a_smaller_world_gives_its_own_kinds_and_colours_and_what_it_gave_before_the_toybox_grew():
    first = World(kinds=tuple(KINDS)[:18], colors=tuple(COLORS)[:12], finishes=("matt",))
    assets = [sample_asset(seed, world=first) for seed in range(300)]
    assert {asset.kind for asset in assets} == set(first.kinds) and {a.main for a in assets} == set(first.colors)
    assert [asset.uid for asset in assets[:3]] == [
        "tree-pink-brown-00000000",
        "boat-purple-black-00000001",
        "tree-black-blue-00000002",
    ]
    everything = {sample_asset(seed).kind for seed in range(600)}
    assert everything == set(World().kinds) == set(KINDS) and len(KINDS) >= 30


@pytest.mark.parametrize(
    "names", [{"kinds": ("mug", "dragon")}, {"kinds": ()}, {"colors": ("red", "red")}, {"colors": ("red",)}]
)
def test_a_world_of_unknown_or_too_few_names_is_refused(names):
    with pytest.raises(InputError, match=f"`{next(iter(names))}`"):
        World(**names)


def test_a_world_without_a_held_out_combination_says_so():
    pair = next((a, b) for a in COLORS for b in COLORS if a < b and not any(
        is_held_out("mug", *names) for names in ((a, b), (b, a))))  # fmt: skip
    with pytest.raises(InputError, match="`world`"):
        sample_asset(0, held_out=True, world=World(kinds=("mug",), colors=pair))


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_closed_outward_and_inside_the_sphere(kind: str):
    for seed in range(4):
        mesh = Asset.of(kind, "red", "blue", seed=seed).mesh()
        assert len(mesh.faces) <= 3000
        assert 0.499 < float(mesh.vertices.norm(dim=-1).max()) <= 0.5
        parts = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).split(only_watertight=False)
        assert all(part.is_watertight and part.volume > 0 for part in parts)


@pytest.mark.parametrize("kind", KINDS)
def test_main_and_accent_cover_most_of_the_surface(kind: str):
    mesh = Asset.of(kind, "red", "blue", seed=1).mesh()
    corners = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0]).norm(dim=-1)
    index = mesh.material_index()
    share = {m.color: float(area[index == i].sum() / area.sum()) for i, m in enumerate(mesh.materials)}
    main, accent = share[COLORS["red"]], share[COLORS["blue"]]
    assert main > 0.2 and accent > 0.08 and main + accent > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_main_and_accent_are_large_enough_in_small_pictures_to_be_judged(kind: str):
    mesh = Asset.of(kind, "red", "blue", seed=2).mesh()
    mask = {COLORS["red"]: (1.0, 0.0, 0.0), COLORS["blue"]: (0.0, 1.0, 0.0)}
    painted = tuple(replace(m, color=mask.get(m.color, (0.0, 0.0, 0.0))) for m in mesh.materials)
    seen = rasterize(
        replace(mesh, materials=painted), Cameras.orbit(4, azimuth_deg=20, elevation_deg=15), size=64, light=None
    )
    main, accent, _ = (seen.rgb.sum((2, 3)) / seen.alpha.sum((2, 3))).mean(0).tolist()
    assert accent > 0.06 and main > 0.2, (accent, main)


def test_colours_are_apart_from_each_other_and_from_the_grey_background():
    names = list(COLORS)
    rgb = np.array([*COLORS.values(), (0.5, 0.5, 0.5)])
    distance = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1) + 10 * np.eye(len(rgb))
    assert distance.min() > 0.25, (names, distance.min())
    light = np.array([0.6, 0.75, 0.9, 1.05])[:, None, None]  # one shade of a colour is not any shade of another
    lab = rgb2lab(np.clip(light * rgb[None, :-1], 0, 1))
    apart = np.linalg.norm(lab[:, None, :, None] - lab[None, :, None], axis=-1).min((0, 1)) + 100 * np.eye(len(names))
    assert apart.min() > 13, (names, apart.min())
    assert apart[12:].min() > 18


def test_the_first_caption_is_canonical():
    assert Asset.of("mug", "red", "blue").captions[0] == "a red mug with a blue handle"
    assert Asset.of("chair", "orange", "white").captions[0] == "an orange chair with white legs"
    assert Asset.of("aeroplane", "grey", "orange").captions[0] == "a grey aeroplane with orange wings"


def test_a_caption_names_a_finish_that_shows_and_says_nothing_of_a_matt_one():
    assert Asset.of("mug", "red", "blue", finish="glossy").captions[0] == "a shiny red mug with a blue handle"
    assert Asset.of("chair", "orange", "white", finish="metal").captions[0] == "an orange metal chair with white legs"
    said = {name: _words(" ".join(a for pair in finish.words for a in pair)) for name, finish in FINISHES.items()}
    for finish, words in said.items():
        for seed in range(10):
            captions = Asset.of("cat", "red", "blue", seed=seed, finish=finish).captions
            shown = [bool(_words(c) & (said["glossy"] | said["metal"])) for c in captions]
            assert all(shown) if words else not any(shown)


def test_the_finish_is_on_main_and_accent_alone_and_leaves_the_shape():
    matt, metal = (Asset.of("car", "red", "blue", seed=3, finish=finish) for finish in ("matt", "metal"))
    assert torch.equal(matt.mesh().vertices, metal.mesh().vertices) and matt.uid != metal.uid
    shiny = {m.color for m in metal.mesh().materials if m.metallic == 1 and m.roughness < 0.5}
    assert shiny == {COLORS["red"], COLORS["blue"]}
    assert all(m.metallic == 0 and m.roughness == 0.7 for m in matt.mesh().materials)
    finishes = [sample_asset(seed).finish for seed in range(300)]
    assert set(finishes) == set(FINISHES) and 0.55 < finishes.count("matt") / 300 < 0.78


def test_captions_differ_and_each_names_kind_and_main_colour():
    for seed in range(60):
        asset = sample_asset(seed)
        captions = asset.captions
        assert len(set(captions)) == len(captions) == N_CAPTIONS
        assert sum(_says(c, SYNONYMS[asset.accent]) for c in captions) >= N_CAPTIONS // 2
        for caption in captions:
            assert _says(caption, KINDS[asset.kind].nouns) and _says(caption, SYNONYMS[asset.main]), caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]", caption), caption


def test_no_wording_can_contain_a_reserved_word():
    sources = [*WORDINGS, *WORN_WORDINGS, *MAIN_WORDINGS, *SIZES, *(s for names in SYNONYMS.values() for s in names)]
    for kind in KINDS.values():
        sources += [*kind.nouns, *kind.part_nouns]
    sources += [word for finish in FINISHES.values() for pair in finish.words for word in pair]
    sayable = set().union(*(_words(source) for source in sources))
    assert not sayable & set(RESERVED)
    assert not any(_words(c) & set(RESERVED) for seed in range(80) for c in sample_asset(seed).captions)


def test_prompts_of_unseen_wording_use_reserved_words_for_known_kinds_and_colours():
    assert len({prompt for prompt, _, _ in UNSEEN_WORDING_PROMPTS}) == len(UNSEEN_WORDING_PROMPTS) == 32
    for prompt, kind, main in UNSEEN_WORDING_PROMPTS:
        assert _words(prompt) & set(RESERVED) and kind in KINDS and main in COLORS
    assert set(RESERVED) == set().union(*(_words(p) for p, _, _ in UNSEEN_WORDING_PROMPTS)) & set(RESERVED)


def test_no_synonym_belongs_to_two_kinds_or_two_colours():
    nouns = [noun for kind in KINDS.values() for noun in kind.nouns]
    shades = [shade for names in SYNONYMS.values() for shade in names]
    assert len(nouns) == len(set(nouns)) and len(shades) == len(set(shades))


def test_solids_have_the_volumes_of_their_formulas():
    def volume(solid: solids.Solid) -> float:
        mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
        assert mesh.is_watertight
        return float(mesh.volume)

    assert volume(solids.box(1, 2, 3)) == pytest.approx(6)
    # chamfers take a prism of b^2 / 2 x (1 - 2 b) from each of 12 edges and 5/6 of a cube of edge b from each corner
    assert volume(solids.box(1, 1, 1, bevel=0.1)) == pytest.approx(1 - 12 * 0.005 * 0.8 - 8 * 5 / 6 * 0.1**3)
    assert volume(solids.box(1, 1, 3, taper=(0, 0))) == pytest.approx(1)
    assert volume(solids.cylinder(1, 2, n=200)) == pytest.approx(2 * np.pi, rel=1e-3)
    assert volume(solids.cone(1, 3, n=200)) == pytest.approx(np.pi, rel=1e-3)
    assert volume(solids.ellipsoid(1, 2, 3, n=120)) == pytest.approx(8 * np.pi, rel=5e-3)
    assert volume(solids.torus(2, 0.5, n=200)) == pytest.approx(np.pi**2, rel=0.08)  # a tube of ten sides
    arrow = [(0.0, 0.0), (2.0, 2.0), (0.0, 1.0), (-2.0, 2.0)]
    assert volume(solids.extrude(arrow, 0.5)) == pytest.approx(1.0)
    assert volume(solids.extrude(arrow[::-1], 0.5)) == pytest.approx(1.0)
    assert volume(solids.box(1, 2, 3).scaled(x=-2).turned(x=30, z=50).at(1, 2, 3)) == pytest.approx(12)


@pytest.mark.parametrize(
    ("kind", "colors", "seed", "named"),
    [
        ("dragon", (("body", "red"), ("handle", "blue")), 0, "kind"),
        ("mug", (("body", "red"), ("legs", "blue")), 0, "colors"),
        ("mug", (("body", "red"), ("handle", "mauve")), 0, "colors"),
        ("mug", (("body", "red"), ("handle", "red")), 0, "colors"),
        ("mug", (("body", "red"), ("handle", "blue")), -1, "seed"),
    ],
)
def test_an_asset_that_cannot_be_is_refused_by_the_name_of_its_field(kind, colors, seed, named):
    with pytest.raises(InputError, match=f"`{named}`"):
        Asset(kind, colors, seed)


def test_a_negative_seed_and_an_unknown_kind_are_refused():
    with pytest.raises(InputError, match="`seed`"):
        sample_asset(-1)
    with pytest.raises(InputError, match="`kind`"):
        Asset.of("dragon", "red", "blue")
    with pytest.raises(InputError, match="`finish`"):
        Asset.of("mug", "red", "blue", finish="velvet")
