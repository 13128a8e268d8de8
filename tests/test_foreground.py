"""What views say before anything is fitted: the ground, the object, its hull, and the lens that saw it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lift_fakes import ball, ball_views, overlap

from viewfold.camera import Cameras
from viewfold.errors import FitError
from viewfold.ground import border_pixels, distance_to, ground_color
from viewfold.lifting import foreground as fg
from viewfold.lifting.fit import first_guess
from viewfold.lifting.hull import facing_color, sample_pictures, visual_hull
from viewfold.lifting.lens import find_lens
from viewfold.lifting.observation import ObserveSettings, observe
from viewfold.scene.field import lattice
from viewfold.views import Views


def test_the_ground_is_the_median_of_the_border_even_where_the_object_touches_it() -> None:
    rgb = torch.full((1, 3, 32, 32), 0.25)
    rgb[:, :, 10:, 8:20] = 0.9
    assert torch.equal(ground_color(rgb, width=1), torch.full((1, 3), 0.25))


def test_a_border_has_each_of_its_pixels_once_and_distance_is_euclidean() -> None:
    numbered = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert border_pixels(numbered, width=1)[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 14, 15, 19, 20, 21, 22, 23, 24]
    assert border_pixels(numbered, width=2).shape == (1, 1, 24)
    rgb = torch.tensor([0.5, 0.8, 0.1]).reshape(1, 3, 1, 1)
    assert float(distance_to(torch.tensor([[0.5, 0.5, 0.5]]), rgb)) == pytest.approx(0.5)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_coverage_is_read_off_the_distance_to_the_ground(noise: float) -> None:
    views = ball_views(size=64)
    rgb = (views.rgb + noise * torch.randn(views.rgb.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found = fg.find_foreground(replace(views, rgb=rgb))
    truth = ball(views.cameras, size=64)[1]
    assert overlap(found.alpha, truth) > 0.97
    assert (found.alpha - truth).abs().mean() < 0.01
    assert bool((found.certainty == 1).all())


def test_ground_coloured_pixels_that_the_object_encloses_are_uncertain() -> None:
    rgb = torch.full((1, 3, 32, 32), 0.5)
    rgb[:, 0, 8:24, 8:24] = 1.0
    rgb[:, :, 13:19, 13:19] = 0.5
    found = fg.find_foreground(Views(rgb=rgb, cameras=Cameras.orbit(1)))
    assert float(found.certainty[0, 0, 16, 16]) == pytest.approx(fg.ENCLOSED_CERTAINTY)
    assert float(found.certainty[0, 0, 2, 2]) == 1.0


def test_specks_are_not_the_object() -> None:
    views = ball_views(size=64)
    rgb = views.rgb.clone()
    rgb[:, :, 3, 3] = 1.0
    assert float(fg.find_foreground(replace(views, rgb=rgb)).alpha[:, :, 3, 3].max()) == 0


def test_known_alpha_is_believed() -> None:
    views = ball_views()
    alpha = torch.rand(4, 1, 32, 32)
    assert torch.equal(fg.find_foreground(replace(views, alpha=alpha)).alpha, alpha)


@pytest.mark.parametrize("picture", [torch.full((4, 3, 32, 32), 0.5), torch.rand(4, 3, 32, 32)])
def test_views_without_an_object_on_a_ground_are_a_fit_error(picture: torch.Tensor) -> None:
    with pytest.raises(FitError, match="plain ground"):
        fg.find_foreground(Views(rgb=picture, cameras=Cameras.orbit(4)))


def test_the_hull_holds_the_object_and_nothing_outside_the_silhouettes() -> None:
    views = ball_views(size=64)
    _, alpha = ball(views.cameras, size=64)
    points = lattice(24)
    hull = visual_hull(alpha, views.cameras, points)
    radius = points.norm(dim=-1)
    assert float(hull[radius < 0.33].min()) > 0.5
    assert float(hull[radius > 0.55].max()) < 0.5


def test_a_point_is_seen_by_cameras_in_front_of_it_alone() -> None:
    """Behind a camera a point projects into the picture as well, upside down."""
    cameras, white = Cameras.orbit(2, elevation_deg=0, distance=2.0), torch.ones(2, 1, 8, 8)
    ahead, behind = torch.zeros(2, 3), cameras.position * 1.5
    assert sample_pictures(white, cameras, ahead)[..., 0].tolist() == [[1, 1], [1, 1]]
    assert sample_pictures(white, cameras, behind)[..., 0].tolist() == [[0, 1], [1, 0]]
    numbered = torch.arange(4.0).reshape(1, 1, 2, 2).expand(2, 1, 2, 2)
    right_and_up = torch.tensor([[0.364, 0.0, 0.364]])  # half way to the edge of 40 degrees: the texel's middle
    assert float(sample_pictures(numbered[:1], cameras[[0]], right_and_up)) == pytest.approx(1, abs=0.01)


def test_a_side_has_the_colour_of_the_view_that_faces_it() -> None:
    """Red from the front, blue from behind, green from the sides; in between by the fourth power of the cosine."""
    cameras = Cameras.orbit(4, elevation_deg=0)
    red, green, blue = torch.eye(3)
    rgb = torch.stack([red, green, blue, green])[:, :, None, None].expand(-1, -1, 8, 8)
    toward = torch.nn.functional.normalize(cameras.position, dim=-1)
    points = 0.3 * torch.stack([toward[0], toward[2], toward[0] + 0.5 * toward[1]])
    found = facing_color(rgb, cameras, points)
    torch.testing.assert_close(found[:2], torch.stack([red, blue]), atol=5e-4, rtol=0)
    torch.testing.assert_close(found[2], (16 * red + green) / 17, atol=5e-4, rtol=0)


def patch(*, distance: float, noise: float = 0.0) -> Views:
    """Grey, whose rows are off by `noise`, by nothing and by -`noise` in turn, and a square so far from grey."""
    shown = torch.full((1, 3, 64, 64), 0.5)
    shown[:, 1, ::3] += noise
    shown[:, 1, 1::3] -= noise
    shown[:, 0, 24:40, 24:40] += distance
    return Views(rgb=shown, cameras=Cameras.orbit(1))


@pytest.mark.parametrize(
    ("noise", "least"), [(0.0, 0.09), (0.05, 0.25), (0.08, 0.4)], ids=["clean", "noisy", "noisier"]
)
def test_what_stands_out_by_five_times_the_noise_is_the_object(noise: float, least: float) -> None:
    """And by 0.09 at least: two thirds of the border are off by `noise`, which is the median."""
    found = fg.find_foreground(patch(distance=1.1 * least, noise=noise))
    assert bool((found.alpha[0, 0, 25:39, 25:39] == 1).all()) and float(found.alpha[0, 0, :20].max()) == 0
    with pytest.raises(FitError, match="covers 0.0% of view 0"):
        fg.find_foreground(patch(distance=((0.9 * least) ** 2 - noise**2) ** 0.5, noise=noise))


def test_a_hole_that_nobody_is_certain_of_is_filled_in_the_first_guess() -> None:
    """A ring from all sides: no view says whether its middle is ground or as grey as the ground."""
    size = 32
    column, row = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")
    away = ((column - 15.5) ** 2 + (row - 15.5) ** 2).sqrt()
    ring = ((away > 4) & (away < 10)).float()
    rgb = 0.5 + 0.4 * ring.expand(4, 3, size, size)
    inside, _ = first_guess(observe(Views(rgb=rgb, cameras=Cameras.orbit(4))))(torch.zeros(1, 3))
    assert float(inside) == 1


@pytest.mark.parametrize("fov", [20.0, 55.0])
def test_the_shared_field_of_view_is_found_by_the_silhouettes(fov: float) -> None:
    """Four posts at the corners of a square: perspective sets the near ones apart from the far ones."""
    true = Cameras.orbit(4, elevation_deg=15, azimuth_deg=10, fov_deg=fov)
    points = lattice(80)
    x, y, z = points.unbind(-1)
    posts = points[((x.abs() - 0.25).abs() < 0.05) & ((y.abs() - 0.25).abs() < 0.05) & (z.abs() < 0.3)]
    uv, _ = true.project(posts)
    alpha = torch.zeros(4, 1, 64, 64)
    column, row = ((uv[..., 0] + 1) * 32).long(), ((1 - uv[..., 1]) * 32).long()
    for view in range(4):
        alpha[view, 0, row[view], column[view]] = 1
    views = Views(rgb=alpha.expand(-1, 3, -1, -1), alpha=alpha, cameras=Cameras.orbit(4, azimuth_deg=10))
    found = find_lens(observe(views), settings=ObserveSettings(lens="silhouettes")).views.cameras
    assert abs(float(found.fov_deg[0]) - fov) <= 5
