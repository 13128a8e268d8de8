"""Key points that are planted where the cameras see them: which pairs are asked, what counts, and how far is far."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation.matches import LEAST_PX, epipolar_distance, match, measure_matches

CAMERAS = Cameras.orbit(12, elevation_deg=15)[[0, 1, 2]]
POINTS = torch.rand(14, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3


class Planted:
    """Stands for pycolmap: the key points of a picture are those of the number that its red says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pixels: list[Tensor], kinds: list[Tensor] | None = None):
        self.pixels, self.kinds, self.seen = pixels, kinds or [torch.arange(len(each)) for each in pixels], []
        module = ModuleType("pycolmap")
        members: dict[str, Any] = {
            "logging": SimpleNamespace(minloglevel=0),
            "Device": SimpleNamespace(cpu="cpu"),
            "FeatureExtractor": SimpleNamespace(create=lambda device: self),
            "Bitmap": SimpleNamespace(from_array=lambda array: array),
        }
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, "pycolmap", module)

    def extract(self, picture: np.ndarray) -> tuple[list[SimpleNamespace], SimpleNamespace]:
        self.seen.append(picture)
        number = len(self.seen) - 1
        points = [SimpleNamespace(x=float(x), y=float(y)) for x, y in self.pixels[number]]
        return points, SimpleNamespace(data=np.eye(64, dtype=np.float32)[self.kinds[number].numpy()])


def pixels(cameras: Cameras, points: Tensor = POINTS, *, size: int = LEAST_PX) -> list[Tensor]:
    """Where cameras see points, in pixels from the upper left corner."""
    seen, _ = cameras.project(points)
    return list(torch.stack([(1 + seen[..., 0]) / 2, (1 - seen[..., 1]) / 2], dim=-1) * size)


def measured(cameras: Cameras = CAMERAS, *, covers: Tensor | None = None) -> Any:
    rgb = torch.full((len(cameras), 3, LEAST_PX, LEAST_PX), 0.5)
    return measure_matches(rgb, cameras, coverage=torch.ones_like(rgb[:, :1]) if covers is None else covers)


def test_points_where_the_cameras_see_them_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    Planted(monkeypatch, pixels(CAMERAS))
    found = measured()
    assert (found.pairs, found.with_matches, found.agreeing, found.matches) == (2, 2, 1.0, 14.0)
    assert found.median_px == pytest.approx(0.0, abs=0.01)


def test_a_pair_needs_ten_matches_and_says_nothing_of_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first view has ten of the points, the last nine."""
    first, second, third = pixels(CAMERAS)
    Planted(monkeypatch, [first[:10], second, third[:9]])
    found = measured()
    assert (found.pairs, found.with_matches, found.agreeing, found.matches) == (2, 1, 0.5, 9.5)
    assert found.median_px is not None


def test_two_pixels_across_the_lines_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    for down, agreeing in ((1.6, 1.0), (2.6, 0.5)):
        places = pixels(CAMERAS)
        places[2] = places[2] + torch.tensor([0.0, down])
        Planted(monkeypatch, places)
        found = measured()
        assert found.agreeing == agreeing and found.with_matches == 2
        assert found.median_px == pytest.approx(down / 2, rel=0.15), "the middle of 0 and of that"


def test_at_two_pixels_far_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    for apart, agreeing in ((1.999, 1.0), (2.0, 0.0)):
        Planted(monkeypatch, pixels(CAMERAS))
        monkeypatch.setattr(
            "viewfold.evaluation.matches.epipolar_distance",
            lambda pair, one, _, far=apart: torch.full((len(one),), far),
        )
        assert measured().agreeing == agreeing


def test_half_of_a_pairs_matches_may_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, agreeing in ((6, 1.0), (8, 0.0)):
        places = pixels(CAMERAS)
        places[1][:wrong] += torch.tensor([0.0, 30.0])
        Planted(monkeypatch, places)
        assert measured().agreeing == agreeing


def test_each_view_is_paired_with_the_one_in_the_nearest_direction_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0, 30, 50 and 120 degrees, the second from twice as far: 0-30, 30-50, 50-120; each shares its own matches."""
    cameras = Cameras.cat(
        [Cameras.orbit(1, azimuth_deg=a, distance=d) for a, d in ((0.0, 2.5), (30.0, 5.0), (50.0, 2.5), (120.0, 2.5))]
    )
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) * 0.6 - 0.3
    kinds = [torch.arange(20), torch.arange(8, 40), torch.arange(27, 60), torch.arange(43, 60)]
    places = [where[kind] for where, kind in zip(pixels(cameras, points), kinds, strict=True)]
    Planted(monkeypatch, places, kinds)
    found = measured(cameras)
    assert found.pairs == 3 and found.with_matches == 3 and found.matches == pytest.approx((12 + 13 + 17) / 3)
    assert found.median_px == pytest.approx(0.0, abs=0.01)


