"""Signed distances: sections that add up, a slow renderer that agrees, true distances, and the level zero as a mesh."""

from __future__ import annotations

import math

import pytest
import torch
from lift_fakes import ball_views
from second_device import on, second_device
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.scene.distance import curvature, distance_to_border, eikonal
from viewfold.scene.field import BOX_RADIUS, lattice
from viewfold.scene.sdf import SdfSettings, SignedDistanceGrid
from viewfold.scene.section import render_sections, section_depth
from viewfold.scene.volume import SCENE_RADIUS, composite, intersect_sphere

RADIUS = 0.35
CAMERAS = Cameras.orbit(2, elevation_deg=20)


def ball(resolution: int = 32, *, radius: float = RADIUS, sharpness: float = 3.0) -> SignedDistanceGrid:
    """A true distance to a sphere; red where x is positive, blue elsewhere."""
    points = lattice(resolution)
    shape = (1, -1, resolution, resolution, resolution)
    color = torch.where(points[:, :1] > 0, torch.tensor([4.0, -4, -4]), torch.tensor([-4.0, -4, 4])).T.reshape(shape)
    distance = (points.norm(dim=-1) - radius).reshape(shape)
    settings = SdfSettings(resolution=resolution, samples=resolution, sharpness=sharpness)
    return SignedDistanceGrid(distance, color.contiguous(), settings=settings)


