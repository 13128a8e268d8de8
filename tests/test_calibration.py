"""What each score of views sees: known damage of true renders, toys and furniture that nobody here made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, sample_asset
from viewfold.errors import InputError
from viewfold.evaluation import epipolar
from viewfold.evaluation.consistency import find_coverage, measure_consistency
from viewfold.evaluation.damage import STRAY_DEG, Subject, area_under_curve, damaged, turned, with_fronts
from viewfold.evaluation.distinctness import measure_distinctness
from viewfold.evaluation.epipolar import measure_epipolar
from viewfold.evaluation.repetition import SIDE, _cut, measure_repetition
from viewfold.evaluation.sightlines import project_rays
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize

CAMERAS = Cameras.orbit(4, elevation_deg=15)
FURNITURE = Path(__file__).parent / "assets" / "furniture"


GROUND = torch.tensor([0.55, 0.95, 0.75])
"""Behind furniture, some of which is grey."""


def drawer(mesh: Mesh, ground: float | Tensor = 0.5) -> Callable[[Cameras], Tensor]:
    return lambda cameras: rasterize(mesh, cameras, size=64).over(ground)


def toy(seed: int) -> Subject:
    asset = sample_asset(90_000_000 + seed)
    return Subject(
        draw=drawer(asset.mesh()),
        alike=drawer(Asset.of(asset.kind, asset.main, asset.accent, seed=90_500_000 + seed).mesh()),
        other=drawer(sample_asset(90_700_000 + seed).mesh()),
        janus=drawer(with_fronts(asset.mesh())),
        cameras=CAMERAS,
        seed=seed,
    )


def scores(rgb: Tensor) -> dict[str, float]:
    """Return all scores, so that more is better."""
    coverage = find_coverage(rgb)
    agreement = measure_consistency(rgb, CAMERAS, coverage=coverage)
    repetition = measure_repetition(rgb, CAMERAS, coverage=coverage)
    along = measure_epipolar(rgb, CAMERAS, coverage=coverage)
    distinct = measure_distinctness(rgb, CAMERAS, coverage=coverage)
    assert along is not None and distinct is not None
    return {
        "agreement": agreement.score,
        "worst view": agreement.worst_view,
        "distinct": distinct,
        "repetition": 0.0 if repetition is None else -repetition.mean,  # of one colour all over
        "most repeated": 0.0 if repetition is None else -repetition.most,
        "epipolar": -along.ratio,
    }


def calibrate(subjects: list[Subject], only: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Return the area under the curve of each score for each kind of damage, or some."""
    rows: dict[str, list[dict[str, float]]] = {}
    for subject in subjects:
        for name, rgb in damaged(subject).items():
            if not only or name in only:
                rows.setdefault(name, []).append(scores(rgb))

    def column(name: str, score: str) -> Tensor:
        return torch.tensor([row[score] for row in rows[name]], dtype=torch.float64)

    return {
        name: {score: area_under_curve(column("true", score), column(name, score)) for score in rows["true"][0]}
        for name in rows
    }


@pytest.fixture(scope="module")
def areas() -> dict[str, dict[str, float]]:
    return calibrate([toy(seed) for seed in range(8)])


