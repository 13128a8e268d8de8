"""Hollows that pictures show are carved out of the visual hull, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trimesh
from second_device import second_device

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.carving import CarveSettings, carve
from viewfold.lifting.fit import first_guess
from viewfold.lifting.hull import visual_hull
from viewfold.lifting.observation import Observed, observe
from viewfold.lifting.photometric import Photometric
from viewfold.scene.field import lattice
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

FLOOR, RIM, RADIUS, WALL = -0.3, 0.3, 0.3, 0.05
AXIS = torch.tensor([[0.0, 0.0, z] for z in (RIM - 0.03, RIM - 0.05)])
"""In the mouth of the cup, where views at 30 degrees look through."""

CARVE = CarveSettings()
N = CARVE.resolution


def turned(*profile: tuple[float, float]) -> Mesh:
    made = trimesh.creation.revolve(profile, sections=48)
    return Mesh(vertices=torch.tensor(made.vertices).float(), faces=torch.tensor(made.faces).long())


def cup(*, full_to: float = FLOOR + WALL) -> Mesh:
    inner = RADIUS - WALL
    return turned((0, FLOOR), (RADIUS, FLOOR), (RADIUS, RIM), (inner, RIM), (inner, full_to), (0, full_to))


def block() -> Mesh:
    return turned((0, FLOOR), (RADIUS, FLOOR), (RADIUS, RIM), (0, RIM))


def seen(mesh: Mesh, *, n_views: int = 16) -> Observed:
    cameras = Cameras.orbit(n_views, elevation_deg=[5.0 if i % 2 else 30.0 for i in range(n_views)])
    drawn = rasterize(mesh, cameras, size=64)
    return observe(Views(rgb=drawn.over(torch.full((3, 1, 1), 0.5)), alpha=drawn.alpha, cameras=cameras))


def hull_of(observed: Observed, n: int = N) -> torch.Tensor:
    points = lattice(n, device=observed.foreground.alpha.device)
    return visual_hull(observed.foreground.alpha, observed.views.cameras, points).reshape(n, n, n)


def gone_from(observed: Observed, settings: CarveSettings = CARVE) -> torch.Tensor:
    hull = hull_of(observed, settings.resolution)
    gone = carve(Photometric.of(observed), hull, settings)
    return torch.zeros(hull.shape, dtype=torch.bool) if gone is None else gone[0, 0] > 0


def test_the_mouth_of_a_cup_is_open_and_its_wall_and_bottom_stay() -> None:
    gone = gone_from(seen(cup())).flatten()
    points = lattice(N)
    across = points[:, :2].norm(dim=1)
    mouth = (across < 0.15) & (points[:, 2] < RIM) & (points[:, 2] > RIM - 0.045)
    assert gone[mouth].float().mean() > 0.9
    solid = (points[:, 2] > FLOOR) & (points[:, 2] < RIM) & (across < RADIUS) & (across > RADIUS - WALL)
    assert gone[solid].float().mean() < 0.15, "the inner side of a wall of two voxels may lose some"
    below = points[:, 2] < 0.0
    assert gone[below].float().mean() < 0.001


def test_what_is_full_to_the_rim_stays_full() -> None:
    observed = seen(block())
    assert gone_from(observed).sum() < 0.01 * (hull_of(observed) > 0.5).sum()


def test_a_cup_that_is_half_full_is_carved_no_deeper() -> None:
    points, gone = lattice(N), gone_from(seen(cup(full_to=RIM - 0.1))).flatten()
    assert gone[(points[:, :2].norm(dim=1) < 0.15) & (points[:, 2] < RIM - 0.15)].float().mean() < 0.05


def test_every_part_of_an_outline_stays_covered_whatever_the_pictures_show() -> None:
    observed = seen(block())
    noise = torch.rand(observed.views.rgb.shape, generator=torch.Generator().manual_seed(0))
    torn = replace(Photometric.of(observed), rgb=torch.nn.functional.interpolate(noise[:, :, ::8, ::8], size=64))
    hull = hull_of(observed)
    gone = carve(torn, hull, CARVE)
    assert gone is not None, "something is carved, and most of it put back"
    left = torch.where(gone[0, 0] > 0, 0.0, hull)
    cameras, points = observed.views.cameras, lattice(N)[left.flatten() > 0.5]
    uv, _ = cameras.project(points)
    for view, alpha in enumerate(observed.foreground.alpha[:, 0]):
        drawn = torch.zeros(16, 16)
        x, y = ((uv[view] + 1) / 2 * 16).long().clamp(0, 15).unbind(-1)
        drawn[y, x] = 1
        inner = torch.nn.functional.avg_pool2d(alpha[None, None], 4)[0, 0] > 0.99
        assert drawn[inner].min() == 1


def test_a_highlight_in_a_few_views_is_no_disagreement() -> None:
    observed = seen(block())
    pictures = Photometric.of(observed)
    lit = pictures.rgb.clone()
    lit[3, :, 24:40, 24:40] = 1.0
    hull = hull_of(observed)
    gone, naive = (
        carve(replace(pictures, rgb=lit), hull, replace(CARVE, outliers=share)) for share in (CARVE.outliers, 0.0)
    )
    assert naive is not None and naive.sum() > 30, "what is to be ignored is there"
    assert gone is None or gone.sum() < naive.sum() / 5


def test_a_colour_that_is_uncertain_says_nothing() -> None:
    observed = seen(cup())
    unsure = replace(Photometric.of(observed), certainty=torch.full_like(observed.foreground.certainty, 0.5))
    assert carve(unsure, hull_of(observed), CARVE) is None


def test_few_views_carve_nothing() -> None:
    observed = seen(cup(), n_views=5)
    assert carve(Photometric.of(observed), hull_of(observed), CARVE) is None


def test_larger_pictures_are_carved_as_small_ones_are() -> None:
    observed, pictures = seen(cup()), Photometric.of(seen(cup()))
    large = {
        name: torch.nn.functional.interpolate(getattr(pictures, name), scale_factor=2, mode="nearest")
        for name in ("rgb", "alpha", "certainty")
    }
    small, same = (carve(p, hull_of(observed), CARVE) for p in (pictures, replace(pictures, **large)))
    assert small is not None and same is not None and torch.equal(small, same)


def test_a_fit_begins_with_an_open_mouth_if_it_is_asked_to() -> None:
    observed = seen(cup())
    filled, _ = first_guess(observed)(AXIS)
    opened, _ = first_guess(observed, carving=CARVE)(AXIS)
    assert filled.min() > 0.9 and opened.max() < 0.5


def test_a_hull_is_carved_where_the_views_are_and_alike() -> None:
    expected = gone_from(seen(cup()))
    views = seen(cup()).views
    with second_device() as device:
        observed = observe(views.to(device))
        gone = carve(Photometric.of(observed), hull_of(observed), CARVE)
        assert gone is not None and gone.device == device
        assert torch.equal((gone[0, 0] > 0).cpu(), expected)
        inside, _ = first_guess(observed, carving=CARVE)(AXIS.to(device))
        assert inside.device == device and float(inside.max()) < 0.5


@pytest.mark.parametrize(
    ("name", "value"), [("resolution", 4), ("tolerance", -0.1), ("outliers", 0.5), ("least_views", 1), ("sweeps", -1)]
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{name}` must lie between"):
        replace(CARVE, **{name: value})