def lumps(resolution: int = 12) -> SignedDistanceGrid:
    """No distance at all: random values that rays cross many times."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1, 4, resolution, resolution, resolution, generator=generator)
    settings = SdfSettings(resolution=resolution, samples=16, sharpness=1.0)
    return SignedDistanceGrid(0.1 * values[:, :1], values[:, 1:], settings=settings)


# Sections -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_sections", [2, 7, 500])
def test_the_weights_of_a_plane_add_up_and_peak_at_its_surface(n_sections: int) -> None:
    """alpha = 1 - Phi(last) / Phi(first), however the way is cut: the distance falls from 0.2 to -0.3."""
    distance = torch.linspace(0.2, -0.3, n_sections + 1, dtype=torch.float64)
    weight, _ = composite(section_depth(distance[:-1], distance[1:], 40.0)[None], 1.0)
    phi = [1 / (1 + math.exp(-40 * x)) for x in (0.2, -0.3)]
    assert float(weight.sum()) == pytest.approx(1 - phi[1] / phi[0], rel=1e-9)
    if n_sections > 2:
        assert abs(float(distance[int(weight.argmax())])) < 0.5 / n_sections + 1e-9
    if n_sections == 500:  # half of the way is at -0.05
        assert float(weight[0, :250].sum()) == pytest.approx(1 - 1 / (1 + math.exp(2)) / phi[0], rel=1e-9)


def test_an_opacity_by_hand_and_none_where_the_distance_rises() -> None:
    """s = 10, from 0.1 to 0: (Phi(1) - Phi(0)) / Phi(1) = (0.731059 - 0.5) / 0.731059."""
    depth = section_depth(torch.tensor([0.1, 0.0, -50.0]), torch.tensor([0.0, 0.1, -51.0]), 10.0)
    assert float(-torch.expm1(-depth[0])) == pytest.approx(0.316060, abs=1e-5)
    assert float(depth[1]) == 0 and float(depth[2]) == pytest.approx(10.0), "deep inside nothing overflows"


def slow_render(field: SignedDistanceGrid, cameras: Cameras, *, size: int, n_sections: int) -> Tensor:
    """Equation 13 section by section: no packing, nothing dropped, alpha rather than its logarithm."""
    origins, directions = (x.reshape(-1, 3) for x in cameras.rays(size))
    near, far = intersect_sphere(origins, directions)
    delta, s = 2 * SCENE_RADIUS / n_sections, field.sharpness
    forward = -cameras.world_from_camera[:, :3, 2].repeat_interleave(size * size, dim=0)
    rows = []
    for o, d, first, last, axis in zip(origins, directions, near, far, forward, strict=True):
        light, total, phi_before = torch.ones(()), torch.zeros(5), torch.ones(())
        for i in range(n_sections + 1):
            start = first + i * delta
            if not (first < last and start < last):
                break
            f = field.distance(torch.stack([o + start * d, o + (start + delta) * d]))
            phi = torch.sigmoid(s * f)
            phi_before = phi[0] if i > 0 else torch.ones(())
            alpha = ((phi_before - phi[1]) / phi_before).clamp(min=0)
            share = float((f[0] / (f[0] - f[1])).detach().clamp(0, 1)) if f[0] > f[1] else 0.0
            where = start + share * delta
            seen = torch.cat([field.color((o + where * d)[None])[0], torch.ones(1), (where * (d @ axis))[None]])
            total, light = total + light * alpha * seen, light * (1 - alpha)
        rows.append(torch.cat([total[:4], total[4:] / total[3:4].clamp(min=1e-6)]))
    return torch.stack(rows).reshape(len(cameras), size, size, 5).permute(0, 3, 1, 2)


@pytest.mark.parametrize("made", [ball(12), lumps()], ids=["ball", "lumps"])
def test_the_packed_renderer_is_the_slow_one_and_so_are_its_gradients(made: SignedDistanceGrid) -> None:
    slow = slow_render(made, CAMERAS, size=5, n_sections=16)
    fast = render_sections(made, CAMERAS, sharpness=made.sharpness, size=5, n_sections=16)
    pictures = torch.cat([fast.rgb, fast.alpha, fast.depth], dim=1)
    torch.testing.assert_close(pictures[:, :4], slow[:, :4], atol=3e-3, rtol=0)
    seen = slow[:, 3] > 0.1
    torch.testing.assert_close(pictures[:, 4][seen], slow[:, 4][seen], atol=5e-3, rtol=0)
    weight = torch.randn(slow[:, :4].shape, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((slow[:, :4] * weight).sum(), list(made.parameters()))
    found = torch.autograd.grad((pictures[:, :4] * weight).sum(), list(made.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) < 0.02 * float(b.norm())


def test_few_sections_draw_a_sharp_surface_as_well_as_many_and_wherever_they_begin() -> None:
    """A density as sharp as this would slip between ten samples; what a ray enters and leaves between two may be."""
    made = ball(48, sharpness=12.0)
    many = made.render(CAMERAS, size=24, quality=4.0)
    for generator in (None, torch.Generator().manual_seed(0)):
        few = render_sections(made, CAMERAS, sharpness=made.sharpness, size=24, n_sections=12, generator=generator)
        apart = (few.alpha - many.alpha).detach().abs()
        assert float(apart.mean()) < 0.01 and float((apart > 0.2).float().mean()) < 0.03
        covered = many.alpha > 0.99
        assert float((few.depth - many.depth).detach().abs()[covered & (few.alpha > 0.99)].mean()) < 0.01


def test_a_ball_has_the_depth_the_normals_and_the_outline_of_a_sphere() -> None:
    made, size = ball(48, sharpness=8.0), 33
    made.refresh()
    seen = made.render(CAMERAS, size=size, quality=2.0, normals=True)
    origins, directions = CAMERAS.rays(size)
    along = -(origins * directions).sum(dim=-1)
    gap = RADIUS**2 - (origins + along[..., None] * directions).square().sum(dim=-1)
    hit = gap > 0.1 * RADIUS**2
    point = origins + (along - gap.clamp(min=0).sqrt())[..., None] * directions
    axis = -CAMERAS.world_from_camera[:, None, None, :3, 2]
    depth = ((point - origins) * axis).sum(dim=-1)
    assert float((seen.depth[:, 0] - depth).detach().abs()[hit].max()) < 0.01
    cosine = (seen.normal.movedim(1, -1) * point / RADIUS).sum(dim=-1).detach()
    assert float(cosine[hit].min()) > 0.98
    closest = RADIUS - (RADIUS**2 - gap).sqrt()  # a ray absorbs 1 - Phi(its least distance)
    torch.testing.assert_close(seen.alpha[:, 0], torch.sigmoid(made.sharpness.detach() * closest), atol=0.05, rtol=0)
    assert seen.samples is not None and seen.samples.n_rays <= int((gap > -0.1).sum())
    torch.testing.assert_close(seen.samples.weight.sum(), seen.alpha.sum())
    assert bool((made.render(CAMERAS, size=8).normal == 0).all())


def test_red_is_right_and_blue_is_left() -> None:
    picture = ball().render(Cameras.orbit(1), size=16).rgb[0]
    assert picture[:, 8, 12].argmax() == 0 and picture[:, 8, 3].argmax() == 2


def test_what_the_scene_cuts_is_closed() -> None:
    """All of space is inside: what the sphere of the scene covers is opaque, and not a hole."""
    made = ball(16)
    with torch.no_grad():
        made.signed_distance.fill_(-0.5)
    origins, directions = (x.reshape(-1, 3) for x in CAMERAS.rays(16))
    near, far = intersect_sphere(origins, directions)
    made.refresh()
    alpha = made.render(CAMERAS, size=16).alpha.detach().flatten()
    assert float(alpha[far > near].min()) > 0.99 and float(alpha[far <= near].max()) == 0


def test_empty_cells_are_passed_over_and_hardly_change_a_picture() -> None:
    made = ball(48)
    everywhere = made.render(CAMERAS, size=24)
    made.refresh()
    skipped = made.render(CAMERAS, size=24)
    assert 0.14 < float(made.occupied.float().mean()) < 0.33, "the ball has 0.135"
    torch.testing.assert_close(skipped.rgb, everywhere.rgb, atol=0.01, rtol=0)
    assert all(b.device.type == "meta" for b in made.to("meta").buffers()) and "occupied" not in made.state_dict()


def test_a_thin_plate_is_not_skipped_whatever_the_sections() -> None:
    """One node deep, and sections three times as long as a cell: their middles lie beside it."""
    made = ball(64)
    made.settings = SdfSettings(resolution=64, samples=16)
    points = lattice(64).reshape(64, 64, 64, 3)
    with torch.no_grad():
        made.signed_distance[0, 0] = torch.maximum(points[..., 1].abs() - 0.012, points.abs().amax(dim=-1) - 0.3)
    without = made.render(Cameras.orbit(1), size=16).alpha.detach()
    made.refresh()
    torch.testing.assert_close(made.render(Cameras.orbit(1), size=16).alpha, without, atol=0.01, rtol=0)
    assert float(without[0, 0, 8, 8]) > 0.5


# Distances ------------------------------------------------------------------------------------------------------------


def test_the_distance_of_half_a_space_by_hand() -> None:
    inside = torch.zeros(6, 6, 6, dtype=torch.bool)
    inside[:, :, :2] = True
    voxel = 2 * BOX_RADIUS / 5
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 3.5]) * voxel
    torch.testing.assert_close(distance_to_border(inside), expected.expand(6, 6, 6))
    assert bool((distance_to_border(inside & False) == 2 * BOX_RADIUS).all())
    assert bool((distance_to_border(inside | True) == -2 * BOX_RADIUS).all())


def test_a_true_distance_has_slope_one_and_the_curvature_of_a_sphere() -> None:
    made = ball(64)
    values, near = made.signed_distance[0, 0], 3 * made.voxel
    assert float(eikonal(values, voxel=made.voxel, within=near).detach()) < 1e-5
    expected = 2 / RADIUS * made.voxel  # of nodes on both sides of the surface
    assert float(curvature(values, voxel=made.voxel, within=near).detach()) == pytest.approx(expected, rel=0.03)
    assert float(made.prior_loss().detach()) < 0.003


@pytest.mark.parametrize("normal", [(1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (2.0, -1.0, 2.0)])
def test_a_plane_is_flat_and_as_steep_as_its_slope(normal: tuple[float, float, float]) -> None:
    values = (lattice(10) @ torch.tensor(normal)).reshape(10, 10, 10)
    voxel = 2 * BOX_RADIUS / 9
    steep = math.hypot(*normal) - 1
    assert float(eikonal(values, voxel=voxel, within=0.3)) == pytest.approx(steep**2, abs=1e-5)
    assert float(curvature(values, voxel=voxel, within=0.3)) == pytest.approx(0, abs=1e-5)


def test_only_the_neighbourhood_of_the_surface_counts_but_nan_anywhere() -> None:
    values = (lattice(10)[:, 0]).reshape(10, 10, 10).clone()
    values[:, :, 8:] += 5.0
    assert float(eikonal(values, voxel=2 * BOX_RADIUS / 9, within=0.3)) == pytest.approx(0, abs=1e-5)
    values[0, 0, 9] = float("nan")
    assert math.isnan(float(eikonal(values, voxel=0.1, within=0.3)))


def test_descending_the_prior_makes_a_distance_of_what_is_none() -> None:
    """Three times too steep; the surface moves by less than a voxel."""
    made = ball(24)
    made.settings = SdfSettings(resolution=24, curvature_weight=0.0)  # which would shrink it
    with torch.no_grad():
        made.signed_distance.mul_(3.0)
    optimizer = torch.optim.Adam(made.groups(0.3))
    start = float(made.prior_loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        made.prior_loss().backward()
        optimizer.step()
    assert float(made.prior_loss().detach()) < 0.1 * start
    radius = made.to_mesh(resolution=32, max_faces=10**5).mesh.vertices.norm(dim=-1)
    assert float(radius.mean()) == pytest.approx(RADIUS, abs=made.voxel)


# The grid -------------------------------------------------------------------------------------------------------------


def test_a_sphere_is_found_within_two_hundredths_of_a_voxel() -> None:
    made = ball(48)
    surface = made.to_mesh(resolution=48, max_faces=10**6)
    radius = surface.mesh.vertices.norm(dim=-1)
    assert float((radius - RADIUS).abs().mean()) < 0.02 * made.voxel
    assert surface.watertight and surface.components_found == 1 and surface.threshold == 0
    assert surface.silhouette_iou > 0.97
    a, b, c = surface.mesh.vertices[surface.mesh.faces].double().unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
    assert volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.005)
    assert len(ball(24).to_mesh(resolution=24, max_faces=200).mesh.faces) <= 200


def test_what_touches_the_border_of_the_box_is_closed_there() -> None:
    made = ball(24, radius=0.75)
    surface = made.to_mesh(resolution=24, max_faces=10**5)
    assert surface.watertight and float(surface.mesh.vertices.abs().max()) < BOX_RADIUS + 1.01 * made.voxel


def test_an_empty_or_broken_distance_has_no_mesh() -> None:
    made = ball(12)
    with pytest.raises(InputError, match="`resolution` must lie between 8 and 512"):
        made.to_mesh(resolution=4000, max_faces=100)
    for value, message in ((0.1, "its least is 0.100"), (float("nan"), "it holds NaN")):
        with torch.no_grad():
            made.signed_distance.fill_(value)
        with pytest.raises(FitError, match=message):
            made.to_mesh(resolution=16, max_faces=100)


def test_colour_is_that_of_the_surface_under_a_point_beside_it() -> None:
    """Each node has the hue of its distance: points a voxel off the surface still see the surface's."""
    made = ball(32)
    with torch.no_grad():
        made.color_logit[:, :1] = 20 * made.signed_distance
        made.color_logit[:, 1:] = 0
    directions = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=-1, keepdim=True)
    for off in (-0.03, 0.0, 0.03):
        seen = made.surface_color((RADIUS + off) * directions, directions)
        torch.testing.assert_close(seen, torch.full_like(seen, 0.5), atol=0.02, rtol=0)