def test_points_beside_the_object_are_left_out_to_the_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    places = pixels(CAMERAS)
    covers = torch.ones(3, 1, LEAST_PX, LEAST_PX)
    x, y = places[0][0].long().tolist()
    covers[0, 0, y, x] = 0.5  # not more than half
    x, y = places[1][1].long().tolist()
    covers[1, 0, y, x] = 0.51
    places[2][2] = torch.tensor([LEAST_PX + 3.0, 5.0])
    covers[2, 0, 5, -1] = 0
    Planted(monkeypatch, places)
    assert measured(covers=covers).matches == (13 + 13) / 2


def test_pictures_are_looked_at_in_grey_as_bright_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = torch.zeros(3, 3, LEAST_PX, LEAST_PX)
    rgb[0, 0], rgb[1, 1], rgb[2, 2] = 1.0, 1.0, 1.0
    planted = Planted(monkeypatch, [torch.zeros(0, 2)] * 3)
    found = measure_matches(rgb, CAMERAS, coverage=torch.ones_like(rgb[:, :1]))
    assert (found.matches, found.agreeing, found.median_px) == (0.0, 0.0, None)
    assert [(each.dtype.name, each.shape, each.min(), each.max()) for each in planted.seen] == [
        ("uint8", (LEAST_PX, LEAST_PX), grey, grey) for grey in (54, 182, 18)
    ]
    with pytest.raises(InputError, match="512 pixels or more for key points; got 511"):
        measure_matches(rgb[..., :511, :511], CAMERAS, coverage=rgb[:, :1, :511, :511])
    with pytest.raises(InputError, match="got 2 for 3 views"):
        measure_matches(rgb, CAMERAS[[0, 1]], coverage=rgb[:, :1])


def test_the_distance_is_that_from_the_other_ray_as_it_is_drawn() -> None:
    """Cameras of other lenses and distances: a ray of one is drawn in the other by two of its points."""
    one = Cameras.orbit(1, azimuth_deg=0.0, elevation_deg=5.0, fov_deg=30.0, distance=3.0)
    other = Cameras.orbit(1, azimuth_deg=40.0, elevation_deg=25.0, fov_deg=50.0, distance=2.0)
    pair = Cameras.cat([one, other])
    seen, _ = pair.project(POINTS)
    first, second = seen[0], seen[1] + torch.tensor([0.03, -0.05])

    def from_ray(eye: Cameras, points: Tensor, screen: Cameras, places: Tensor) -> list[float]:
        pose, slope = eye.world_from_camera[0], math.tan(math.radians(float(eye.fov_deg[0])) / 2)
        found = []
        for (x, y), place in zip(points.tolist(), places, strict=True):
            ray = pose[:3, :3] @ torch.tensor([x * slope, y * slope, -1.0])
            drawn, _ = screen.project(pose[:3, 3] + torch.tensor([[1.5], [3.5]]) * ray)
            along = torch.nn.functional.normalize(drawn[0, 1] - drawn[0, 0], dim=0)
            off = place - drawn[0, 0]
            found.append(abs(float(along[0] * off[1] - along[1] * off[0])) * 256)
        return found

    ways = from_ray(one, first, other, second), from_ray(other, second, one, first)
    wanted = [(a + b) / 2 for a, b in zip(*ways, strict=True)]
    assert epipolar_distance(pair, first, second).tolist() == pytest.approx(wanted, rel=2e-3, abs=0.01)
    assert max(wanted) > 5 and abs(sum(ways[0]) / sum(ways[1]) - 1) > 0.1, "the two ways differ"


def test_a_match_is_nearer_than_four_fifths_of_the_second() -> None:
    one = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    for second, wanted in ((1.24, []), (1.26, [[0, 0]])):
        other = torch.tensor([[1.0, 0.0], [0.0, second]])
        assert match(one, other).tolist() == wanted
    both = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    assert match(both, both.flip(0)).tolist() == [[0, 1], [1, 0]], "of two and two"
    assert match(both, both[:1]).shape == match(both[:1], both).shape == (0, 2)