SEEN = {
    "noise in every view": ("agreement", 0.95),
    "one view of another object": ("agreement", 0.95),
    "one view of a look-alike": ("agreement", 0.75),
    "every other view of a look-alike": ("agreement", 0.75),
    "one view in other colours": ("agreement", 0.9),
    "one view half of another object's": ("worst view", 0.9),
    "a patch of another object in one view": ("worst view", 0.9),
    "one view mirrored": ("agreement", 0.7),
    "one view turned by 30 degrees": ("agreement", 0.75),
    "one view turned by 15 degrees": ("agreement", 0.7),
    "one view is its neighbour": ("most repeated", 0.95),
    "two neighbours exchanged": ("agreement", 0.75),
    "the front on every side": ("distinct", 0.95),
    "the front on every side, with noise": ("repetition", 0.95),
    "the front on every side, turned a little": ("repetition", 0.85),
    "every view half of another object's": ("agreement", 0.65),
    "one view moved by 1/64": ("agreement", 0.65),
    "one view moved by 2/64": ("worst view", 0.9),
    "one view moved by 4/64": ("agreement", 0.95),
    "one view moved by 8/64": ("agreement", 0.95),
    "an object with a front on every side": ("repetition", 0.85),
}
"""The score that sees a damage best, and what its area under the curve is at least."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN)
def test_each_damage_is_told_from_the_truth_by_the_score_that_is_for_it(
    areas: dict[str, dict[str, float]], name: str
) -> None:
    score, least = SEEN[name]
    assert areas[name][score] >= least, areas[name]


@pytest.mark.slow
def test_every_damage_is_in_the_calibration_and_blind_spots_are_as_documented(
    areas: dict[str, dict[str, float]],
) -> None:
    assert set(areas) == {"true", "true, blurred", *SEEN}
    assert areas["the front on every side"]["agreement"] < 0.75, "why distinctness and repetition are there"
    assert areas["an object with a front on every side"]["agreement"] < 0.6, "it agrees with itself"
    assert areas["two neighbours exchanged"]["distinct"] == 0.5
    assert 0.2 < areas["true, blurred"]["agreement"] < 0.8, "blur is no contradiction"


@pytest.mark.slow
def test_things_that_nobody_here_made_are_told_from_their_damage_as_well() -> None:
    paths = sorted(FURNITURE.glob("*/*.obj"))[:8]
    assert len(paths) == 8
    meshes = [load_mesh(path).fit_sphere() for path in paths]
    subjects = [
        Subject(draw=drawer(mesh, GROUND), other=drawer(meshes[seed - 1], GROUND), cameras=CAMERAS, seed=seed)
        for seed, mesh in enumerate(meshes)
    ]
    assert not {"one view of a look-alike", "an object with a front on every side"} & set(damaged(subjects[0]))
    named = ("true", "one view of another object", "one view moved by 4/64", "the front on every side")
    found = calibrate(subjects, only=named)
    assert found["one view of another object"]["agreement"] >= 0.9
    assert found["one view moved by 4/64"]["agreement"] >= 0.85
    assert found["the front on every side"]["repetition"] >= 0.9


def test_damage_by_hand() -> None:
    subject = toy(5)
    found = damaged(subject)
    true = found["true"]
    view = 5 % 4

    def changed(name: str) -> list[int]:
        return [v for v in range(4) if not torch.equal(found[name][v], true[v])]

    for name in found:
        if name.startswith(("one view", "a patch")):
            assert changed(name) == [view], name
    assert changed("two neighbours exchanged") == [1, 2]
    assert torch.equal(found["two neighbours exchanged"][[1, 2]], true[[2, 1]])
    assert changed("every other view of a look-alike") == [1, 3]
    assert torch.equal(found["the front on every side"], true[[0, 0, 0, 0]])
    assert torch.equal(found["one view moved by 4/64"][view], true[view].roll(4, dims=-1))
    assert torch.equal(found["one view mirrored"][view], true[view].flip(-1))
    patch = (found["a patch of another object in one view"][view] != true[view]).any(dim=0).nonzero()
    assert len(patch) and int(patch.min()) >= 64 // 3 and int(patch.max()) < 2 * 64 // 3, "the middle third"
    assert torch.equal(found["true, blurred"][..., 0], true[..., 0]), "the ground is as it was up to the border"
    noise = found["noise in every view"] - true
    assert 0.03 < float(noise.std()) < 0.06 and not torch.equal(noise[0], noise[1])
    assert all(torch.equal(one, other) for one, other in zip(damaged(subject).values(), found.values(), strict=True))
    with pytest.raises(InputError, match="three or more; got 2"):
        damaged(Subject(draw=subject.draw, other=subject.other, cameras=CAMERAS[:2]))


def test_the_front_on_every_side_strays_and_turning_keeps_the_height() -> None:
    moved = turned(CAMERAS, azimuth_deg=30.0)
    assert moved.azimuth_deg.tolist() == pytest.approx([30.0, 120.0, 210.0, 300.0], abs=1e-3)
    assert moved.elevation_deg.tolist() == pytest.approx([15.0] * 4, abs=1e-3)
    seen: list[Cameras] = []

    def draw(cameras: Cameras) -> Tensor:
        seen.append(cameras)
        return torch.full((len(cameras), 3, 64, 64), 0.5)

    damaged(Subject(draw=draw, other=draw, cameras=CAMERAS, seed=3))
    stray = seen[-1].azimuth_deg
    away = torch.minimum(stray, 360 - stray)
    assert len(set(stray.tolist())) == 4 and float(away.max()) <= STRAY_DEG + 1e-3
    assert seen[-1].elevation_deg.tolist() == pytest.approx([15.0] * 4, abs=1e-3)


def test_an_object_with_fronts_is_the_same_from_every_side() -> None:
    mesh = with_fronts(sample_asset(90_000_003).mesh())
    sides = rasterize(mesh, CAMERAS, size=48).alpha
    for side in sides[1:]:
        assert float((side - sides[0]).abs().mean()) < 0.01


def test_area_under_curve_by_hand() -> None:
    assert area_under_curve(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0])) == 1.0
    assert area_under_curve(torch.tensor([1.0]), torch.tensor([2.0])) == 0.0
    assert area_under_curve(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)


# What the two newer scores say, by hand


def stripes(colors: list[float], n: int) -> Tensor:
    """Return `n` pictures of one object with vertical stripes of these greys, in the middle of a ground."""
    picture = torch.full((3, 32, 32), 0.5)
    width = 16 // len(colors)
    for i, color in enumerate(colors):
        picture[:, 8:24, 8 + i * width : 8 + (i + 1) * width] = color
    return picture.expand(n, -1, -1, -1).clone()


def test_repetition_by_hand() -> None:
    whole = torch.zeros(4, 1, 32, 32)
    whole[..., 8:24, 8:24] = 1.0
    same = stripes([0.0, 0.3, 0.9, 1.0], 4)
    found = measure_repetition(same, CAMERAS, coverage=whole)
    assert (
        found is not None and found.mean == pytest.approx(1.0, abs=1e-4) and found.most == pytest.approx(1.0, abs=1e-4)
    )
    moved = same.roll(5, dims=-1)
    shifted = whole.roll(5, dims=-1)
    mixed, covers = torch.cat([same[:2], moved[:2]]), torch.cat([whole[:2], shifted[:2]])
    found = measure_repetition(mixed, CAMERAS, coverage=covers)
    assert found is not None and found.mean == pytest.approx(1.0, abs=1e-4), "wherever it stands"
    opposite = same.clone()
    opposite[1:] = 1 - same[1:]
    found = measure_repetition(opposite, CAMERAS, coverage=whole)
    assert found is not None and found.views == (1, 2)
    assert found.mean == pytest.approx((3 * 1.0 - 1.0) / 4, abs=1e-4), "the first is like none, the others alike"
    near = Cameras.at(azimuth_deg=[0.0, 20.0, 40.0, 55.0], elevation_deg=15.0)
    assert measure_repetition(same, near, coverage=whole) is None, "all from one side"
    assert measure_repetition(same, CAMERAS, coverage=0 * whole) is None, "nothing to see"
    plain = torch.full((4, 3, 32, 32), 0.9)
    assert measure_repetition(plain, CAMERAS, coverage=whole) is None, "one colour all over has no face"
    with pytest.raises(InputError, match="one per view; got 4 for 3"):
        measure_repetition(same[:3], CAMERAS, coverage=whole[:3])


def test_repetition_of_sides_that_count_and_of_views_that_show_something() -> None:
    whole = torch.zeros(4, 1, 32, 32)
    whole[..., 8:24, 8:24] = 1.0
    same = stripes([0.0, 0.3, 0.9, 1.0], 4)
    for apart, counts in ((50.0, False), (70.0, True)):
        two = Cameras.at(azimuth_deg=[0.0, apart], elevation_deg=0.0)
        assert (measure_repetition(same[:2], two, coverage=whole[:2]) is not None) == counts, apart
    whole[1] = 0
    found = measure_repetition(same, CAMERAS, coverage=whole)
    assert found is not None and found.views == (0, 2) and found.most == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [((4, 28), (12, 18)), ((20, 24), (2, 20)), ((0, 32), (28, 32))])
def test_an_object_is_cut_out_in_the_middle_of_a_square(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    coverage = torch.zeros(1, 32, 32)
    coverage[:, slice(*rows), slice(*columns)] = 1.0
    cut = _cut(torch.full((3, 32, 32), 0.7), coverage)
    assert cut is not None and cut.shape == (4, SIDE, SIDE)
    seen = cut[3]
    for each in (seen, seen.T):
        assert torch.allclose(each, each.flip(0), atol=0.3) and float(each.amax(dim=0).max()) == pytest.approx(1.0)
    share = min(rows[1] - rows[0], columns[1] - columns[0]) / max(rows[1] - rows[0], columns[1] - columns[0])
    assert float(seen.mean()) == pytest.approx(share, abs=0.02), "not stretched"
    assert torch.allclose(cut[:3][:, seen > 0.5], torch.tensor(0.7)), "its colours, without the ground's"


def test_epipolar_by_hand() -> None:
    subject = toy(3)
    true = subject.draw(CAMERAS)
    covers = find_coverage(true)
    whole = measure_epipolar(true, CAMERAS, coverage=covers)
    assert whole is not None and 0 < whole.ratio < 0.9
    broken = true.clone()
    broken[2] = true[2][[1, 2, 0]]
    worse = measure_epipolar(broken, CAMERAS, coverage=covers)
    assert worse is not None and worse.ratio > 1.2 * whole.ratio and worse.worst_cost > 1.5 * whole.worst_cost
    # Two cameras at one place: each pixel's line holds the pixel itself.
    twice = CAMERAS[[0, 0]]
    found = measure_epipolar(true[[0, 0]], twice, coverage=covers[[0, 0]])
    assert found is not None and found.cost < 0.02 and found.ratio < 0.3
    assert measure_epipolar(true, CAMERAS, coverage=0 * covers) is None
    assert measure_epipolar(true, CAMERAS, coverage=0.4 * covers) is None, "half of a pixel at least"
    one = covers.clone()
    one[1:] = 0
    lonely = measure_epipolar(true, CAMERAS, coverage=one)
    assert lonely is not None and lonely.worst_view == 0 and lonely.cost == pytest.approx(0.5), "seen by nobody else"
    with pytest.raises(InputError, match="two or more; got 1"):
        measure_epipolar(true[:1], CAMERAS[:1], coverage=covers[:1])


def test_chance_is_the_other_half_of_the_object_and_no_more_pixels_are_looked_for_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two cameras at one place, an object of two colours: each pixel finds itself, and by chance the other colour."""
    picture = torch.full((2, 3, 64, 64), 0.5)
    picture[:, :, 8:32, 8:56] = torch.tensor([0.7, 0.2, 0.2])[:, None, None]
    picture[:, :, 32:56, 8:56] = 0.2
    picture[1] += 0.01
    covers = torch.zeros(2, 1, 64, 64)
    covers[..., 8:56, 8:56] = 1.0
    asked: list[int] = []

    def watched(cameras: Cameras, origin: Tensor, direction: Tensor) -> Tensor:
        asked.append(len(origin))
        return project_rays(cameras, origin, direction)

    monkeypatch.setattr(epipolar, "project_rays", watched)
    found = measure_epipolar(picture, CAMERAS[[0, 0]], coverage=covers)
    assert found is not None and found.cost == pytest.approx(0.01, rel=0.05) and asked == [256, 256]
    expected = (0.5**2 / 3) ** 0.5  # red alone differs, by a half
    assert found.cost / found.ratio == pytest.approx(expected, rel=0.1)
    covers[..., 20:, :] = 0
    covers[..., 20:] = 0
    assert measure_epipolar(picture, CAMERAS[[0, 0]], coverage=covers) is not None and asked[2:] == [144, 144]


def test_a_large_picture_is_measured_as_a_small_one_is() -> None:
    mesh = sample_asset(90_000_003).mesh()
    small, large = (rasterize(mesh, CAMERAS, size=size).over(0.5) for size in (64, 256))
    for measure in (measure_epipolar, measure_repetition):
        one = measure(small, CAMERAS, coverage=find_coverage(small))
        other = measure(large, CAMERAS, coverage=find_coverage(large))
        assert one is not None and other is not None
        first, second = (x.ratio if hasattr(x, "ratio") else x.mean for x in (one, other))
        assert first == pytest.approx(second, abs=0.08)