def test_detail_halves_nodes_and_sections_and_the_surface_gets_sharper_with_the_nodes() -> None:
    made = SdfSettings(resolution=32, samples=32).begin(
        lambda p: ((p.norm(dim=-1) < RADIUS).float(), p * 0), detail=0.5
    )
    sharp = float(made.sharpness.detach())
    assert made.resolution == 16 and made._sections(1.0) == 16 and made._sections(2.0) == 32
    assert sharp == pytest.approx(3.0 / made.voxel)
    made.set_detail(1.0)
    assert made.resolution == 32 and made._sections(1.0) == 32
    assert float(made.sharpness.detach()) == pytest.approx(sharp * 31 / 15)
    made.set_detail(0.01)
    assert made.resolution == 8, "no coarser than eight nodes"


def test_rates_are_in_voxels_and_a_clamp_keeps_what_can_be_undone() -> None:
    made = ball(13)  # a voxel is 0.1
    assert [group["lr"] for group in made.groups(0.5)] == pytest.approx([0.05, 0.5, 0.05])
    with torch.no_grad():
        made.log_sharpness.fill_(9.0)
        made.signed_distance[0, 0, 0, 0, :2] = torch.tensor([-9.0, 9.0])
    made.constrain()
    assert float(made.log_sharpness.exp().detach()) == pytest.approx(20.0)
    assert made.signed_distance[0, 0, 0, 0, :2].tolist() == pytest.approx([-1.2, 1.2])


