"""What the prior is shown in a step of distillation: cameras, backgrounds and light, by law and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.diffusion.schedule import Anneal
from viewfold.errors import InputError
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.phase import Phase, phase_at
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.shading import Shading
from viewfold.lifting.studio import Studio
from viewfold.lifting.viewpoint import DrawnLens, draw_cameras
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.rendering import Rendering
from viewfold.scene.volume import render_volume

LENS, GROUND = (40.0, 1.7), torch.tensor([0.2, 0.4, 0.6])
GRID = GridSettings(resolution=16, samples=16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def studio(**settings) -> Studio:
    return Studio(DistilSettings(**settings), lens=LENS, ground=GROUND, generator=seeded())


def ball() -> GridField:
    return GridField(resolution=16, settings=GRID)


# Phases ---------------------------------------------------------------------------------------------------------------


def test_a_phase_begins_at_its_step_and_changes_size_and_batch() -> None:
    phases = (Phase(size=8, objects=2), Phase(from_step=5, size=16), Phase(from_step=9))
    assert [phase_at(phases, step) for step in (0, 4, 5, 8, 9, 99)] == [phases[i] for i in (0, 0, 1, 1, 2, 2)]
    room, made = studio(phases=phases, views=3), ball()
    for step, n, size, n_objects in ((4, 6, 8, 2), (5, 3, 16, 1), (9, 3, 24, 1)):
        shot = room.shoot(made, step=step, image_size=24, generator=seeded())
        assert shot.pictures.shape == (n, 3, size, size) and len(shot.cameras) == n and shot.n_objects == n_objects


@pytest.mark.parametrize("first", [[], [1], [0, 5, 5], [0, 7, 3]])
def test_phases_that_do_not_rise_from_step_0_are_refused(first: list[int]) -> None:
    with pytest.raises(InputError, match="`phases` must begin at step 0 and rise"):
        DistilSettings(phases=tuple(Phase(from_step=step) for step in first))


# Cameras --------------------------------------------------------------------------------------------------------------


def test_views_of_an_object_share_height_and_lens_and_stand_a_quarter_apart() -> None:
    two = draw_cameras(2, n_views=4, elevation_deg=(0, 30), lens=DrawnLens(), generator=seeded())
    for object_ in (two[:4], two[4:]):
        steps = (object_.azimuth_deg - object_.azimuth_deg[0]) % 360
        torch.testing.assert_close(steps, torch.tensor([0.0, 90.0, 180.0, 270.0]), atol=1e-3, rtol=0)
        for same in (object_.elevation_deg, object_.fov_deg, object_.position.norm(dim=-1)):
            torch.testing.assert_close(same, same[:1].expand(4), atol=1e-4, rtol=0)
    for differs in (two.elevation_deg, two.fov_deg, two.position.norm(dim=-1), two.azimuth_deg % 90):
        assert abs(float(differs[0] - differs[4])) > 0.01


def test_cameras_fill_their_ranges_evenly() -> None:
    drawn = draw_cameras(400, n_views=1, elevation_deg=(0, 30), lens=DrawnLens(), generator=seeded())
    unit = 0.5 / (drawn.fov_deg.deg2rad() / 2).tan()
    ranges = [
        (drawn.fov_deg, 15, 60),
        (drawn.position.norm(dim=-1) / unit, 0.8, 1.0),
        (drawn.elevation_deg, 0, 30),
        (drawn.azimuth_deg, 0, 360),
    ]
    for values, low, high in ranges:
        share = (values - low) / (high - low)
        assert -1e-3 < share.min() < 0.05 and 0.95 < share.max() < 1.001
        assert float(share.mean()) == pytest.approx(0.5, abs=0.05) and float(share.std()) == pytest.approx(
            1 / math.sqrt(12), abs=0.03
        )


def heights(by_area: float, *, batches: int, objects: int) -> torch.Tensor:
    """Return elevations within 0 to 80 degrees, a row a batch."""
    generator = seeded(1)
    options = {"n_views": 1, "elevation_deg": (0.0, 80.0), "by_area": by_area, "lens": LENS, "generator": generator}
    return torch.stack([draw_cameras(objects, **options).elevation_deg for _ in range(batches)])


TOP = math.radians(80)


@pytest.mark.parametrize(
    ("by_area", "mean_deg", "mean_sine"),
    [
        (0.0, 40.0, (1 - math.cos(TOP)) / TOP),
        (1.0, math.degrees((math.cos(TOP) + TOP * math.sin(TOP) - 1) / math.sin(TOP)), math.sin(TOP) / 2),
    ],
)
def test_heights_are_even_over_degrees_or_over_area(by_area: float, mean_deg: float, mean_sine: float) -> None:
    """E[e] and E[sin e] where e is uniform, and where sin e is."""
    drawn = heights(by_area, batches=1, objects=600)
    assert float(drawn.mean()) == pytest.approx(mean_deg, abs=2)
    assert float(drawn.deg2rad().sin().mean()) == pytest.approx(mean_sine, abs=0.03)
    assert drawn.max() > 76 and drawn.min() < 3


def test_the_coin_between_the_laws_is_tossed_once_a_batch() -> None:
    """By area four of ten heights lie below 23 degrees, by degrees three: batches of a hundred show which law held."""
    low = (heights(0.5, batches=24, objects=60) < 23.2).float().mean(dim=1)
    one, other = 0.29, 0.4
    assert float(low.mean()) == pytest.approx((one + other) / 2, abs=0.03)
    apart = math.sqrt(((other - one) / 2) ** 2 + 0.34 * 0.66 / 60)  # of a mixture; 0.061 if each were tossed alone
    assert float(low.std()) == pytest.approx(apart, abs=0.025)


def test_without_a_lens_of_their_own_cameras_have_the_views() -> None:
    shot = studio().shoot(ball(), step=0, image_size=8, generator=seeded())
    torch.testing.assert_close(shot.cameras.fov_deg, torch.full((4,), 40.0))
    torch.testing.assert_close(shot.cameras.position.norm(dim=-1), torch.full((4,), 1.7))
    drawn = studio(lens=DrawnLens()).shoot(ball(), step=0, image_size=8, generator=seeded())
    assert abs(float(drawn.cameras.fov_deg[0]) - 40) > 0.1


def test_what_shows_the_object_largest_is_known() -> None:
    assert studio().nearest == LENS
    fov_deg, distance = studio(lens=DrawnLens(fov_deg=(20, 90), distance=(0.7, 2))).nearest
    assert fov_deg == 90 and distance == pytest.approx(0.7 * 0.5)


# Regularisers and settings --------------------------------------------------------------------------------------------


def test_each_term_counts_as_its_weight_says() -> None:
    rendered = ball().render(Cameras.orbit(2), size=12, normals=True)
    one = {
        name: float(Regularizer(**{name: weight}).loss(rendered, step=0).detach())
        for name, weight in {
            "orientation": Anneal(start=1.0, end=1.0, steps=0), "opacity": 1.0, "sparsity": 1.0, "z_variance": 1.0
        }.items()
    }  # fmt: skip
    assert all(value > 1e-6 for value in one.values())
    rising = Regularizer(orientation=Anneal(start=10, end=1000, steps=5000), opacity=2, sparsity=3, z_variance=4)
    for step, weight in ((0, 10), (2500, 505), (5000, 1000), (9999, 1000)):
        expected = weight * one["orientation"] + 2 * one["opacity"] + 3 * one["sparsity"] + 4 * one["z_variance"]
        assert float(rising.loss(rendered, step=step).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(Regularizer().loss(rendered, step=0)) == 0


def test_descending_the_orientation_turns_normals_to_the_camera() -> None:
    """Samples that look away from the camera lose by it: the gradient is against their direction."""
    cameras, fog = Cameras.orbit(2), GridField(resolution=12, settings=GRID)
    with torch.no_grad():
        fog.grid[:, :1] = torch.randn(fog.grid[:, :1].shape, generator=seeded()) - 1
    term = Regularizer(orientation=Anneal(start=1.0, end=1.0, steps=0))
    before = term.loss(fog.render(cameras, size=12, normals=True), step=0)
    optimizer = torch.optim.Adam(fog.groups(0.02))
    for _ in range(10):
        optimizer.zero_grad()
        term.loss(fog.render(cameras, size=12, normals=True), step=0).backward()
        optimizer.step()
    assert float(term.loss(fog.render(cameras, size=12, normals=True), step=0).detach()) < 0.8 * float(before.detach())


def test_normals_are_drawn_in_the_steps_that_need_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def recorded(*args, normals: bool, **options) -> Rendering:
        asked.append(normals)
        return render_volume(*args, normals=normals, **options)

    monkeypatch.setattr("viewfold.scene.grid.render_volume", recorded)
    made = ball()
    rising = Regularizer(orientation=Anneal(start=0.0, end=1.0, steps=4))
    for settings in ({}, {"shading": Shading(albedo_steps=1, shaded_share=1.0)}, {"regularizer": rising}):
        room = studio(**settings)
        for step in (0, 1):
            room.shoot(made, step=step, image_size=8, generator=seeded())
    assert asked == [False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Phase, {"from_step": -1}), (Phase, {"size": 0}), (Phase, {"objects": 0}),
        (DrawnLens, {"fov_deg": (60, 15)}), (DrawnLens, {"distance": (0, 1)}),
        (Backdrop, {"solid_share": 1.5}), (Backdrop, {"shared": "view"}), (Backdrop, {"rate": -1.0}),
        (Shading, {"albedo_steps": -1}), (Shading, {"shaded_share": 2.0}), (Shading, {"textureless_share": -0.1}),
        (Shading, {"ambient": (0.5, 1.5)}), (Shading, {"light_distance": (0.0, 1.0)}),
        (Shading, {"light_spread": float("nan")}), (Regularizer, {"opacity": -1.0}),
        (Regularizer, {"sparsity": float("inf")}), (Regularizer, {"z_variance": float("nan")}),
        (DistilSettings, {"elevation_by_area": 1.1}), (DistilSettings, {"score_mean": "pixels"}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must"):
        kind(**wrong)
    with pytest.raises(InputError, match="`orientation` must"):
        Regularizer(orientation=Anneal(start=1.0, end=-1.0, steps=5))
