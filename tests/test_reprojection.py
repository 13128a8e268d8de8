"""Colours read off views: the right ones, from the views that see a point and from no other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.observation import Observed, observe
from viewfold.lifting.reprojection import (
    FACING,
    FAINT,
    TOLERANCE,
    Lookout,
    _own_color,  # pyright: ignore[reportPrivateUsage]
    _steadiness,  # pyright: ignore[reportPrivateUsage]
    agree,
)
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])
AROUND = Cameras.orbit(12, elevation_deg=[5.0, 30.0] * 6)


def sphere(radius: float = 0.35, n: int = 48) -> Mesh:
    """A ball of latitudes and longitudes, counter-clockwise seen from outside."""
    polar = torch.linspace(0, math.pi, n // 2 + 1)
    turn = torch.arange(n) * (2 * math.pi / n)
    p, t = torch.meshgrid(polar, turn, indexing="ij")
    points = torch.stack([p.sin() * t.cos(), p.sin() * t.sin(), p.cos()], dim=-1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(n // 2), torch.arange(n), indexing="ij")
    a, b = (i * n + j).flatten(), (i * n + (j + 1) % n).flatten()
    faces = torch.cat([torch.stack([a, a + n, b + n], -1), torch.stack([a, b + n, b], -1)])
    return Mesh(vertices=radius * points, faces=faces)


def plate(y: float, half: float, color: Tensor) -> Mesh:
    """A square across the y axis, turned to the front (-y)."""
    corners = torch.tensor([[-half, y, -half], [half, y, -half], [half, y, half], [-half, y, half]])
    material = Material(color=(float(color[0]), float(color[1]), float(color[2])), lit=False)
    return Mesh(vertices=corners, faces=torch.tensor([[0, 1, 2], [0, 2, 3]]), materials=(material,))


def lettering(points: Tensor) -> Tensor:
    """Bars and blocks like those of letters, two to six pixels wide in pictures of 128, in blue on red."""
    turn, height = torch.atan2(points[:, 1], points[:, 0]), points[:, 2]
    stroke = ((turn * 6 / math.pi).floor() + (height * 9).floor()) % 2 == 0
    foot = ((height * 9) % 1 < 0.3) & ((turn * 6 / math.pi).floor() % 3 == 0)
    return torch.where((stroke | foot)[:, None], BLUE, RED)


def photograph(mesh: Mesh, cameras: Cameras, *, size: int = 128) -> Observed:
    drawn = rasterize(mesh, cameras, size=size, light=None)
    return observe(Views(rgb=drawn.rgb / drawn.alpha.clamp_min(1e-6), alpha=drawn.alpha, cameras=cameras))


def inked(mesh: Mesh, fine: int = 4) -> Mesh:
    """The ball with the lettering at vertices of its own, so that letters are sharp."""
    for _ in range(fine):
        a, b, c = mesh.vertices[mesh.faces].unbind(1)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        corners = torch.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], dim=1).reshape(-1, 3)
        mesh = Mesh(vertices=corners, faces=torch.arange(len(corners)).reshape(-1, 3))
    color = lettering(mesh.vertices[mesh.faces].mean(1)).repeat_interleave(3, dim=0)
    return Mesh(vertices=mesh.vertices, faces=mesh.faces, vertex_color=color)


def around_the_ball(n: int = 3000) -> Tensor:
    """Unit vectors, evenly over the part of a ball that the cameras see well."""
    random = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(4 * n, 3, generator=random), dim=-1)
    return points[(points[:, 2] > -0.5) & (points[:, 2] < 0.9)][:n]


def test_lettering_on_a_ball_is_read_back_sharply() -> None:
    ball = sphere()
    lookout = Lookout.of(photograph(inked(sphere(n=20), fine=2), AROUND), ball)
    normals = around_the_ball()
    sightings = lookout.look(0.349 * normals, normals)
    color = agree(sightings.color, sightings.weight)
    assert (sightings.weight.sum(0) > 0).all()
    error = (color - lettering(0.35 * normals)).abs().amax(-1)
    # 0.8 is the wrong colour altogether: only within a pixel of a border, of which a third of the points are
    assert float(error.median()) < 0.05 and float((error > 0.4).float().mean()) < 0.12


def test_the_order_of_the_views_does_not_matter() -> None:
    ball, normals = sphere(n=16), around_the_ball(500)
    ball = replace(ball, vertex_color=lettering(ball.vertices))
    observed = photograph(ball, AROUND[:5], size=48)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    views = observed.views
    assert views.alpha is not None
    turned = observe(Views(rgb=views.rgb[order], alpha=views.alpha[order], cameras=views.cameras[order]))
    one, other = (Lookout.of(each, sphere()).look(0.35 * normals, normals) for each in (observed, turned))
    torch.testing.assert_close(one.weight[order], other.weight)
    torch.testing.assert_close(agree(one.color, one.weight), agree(other.color, other.weight), atol=1e-5, rtol=0)


def test_a_wall_is_not_painted_with_what_stands_before_it() -> None:
    """A red plate hides the middle of a blue wall from the front, and other parts of it from the sides."""
    scene = Mesh.cat([plate(0.3, 0.45, BLUE), plate(-0.1, 0.15, RED)])
    cameras = Cameras.at(elevation_deg=[0.0, 0.0, 0.0, 35.0], azimuth_deg=[0.0, -50.0, 50.0, 0.0])
    lookout = Lookout.of(photograph(scene, cameras), scene)
    axis = torch.linspace(-0.43, 0.43, 40)
    x, z = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x.flatten(), torch.full((1600,), 0.3), z.flatten()], -1)
    sightings = lookout.look(points, torch.tensor([[0.0, -1.0, 0.0]]).expand(1600, 3))
    middle = points.norm(dim=-1) < 0.32
    assert not bool(sightings.weight[0][middle].any()), "the front view sees the plate there"
    seen = sightings.weight.sum(0) > 0.01
    assert float(seen.float().mean()) > 0.9
    color = agree(sightings.color, sightings.weight)[seen]
    assert float((color - BLUE).abs().max()) < 0.15
    assert float((color - BLUE).abs().mean()) < 0.01


def test_a_plate_is_seen_from_its_own_side_alone() -> None:
    scene = plate(0.0, 0.3, RED)
    cameras = Cameras.at(elevation_deg=0.0, azimuth_deg=[0.0, 60.0, 85.0, 180.0])
    lookout = Lookout.of(photograph(scene, cameras[[0, 1, 3]], size=64), scene)
    sightings = lookout.look(torch.zeros(1, 3), torch.tensor([[0.0, -1.0, 0.0]]))
    assert (sightings.weight[:, 0] > 0).tolist() == [True, True, False]
    torch.testing.assert_close(sightings.to_eye[0, 0], torch.tensor([0.0, -1.0, 0.0]), atol=1e-6, rtol=0)
    flat = Lookout.of(photograph(scene, cameras[[0, 1]], size=64), scene)
    grazed = Lookout(
        pictures=flat.pictures,
        worth=flat.worth,
        depth=torch.full_like(flat.depth, 9.0),
        steadiness=flat.steadiness,
        cameras=cameras[[0, 2]],
    ).look(torch.zeros(1, 3), torch.tensor([[0.0, -1.0, 0.0]]))
    assert (grazed.weight[:, 0] > 0).tolist() == [True, False], "5 degrees above the surface are too few"


def test_weights_are_the_cosine_and_the_pixels_of_a_length() -> None:
    """The middle of a plate, far from all outlines: cosine^2 / (2 depth tan(fov / 2))^2."""
    scene = plate(0.0, 0.45, RED)
    near = Cameras.at(elevation_deg=0.0, azimuth_deg=[0.0, 60.0], distance=1.5)
    far = Cameras.at(elevation_deg=0.0, azimuth_deg=0.0, distance=3.0)
    lookout = Lookout.of(photograph(scene, Cameras.cat([near, far]), size=96), scene)
    weight = lookout.look(torch.zeros(1, 3), torch.tensor([[0.0, -1.0, 0.0]])).weight[:, 0]
    across = 2 * 1.5 * math.tan(math.radians(20))
    assert FACING == 2
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.25, 0.25]) / across**2, atol=1e-4, rtol=1e-3)


def test_pixels_at_an_outline_count_little_and_those_that_are_uncertain_less() -> None:
    scene = plate(0.0, 0.3, RED)
    front = Cameras.at(elevation_deg=0.0, azimuth_deg=0.0)
    observed, normals = photograph(scene, front, size=64), torch.tensor([[0.0, -1.0, 0.0]] * 3)
    edge = torch.tensor([[0.0, 0.0, 0.0], [0.27, 0.0, 0.0], [0.294, 0.0, 0.0]])  # a pixel is 0.0195 wide
    inner, near, outer = Lookout.of(observed, scene).look(edge, normals).weight[0].tolist()
    assert 0.8 * inner > near > 5 * outer and outer == pytest.approx(FAINT * inner, rel=0.3)
    foreground = observed.foreground
    doubted = Foreground(
        background=foreground.background, alpha=foreground.alpha, certainty=torch.full_like(foreground.alpha, 0.2)
    )
    doubtful = Lookout.of(Observed(views=observed.views, foreground=doubted), scene).look(edge, normals).weight[0]
    assert float(doubtful[0]) == pytest.approx((FAINT + (1 - FAINT) * 0.2) * inner, rel=1e-3)


def test_points_outside_of_a_picture_or_behind_its_camera_are_not_seen() -> None:
    scene = plate(0.0, 0.45, RED)
    close = Cameras.at(elevation_deg=0.0, azimuth_deg=0.0, distance=0.5)
    lookout = Lookout.of(photograph(scene, Cameras.cat([close, Cameras.orbit(1)]), size=32), scene)
    points = torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, -0.9, 0.0]])
    weight = lookout.look(points, torch.tensor([[0.0, -1.0, 0.0]] * 3)).weight[0]
    assert weight[0] == 0 and weight[1] > 0 and weight[2] == 0


def test_pictures_are_continued_beyond_the_outline_without_their_ground() -> None:
    rgb = torch.full((1, 3, 1, 5), 0.5)
    rgb[0, :, 0, 0], rgb[0, :, 0, 1] = RED, 0.6 * RED + 0.4 * 0.5
    alpha = torch.tensor([1.0, 0.6, 0.3, 0.0, 0.0]).reshape(1, 1, 1, 5)
    own = _own_color(rgb, alpha, torch.full((1, 3), 0.5))
    torch.testing.assert_close(own[0, :, 0].T, RED.expand(5, 3))


def test_depth_is_steady_on_a_slope_and_not_beside_a_step() -> None:
    """Ten samples a pixel: a third of the steadiness is lost within 5, 10 and 15 samples of the step."""
    slope = (1 + 0.01 * torch.arange(100.0)).expand(1, 1, 100, 100)
    assert float(_steadiness(slope, pixel=10).min()) == 1
    step = torch.where(torch.arange(100) < 50, slope, slope + 0.1)
    steady = _steadiness(step, pixel=10)[0, 0, 50]
    assert [round(float(steady[50 + k]), 2) for k in (3, 8, 13, 18)] == [0, 0.33, 0.67, 1]
    assert [round(float(steady[49 - k]), 2) for k in (3, 8, 13, 18)] == [0, 0.33, 0.67, 1]
    lower = _steadiness(step.mT, pixel=10)[0, 0, :, 50]
    assert torch.equal(lower, steady)
    outline = _steadiness(torch.where(torch.arange(100) < 50, slope, torch.zeros(())), pixel=10)[0, 0, 50]
    assert outline[46] == 0 and outline[20] == 1


def test_a_view_that_disagrees_is_outvoted() -> None:
    color = torch.stack([RED, RED + 0.02, RED - 0.02, BLUE])[:, None]
    mean = agree(color, torch.tensor([1.0, 1.0, 1.0, 1.5])[:, None])
    torch.testing.assert_close(mean[0], RED, atol=0.01, rtol=0)


def test_more_than_half_is_believed_though_the_others_lie_nearer_to_the_mean() -> None:
    color = torch.tensor([0.9, 0.9, 0.3, 0.1]).reshape(4, 1, 1).expand(4, 1, 3)
    mean = agree(color, torch.tensor([1.1, 1.1, 1.0, 1.0])[:, None])
    assert mean[0].tolist() == pytest.approx([0.9] * 3, abs=0.02)


def test_two_views_that_nearly_agree_are_averaged_by_their_weight() -> None:
    """At the fixed point of m = sum u c / sum u; worked here by iterating it in floats from the heavier colour."""
    a, b, m = 0.5, 0.53, 0.5
    for _ in range(50):
        u, w = 3 / (1 + 3 * (a - m) ** 2 / TOLERANCE**2) ** 2, 1 / (1 + 3 * (b - m) ** 2 / TOLERANCE**2) ** 2
        m = (u * a + w * b) / (u + w)
    color = torch.tensor([a, b]).reshape(2, 1, 1).expand(2, 1, 3)
    mean = agree(color, torch.tensor([[3.0], [1.0]]))
    assert mean[0].tolist() == pytest.approx([m] * 3, abs=1e-4)
    assert a < m < 0.5075, "less than the plain mean, for the lighter view counts less"


def test_what_nobody_sees_is_black_and_finite() -> None:
    assert torch.equal(agree(torch.rand(3, 2, 3), torch.zeros(3, 2)), torch.zeros(2, 3))