def test_numbers_out_of_range_are_refused() -> None:
    for name, value in (("samples", 4), ("sharpness", 50.0), ("resolution", 1000)):
        with pytest.raises(InputError, match=f"`{name}` must lie between"):
            SdfSettings(**{name: value})
    with pytest.raises(InputError, match="`size` must lie between"):
        ball(12).render(CAMERAS, size=0)
    with pytest.raises(InputError, match="`n_sections` must lie between"):
        render_sections(ball(12), CAMERAS, sharpness=9.0, size=4, n_sections=1)


@pytest.mark.slow
def test_it_is_fitted_and_meshed_on_a_second_device_as_here() -> None:
    settings = SdfSettings(resolution=16, samples=16)

    def run(device: torch.device) -> SignedDistanceGrid:
        fitted = fit(
            observe(ball_views().to(device)),
            representation=settings,
            settings=FitSettings(steps=12),
            generator=torch.Generator().manual_seed(0),
        )
        made = fitted.representation
        assert isinstance(made, SignedDistanceGrid) and on(device, made)
        made.restore(made.snapshot())
        assert on(device, [made.surface_color(*(torch.ones(2, 3, device=device) / 3,) * 2), made.occupied])
        assert on(torch.device("cpu"), made.to_mesh(resolution=16, max_faces=200).mesh.vertices)
        normals = made.render(CAMERAS.to(device), size=8, normals=True)
        assert on(device, [normals.rgb, normals.normal])
        return made

    here = run(torch.device("cpu"))
    with second_device() as device:
        there = run(device)
        for a, b in zip(there.snapshot(), here.snapshot(), strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=0.02, rtol=0)
