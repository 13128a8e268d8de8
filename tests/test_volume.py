"""Volume rendering: closed forms of a ball of density, laws of compositing, shortcuts that must change nothing."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras, framing_distance
from viewfold.errors import InputError
from viewfold.scene.grid import GridField
from viewfold.scene.volume import (
    SCENE_RADIUS,
    OccupancyGrid,
    composite,
    density_normal,
    intersect_sphere,
    render_volume,
)


@dataclass
class Ball:
    """A ball of one density; the right half (+x) is red, the left blue."""

    radius: float
    value: float

    def density(self, points: Tensor) -> Tensor:
        return self.value * (points.norm(dim=-1) < self.radius).float()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        right = (points[:, 0] > 0).float()
        return self.density(points), torch.stack([right, torch.zeros_like(right), 1 - right], dim=-1)


def solid(radius: float = 0.35) -> GridField:
    """A ball of the voxel grid with a sharp border."""
    field = GridField(resolution=32)
    grid = torch.linspace(-0.6, 0.6, 32)
    distance = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij")).norm(dim=0)
    with torch.no_grad():
        field.grid[0, 0] = (60 * (radius - distance)).clamp(-8, 8)
    return field


def test_weights_of_three_hand_worked_samples() -> None:
    density = torch.tensor([[math.log(2.0), math.log(4.0), 0.0]])
    weight, transmittance = composite(density, 1.0)
    torch.testing.assert_close(weight, torch.tensor([[0.5, 0.375, 0.0]]))
    torch.testing.assert_close(transmittance, torch.tensor([[1.0, 0.5, 0.125]]))


def test_weights_and_what_passes_sum_to_one(generator: torch.Generator) -> None:
    density = torch.rand(10, 20, generator=generator) * 50
    delta = torch.rand(10, 20, generator=generator) * 0.1
    weight, _ = composite(density, delta)
    torch.testing.assert_close(weight.sum(-1), 1 - torch.exp(-(density * delta).sum(-1)))


def test_a_ball_of_density_has_the_alpha_of_its_chords() -> None:
    ball, cameras, size = Ball(radius=0.4, value=3.0), Cameras.orbit(2, elevation_deg=20.0), 24
    origins, directions = cameras.rays(size)
    near, far = intersect_sphere(origins.reshape(-1, 3), directions.reshape(-1, 3), radius=0.4)
    chord = (far - near).clamp(min=0).reshape(2, 1, size, size)
    alpha = render_volume(ball, cameras, size=size, n_samples=512).alpha
    torch.testing.assert_close(alpha, -torch.expm1(-3.0 * chord), rtol=0, atol=0.012)


@dataclass
class Wall:
    """Everything behind y = 0, opaque, its colour a ramp along x; the axis of the front camera meets it straight."""

    value: float = 5000.0

    def density(self, points: Tensor) -> Tensor:
        return self.value * (points[:, 1] > 0).float()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        ramp = points[:, :1] + 0.5
        return self.density(points), torch.cat([ramp, 1 - ramp, torch.full_like(ramp, 0.25)], dim=-1)


def test_depth_is_along_the_axis_and_not_along_the_ray() -> None:
    """A flat wall has one depth in all pixels, though the rays at the edge are longer."""
    cameras, size = Cameras.orbit(1, elevation_deg=0.0, fov_deg=70.0), 16
    picture = render_volume(Wall(), cameras, size=size, n_samples=1000)
    hit = picture.alpha[0, 0] > 0.99
    assert int(hit.sum()) > 50
    expected = torch.full_like(picture.depth[0, 0][hit], framing_distance(70.0))
    torch.testing.assert_close(picture.depth[0, 0][hit], expected, atol=0.003, rtol=0)


def test_the_colour_of_a_wall_is_where_its_rays_meet_it() -> None:
    cameras, size = Cameras.orbit(1, elevation_deg=0.0), 16
    picture = render_volume(Wall(), cameras, size=size, n_samples=1000)
    origin, direction = (x[0] for x in cameras.rays(size))
    x = (origin - direction * (origin[..., 1:2] / direction[..., 1:2]))[..., 0]
    hit = picture.alpha[0, 0] > 0.99
    torch.testing.assert_close(picture.rgb[0, 0][hit], x[hit] + 0.5, atol=0.003, rtol=0)
    torch.testing.assert_close(picture.rgb[0, 1][hit], 0.5 - x[hit], atol=0.003, rtol=0)


def test_fog_has_the_expected_depth_over_what_was_hit() -> None:
    """Through the middle of thin fog of density k the mean depth is that of an exponential cut off at the chord."""
    k, chord = 2.0, 2 * SCENE_RADIUS
    picture = render_volume(Ball(radius=1.0, value=k), Cameras.orbit(1)[[0]], size=1, n_samples=2000)
    mean = 1 / k - chord * math.exp(-k * chord) / (1 - math.exp(-k * chord))
    assert float(picture.depth) == pytest.approx(framing_distance(40.0) - SCENE_RADIUS + mean, abs=2e-3)
    assert float(picture.alpha) == pytest.approx(1 - math.exp(-k * chord), abs=1e-3)


def test_normals_and_colours_are_premultiplied() -> None:
    field = GridField(resolution=16, blob_radius=0.0)
    with torch.no_grad():
        field.grid[0, 0] = torch.linspace(-3, -1, 16)  # thicker towards +x
    field.requires_grad_(False)
    picture = render_volume(field, Cameras.orbit(1, elevation_deg=0.0), size=5, normals=True)
    alpha = picture.alpha[0, 0, 2, 2]
    assert 0.5 < float(alpha) < 0.99
    torch.testing.assert_close(picture.rgb[0, :, 2, 2], alpha * torch.full((3,), 0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(picture.normal[0, :, 2, 2], alpha * torch.tensor([-1.0, 0, 0]), atol=0.02, rtol=0)
    assert not render_volume(field, Cameras.orbit(1), size=5).normal.any()


def test_what_no_light_reaches_is_not_asked_and_what_some_reaches_is() -> None:
    asked: list[int] = []

    class Counting(Wall):
        def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(len(points))
            return super().__call__(points)

    for value, most in ((5000.0, 55), (0.01, 101)):
        render_volume(Counting(value), Cameras.orbit(1, elevation_deg=0.0), size=1, n_samples=100)
        assert most - 5 <= asked.pop() <= most
    half = math.log(2.0) * 100 / (2 * SCENE_RADIUS)  # each sample lets half through: the tenth still gets 1 / 512
    render_volume(Counting(half), Cameras.orbit(1, elevation_deg=0.0), size=1, n_samples=100)
    assert asked == [50 + 10]


def test_spheres_are_entered_and_left_where_geometry_says() -> None:
    origins = torch.tensor([[-2.0, 0.3, 0], [-2.0, 0.6, 0], [0.0, 0, 0.2], [2.0, 0, 0], [0.0, -1, 0.5]])
    directions = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 1], [1.0, 0, 0], [0.0, 1, 0]])
    near, far = intersect_sphere(origins, directions, radius=0.5)
    torch.testing.assert_close(near[[0, 2, 4]], torch.tensor([1.6, 0.0, 1.0]))
    torch.testing.assert_close(far[[0, 2, 4]], torch.tensor([2.4, 0.3, 1.0]))
    assert bool((near >= far)[[1, 3]].all())
    assert float(intersect_sphere(origins[:1], directions[:1])[0]) == pytest.approx(2 - math.sqrt(0.55**2 - 0.09))


@dataclass
class Corner:
    """Density in one octant-like corner alone, so that no two axes can be taken for each other."""

    def density(self, points: Tensor) -> Tensor:
        low = torch.tensor([0.2, -0.4, 0.0])
        return 9.0 * ((points > low) & (points < low + 0.15)).all(dim=-1).float()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(points), torch.ones_like(points)


def test_occupied_cells_lie_where_the_field_does_on_every_axis() -> None:
    cells = OccupancyGrid.of(Corner(), resolution=44)  # cells of 0.025
    middle = torch.tensor([0.275, -0.325, 0.075])
    assert bool(cells.at(middle[None]))
    for axis in range(3):
        for sign in (-1.0, 1.0):
            step = torch.zeros(3)
            step[axis] = sign
            assert bool(cells.at((middle + 0.07 * step)[None]))
            assert not bool(cells.at((middle + 0.25 * step)[None]))
    assert not bool(cells.at(middle[[1, 0, 2]][None])) and not bool(cells.at(middle[[2, 1, 0]][None]))


def test_normals_of_a_ramp_are_exact_whatever_its_direction(generator: torch.Generator) -> None:
    slope = torch.tensor([3.0, -1.0, 2.0])

    class Ramp(Ball):
        def density(self, points: Tensor) -> Tensor:
            return 5 + points @ slope

    at = torch.rand(6, 3, generator=generator) - 0.5
    expected = (-slope / slope.norm()).expand(6, 3)
    torch.testing.assert_close(density_normal(Ramp(1.0, 1.0), at), expected, atol=1e-3, rtol=0)
    assert not density_normal(Ball(radius=2.0, value=1.0), at).any()


def test_the_middle_of_each_step_is_looked_at_and_a_drawn_place_lies_in_its_step() -> None:
    seen: list[Tensor] = []

    class Watched(Ball):
        def density(self, points: Tensor) -> Tensor:
            seen.append(points)
            return super().density(points)

    camera = Cameras.orbit(1, elevation_deg=0.0)
    render_volume(Watched(radius=1.0, value=0.0), camera, size=1, n_samples=11)
    torch.testing.assert_close(seen[0][:, 1], -0.5 + 0.1 * torch.arange(11), atol=1e-5, rtol=0)
    seen.clear()
    random = torch.Generator().manual_seed(0)
    render_volume(Watched(radius=1.0, value=0.0), camera, size=1, n_samples=11, generator=random)
    place = (seen[0][:, 1] + 0.55) / 0.1
    assert place.floor().tolist() == list(range(11)) and float((place % 1).std()) > 0.1


def test_an_opaque_ball_lies_at_its_surface() -> None:
    cameras, size = Cameras.orbit(1, elevation_deg=0.0), 33
    picture = render_volume(Ball(radius=0.4, value=2000.0), cameras, size=size, n_samples=512, normals=False)
    assert float(picture.alpha[0, 0, 16, 16]) == pytest.approx(1.0, abs=1e-3)
    assert float(picture.depth[0, 0, 16, 16]) == pytest.approx(framing_distance(40.0) - 0.4, abs=0.004)
    assert float(picture.alpha[0, 0, 0, 0]) == 0
    assert float(picture.depth[0, 0, 0, 0]) == 0
    red, blue = picture.rgb[0, :, 16, 20], picture.rgb[0, :, 16, 12]  # azimuth 0 sees +x on the right
    torch.testing.assert_close(red, torch.tensor([1.0, 0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(blue, torch.tensor([0.0, 0, 1]), atol=1e-3, rtol=0)


def test_jitter_is_unbiased_in_optical_depth(generator: torch.Generator) -> None:
    cameras = Cameras.orbit(1)[[0] * 256]  # one pixel each: 256 times the ray through the centre
    picture = render_volume(Ball(radius=0.4, value=2.0), cameras, size=1, n_samples=8, generator=generator)
    optical = -torch.log1p(-picture.alpha.flatten())
    assert float(optical.std()) > 0.01
    assert abs(float(optical.mean()) - 2.0 * 0.8) < 4 * float(optical.std()) / math.sqrt(256)


def test_the_same_seed_draws_the_same_picture() -> None:
    field, cameras = GridField(resolution=16), Cameras.orbit(2)
    one, two = (render_volume(field, cameras, size=8, generator=torch.Generator().manual_seed(3)).rgb for _ in range(2))
    assert torch.equal(one, two)


def test_skipping_empty_space_changes_no_pixel() -> None:
    field, cameras = solid(), Cameras.orbit(2)
    occupancy = OccupancyGrid.of(field)
    assert 0 < occupancy.fraction < 0.5
    everywhere = render_volume(field, cameras, size=24, normals=True)
    skipping = render_volume(field, cameras, size=24, normals=True, occupancy=occupancy)
    assert (everywhere.rgb - skipping.rgb).abs().max() < 0.01
    assert (everywhere.alpha - skipping.alpha).abs().max() < 0.01


def test_occupancy_follows_the_field_and_is_one_cell_wider() -> None:
    cells = OccupancyGrid.of(Ball(radius=0.3, value=10.0), resolution=22)  # cells of 0.05
    points = torch.tensor([[0.29, 0, 0], [0.0, 0.33, 0], [0.0, 0, -0.45], [0.5, 0, 0]])
    assert cells.at(points).tolist() == [True, True, False, False]
    assert not OccupancyGrid.of(GridField(blob_radius=0.0)).cells.any()


def test_normals_of_a_ball_point_away_from_its_centre(generator: torch.Generator) -> None:
    field = solid()
    at = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1)
    assert ((density_normal(field, 0.35 * at) * at).sum(-1) > 0.98).all()
    with torch.no_grad():
        picture = render_volume(field, Cameras.orbit(1, elevation_deg=0.0), size=17, normals=True)
    assert float(picture.normal[0, 1, 8, 8]) < -0.95  # azimuth 0 looks from -y


def test_gradients_are_finite_and_move_the_picture_towards_its_target() -> None:
    field, cameras = GridField(resolution=16), Cameras.orbit(2)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.4)
    target = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    losses = []
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        picture = render_volume(field, cameras, size=12, n_samples=24, generator=generator, normals=step % 2 == 0)
        loss = (picture.rgb - target * picture.alpha).square().mean() + 1e-4 * picture.normal.square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert field.grid.grad is not None and torch.isfinite(field.grid.grad).all()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_the_gradient_of_the_picture_equals_its_finite_difference() -> None:
    field, cameras = GridField(resolution=8, blob_radius=0.5), Cameras.orbit(1)

    def total() -> Tensor:
        picture = render_volume(field, cameras, size=8, n_samples=32)
        return (picture.rgb.sum() + picture.alpha.sum() + picture.depth.sum()).double()

    total().backward()
    assert field.grid.grad is not None
    for index in [(0, 0, 3, 3, 3), (0, 1, 3, 0, 3), (0, 0, 4, 1, 3)]:
        analytic = float(field.grid.grad[index])
        with torch.no_grad():
            field.grid[index] += 0.05
            up = total()
            field.grid[index] -= 0.1
            down = total()
            field.grid[index] += 0.05
        assert float(up - down) / 0.1 == pytest.approx(analytic, rel=0.05, abs=2e-3)


def test_an_empty_scene_and_a_camera_that_looks_away_are_black_and_differentiable() -> None:
    field = GridField(blob_radius=0.0)
    picture = render_volume(field, Cameras.orbit(1), size=8, occupancy=OccupancyGrid.of(field))
    assert not picture.alpha.any()
    (picture.rgb.sum() + picture.depth.sum()).backward()
    away = Cameras.look_at(torch.tensor([[0.0, -2.0, 0.0]]), target=(0.0, -4.0, 0.0))
    assert not render_volume(GridField(), away, size=8).alpha.any()


def test_a_camera_inside_sees_only_what_is_in_front() -> None:
    near, far = intersect_sphere(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]))
    assert (float(near), float(far)) == (0.0, pytest.approx(SCENE_RADIUS))


def test_sizes_out_of_range_are_refused() -> None:
    field, cameras = GridField(resolution=4), Cameras.orbit(1)
    with pytest.raises(InputError, match="`size`"):
        render_volume(field, cameras, size=0)
    for n_samples in (1, 4097):
        with pytest.raises(InputError, match="`n_samples`"):
            render_volume(field, cameras, size=4, n_samples=n_samples)
    with pytest.raises(InputError, match="`size`"):
        render_volume(field, cameras, size=4097)
    assert render_volume(field, cameras, size=1, n_samples=2).rgb.shape == (1, 3, 1, 1)
