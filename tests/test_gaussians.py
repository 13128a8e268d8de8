"""3D Gaussians: a closed form, a slow rasteriser that agrees in values and gradients, and a cloud that is fitted."""

from __future__ import annotations

import math

import pytest
import torch
from clouds import NUMBERS, cloud
from lift_fakes import RADIUS, ball, ball_views
from second_device import on, second_device
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.scene.field import lattice
from viewfold.scene.gaussian import tiles
from viewfold.scene.gaussian.cloud import C0, C1, Gaussians
from viewfold.scene.gaussian.cuda import draw_with_gsplat, has_gsplat
from viewfold.scene.gaussian.field import THINNEST, CloudField
from viewfold.scene.gaussian.projection import LOW_PASS, project
from viewfold.scene.gaussian.reference import draw_slowly
from viewfold.scene.gaussian.tiles import draw_gaussians
from viewfold.scene.gaussians import GaussianCloud, GaussianSettings
from viewfold.scene.grid import GridSettings
from viewfold.scene.rendering import Rendering
from viewfold.scene.surface import OPACITY_STEP
from viewfold.views import Views

CAMERAS = Cameras.orbit(2, elevation_deg=20)


def single(**numbers: list[float]) -> Gaussians:
    """One grey Gaussian at the origin, as wide as 0.1 and quite opaque, but for what is given."""
    usual = {"mean": [0.0, 0, 0], "log_scale": [math.log(0.1)] * 3, "rotation": [1.0, 0, 0, 0], "opacity_logit": 0.0}
    made = {name: torch.tensor([value]) for name, value in {**usual, **numbers}.items()}
    return Gaussians(sh=torch.zeros(1, 1, 3), **made)


def strange() -> Gaussians:
    """The usual ones, and one each: behind the camera, across its plane, huge, tiny, outside, faint, not finite."""
    at = CAMERAS.position[0]
    odd = [
        single(mean=(1.5 * at).tolist()),
        single(mean=(at - 0.005 * at / at.norm()).tolist()),
        single(mean=(0.97 * at + torch.tensor([0.05, 0, 0])).tolist(), log_scale=[math.log(0.02)] * 3),
        single(log_scale=[math.log(3.0)] * 3, opacity_logit=-2.0),
        single(log_scale=[math.log(2.0), math.log(1e-4), math.log(1e-4)], rotation=[0.9, 0.1, 0.4, 0.2]),
        single(log_scale=[math.log(1e-5)] * 3, mean=[0.1, 0, 0.1]),
        single(mean=[0.62, 0.1, 0.1]),
        single(mean=[30.0, 0.1, 0.1]),
        single(opacity_logit=-20.0),
        single(opacity_logit=20.0, mean=[0.0, 0.2, -0.1]),
    ]
    usual = cloud(30, degree=0)
    return Gaussians(**{n: torch.cat([getattr(g, n) for g in (usual, *odd)]) for n in NUMBERS})


def gradients(drawn: Rendering, of: Gaussians) -> dict[str, Tensor]:
    """Of a sum of all pixels with weights of their own."""
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (
            (torch.randn(picture.shape, generator=generator).to(picture) * picture).sum()
            for picture in (drawn.rgb, drawn.alpha, drawn.depth * drawn.alpha, drawn.normal)
        ),
        torch.zeros(()),
    )
    found = torch.autograd.grad(total, [getattr(of, name) for name in NUMBERS])
    return dict(zip(NUMBERS, found, strict=True))


def learned(gaussians: Gaussians) -> Gaussians:
    return Gaussians(**{name: getattr(gaussians, name).detach().clone().requires_grad_() for name in NUMBERS})


# Drawing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [draw_slowly, draw_gaussians])
def test_a_round_one_on_the_axis_is_drawn_as_its_formula_says(draw) -> None:
    """alpha = opacity exp(-r^2 / (2 sigma^2)), with sigma = 0.1 focal / distance pixels and the low pass."""
    camera = Cameras.orbit(1, fov_deg=50, distance=2.0)
    size = 33
    drawn = draw(single(opacity_logit=1.0), camera, size=size)
    focal = size / 2 / math.tan(math.radians(25))
    variance = (0.1 * focal / 2.0) ** 2 + LOW_PASS
    at = torch.arange(size) - 16.0
    squared = at[:, None] ** 2 + at**2
    expected = torch.tensor(1.0).sigmoid() * torch.exp(-squared / (2 * variance))
    expected = torch.where(expected < 1 / 255, 0.0, expected)
    torch.testing.assert_close(drawn.alpha[0, 0], expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(drawn.rgb[0], 0.5 * drawn.alpha[0].expand(3, -1, -1), atol=1e-6, rtol=0)
    covered = drawn.alpha[0, 0] > 0
    torch.testing.assert_close(drawn.depth[0, 0][covered], torch.full([int(covered.sum())], 2.0), atol=1e-4, rtol=0)
    assert 0 < int(covered.sum()) < size**2


def test_the_nearer_hides_the_farther_whatever_their_order() -> None:
    near, far = single(mean=[0.0, -0.3, 0], opacity_logit=2.0), single(mean=[0.0, 0.3, 0], opacity_logit=2.0)
    white = Gaussians(**{n: getattr(far, n) if n != "sh" else torch.full((1, 1, 3), 0.5 / C0) for n in NUMBERS})
    camera, share = Cameras.orbit(1, elevation_deg=0), float(torch.tensor(2.0).sigmoid())
    for pair in ((near, white), (white, near)):
        both = Gaussians(**{n: torch.cat([getattr(g, n) for g in pair]) for n in NUMBERS})
        middle = draw_gaussians(both, camera, size=65).rgb[0, 0, 32, 32]
        assert float(middle) == pytest.approx(share * 0.5 + (1 - share) * share, abs=2e-4)


def test_a_colour_depends_on_the_side_as_released_files_have_it() -> None:
    made = single()
    made = Gaussians(**{n: getattr(made, n) for n in NUMBERS if n != "sh"}, sh=torch.zeros(1, 4, 3))
    made.sh[0, 3, 0] = -0.4  # grows with x of the direction of sight
    from_left, from_right = (
        draw_gaussians(made, Cameras.orbit(1, elevation_deg=0, azimuth_deg=a), size=9) for a in (270.0, 90.0)
    )
    for drawn, sign in ((from_left, 1), (from_right, -1)):
        color = drawn.rgb[0, :, 4, 4] / drawn.alpha[0, 0, 4, 4]
        torch.testing.assert_close(color, torch.tensor([0.5 + sign * 0.4 * C1, 0.5, 0.5]), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="`sh` must hold 1 coefficient"):
        Gaussians(**{n: getattr(made, n) for n in NUMBERS if n != "sh"}, sh=torch.zeros(1, 9, 3))


@pytest.mark.parametrize("kind", ["usual", "strange", "large", "small"])
def test_the_fast_one_draws_what_the_slow_one_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In values and in the gradient of every number; at a size that no tile divides, in small portions."""
    made = {"strange": strange(), "large": cloud(3, size=1.0), "small": cloud(size=0.004)}.get(kind, cloud())
    monkeypatch.setattr(tiles, "AT_ONCE", 2000)
    fast, slow = learned(made), learned(made.double())
    drawn, expected = (
        draw(of, CAMERAS, size=21, normals=True) for draw, of in ((draw_gaussians, fast), (draw_slowly, slow))
    )
    for name in ("rgb", "alpha", "normal"):
        torch.testing.assert_close(getattr(drawn, name).double(), getattr(expected, name), atol=3e-5, rtol=0)
    depths = ((r.depth * r.alpha).double() for r in (drawn, expected))
    torch.testing.assert_close(*depths, atol=1e-4, rtol=0)
    assert float(expected.alpha.detach().max()) > 0.1
    truth = gradients(expected, slow)
    for name, found in gradients(drawn, fast).items():
        scale = float(truth[name].abs().max())
        torch.testing.assert_close(found.double(), truth[name], atol=2e-4 * scale, rtol=2e-3, msg=name)


def test_portions_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cloud()
    whole = draw_gaussians(made, CAMERAS, size=24).rgb
    for name, value in (("AT_ONCE", 1), ("TILE", 16)):
        monkeypatch.setattr(tiles, name, value)
        torch.testing.assert_close(draw_gaussians(made, CAMERAS, size=24).rgb, whole, atol=1e-5, rtol=0)


def test_what_touches_no_tile_is_not_asked_there() -> None:
    """A small one on a large picture costs its own tiles: the bound is of the ellipse at 1/255."""
    splats = project(single(log_scale=[math.log(0.02)] * 3), Cameras.orbit(1), size=256)
    _, tile, _, count = tiles._pairs(splats, 32)
    assert 4 <= len(tile) <= 16 and count.tolist() == [1] * len(tile)
    reach = float(splats.reach[0, 0, 0])
    sigma = 1 / math.sqrt(float(splats.conic[0, 0, 0]))
    assert reach == pytest.approx(sigma * math.sqrt(2 * math.log(255 * 0.5)), rel=1e-5)


def test_nothing_in_sight_is_an_empty_picture_and_sizes_are_checked() -> None:
    drawn = draw_gaussians(single(mean=[0.0, -9, 0]), Cameras.orbit(1), size=8, normals=True)
    assert all(not bool(p.any()) for p in (drawn.rgb, drawn.alpha, drawn.depth, drawn.normal))
    with pytest.raises(InputError, match="`size` must lie between 1 and 4096"):
        draw_gaussians(single(), CAMERAS, size=0)


def test_a_disc_faces_the_camera_with_its_shortest_axis() -> None:
    disc = single(log_scale=[math.log(0.2), math.log(0.01), math.log(0.2)])
    for azimuth, y in ((0.0, -1.0), (180.0, 1.0)):
        drawn = draw_gaussians(disc, Cameras.orbit(1, elevation_deg=0, azimuth_deg=azimuth), size=9, normals=True)
        normal = drawn.normal[0, :, 4, 4] / drawn.alpha[0, 0, 4, 4]
        torch.testing.assert_close(normal, torch.tensor([0.0, y, 0.0]), atol=1e-4, rtol=0)


@pytest.mark.skipif(not (torch.cuda.is_available() and has_gsplat()), reason="needs gsplat and CUDA")
def test_gsplat_draws_the_same() -> None:
    made = cloud(degree=0)
    there = Gaussians(**{name: getattr(made, name).cuda() for name in NUMBERS})
    drawn = draw_with_gsplat(there, CAMERAS.to("cuda"), size=48, normals=True).to("cpu")
    expected = draw_gaussians(made, CAMERAS, size=48, normals=True)
    for name in ("rgb", "alpha", "normal"):
        assert float((getattr(drawn, name) - getattr(expected, name)).abs().mean()) < 0.01


# In space -------------------------------------------------------------------------------------------------------------


def test_the_sum_in_space_is_that_of_the_formula_at_the_nodes() -> None:
    made = cloud(12, size=0.08)
    n = 17
    spacing = 1.2 / (n - 1)
    density, color = CloudField(made, resolution=n)(lattice(n))
    away = (lattice(n)[:, None] - made.mean).double()
    inverse = torch.linalg.inv(made.covariance().double() + (THINNEST * spacing) ** 2 * torch.eye(3))
    squared = torch.einsum("pgi,gij,pgj->pg", away, inverse, away)
    weight = made.opacity() * torch.exp(-squared / 2)
    torch.testing.assert_close(density * OPACITY_STEP, weight.sum(1).float(), atol=0.012 * 12 / 4, rtol=0)
    strong = weight.sum(1) > 0.2
    expected = (weight[..., None] * made.color()[0]).sum(1) / weight.sum(1)[:, None]
    torch.testing.assert_close(color[strong], expected[strong].float(), atol=0.05, rtol=0)


def test_a_filled_ball_becomes_a_closed_mesh_of_its_size() -> None:
    def solid(points: Tensor) -> tuple[Tensor, Tensor]:
        return (points.norm(dim=-1) < RADIUS).float(), torch.full_like(points, 0.5)

    surface = GaussianSettings(resolution=24).begin(solid).to_mesh(resolution=40, max_faces=2000)
    assert surface.watertight and surface.components_kept == 1 and surface.silhouette_iou > 0.95
    radius = surface.mesh.vertices.norm(dim=1)
    assert float(radius.mean()) == pytest.approx(RADIUS, abs=0.04) and float(radius.std()) < 0.02


# Fitting --------------------------------------------------------------------------------------------------------------


def unseen(made) -> float:
    """PSNR over grey, from sides that no view was taken from."""
    cameras = Cameras.orbit(6, elevation_deg=[20.0, 50.0] * 3, azimuth_deg=13.0)
    truth = ball(cameras, size=48)[0]
    with torch.no_grad():
        return float(-10 * (made.render(cameras, size=48).over(0.5) - truth).square().mean().log10())


@pytest.mark.slow
def test_a_ball_is_fitted_about_as_well_as_by_a_grid() -> None:
    """Sixteen views: within 2 dB of the dense grid at unseen sides, and of more Gaussians than it began with."""
    cameras = Cameras.orbit(16, elevation_deg=[5.0, 30.0] * 8)
    rgb, alpha = ball(cameras, size=48)
    observed = observe(Views(rgb=rgb, alpha=alpha, cameras=cameras))
    found = {}
    for settings in (GridSettings(resolution=48), GaussianSettings(resolution=32)):
        made = fit(observed, representation=settings, generator=torch.Generator().manual_seed(0)).representation
        found[settings.kind] = unseen(made)
    assert found["gaussians"] > found["grid"] - 2.0 and found["gaussians"] > 24.0
    assert isinstance(made, GaussianCloud) and made.spacing < 1.2 / 15 and made.is_finite()


def test_more_detail_splits_what_was_pulled_at_and_drops_what_is_transparent() -> None:
    made = GaussianSettings(resolution=16, most=10).begin(
        lambda p: (torch.ones(len(p)), torch.rand_like(p)), detail=0.5
    )
    assert len(made.mean) <= 10
    few = GaussianCloud(
        mean=torch.zeros(4, 3),
        log_scale=torch.tensor([0.1, 0.2, 0.1]).log().expand(4, 3).clone(),
        rotation=torch.tensor([[1.0, 0, 0, 0]] * 4),
        opacity_logit=torch.tensor([1.0, 1, -8, 1]),
        color_logit=torch.zeros(4, 3),
    )
    few.detail = 0.5
    few.mean.grad = torch.tensor([[0.0, 0, 0], [0, 0, 2], [1, 0, 0], [0, 1, 0]])
    few.refresh()
    old = few.mean
    few.set_detail(0.7)  # one round, for (0.7 / 0.5)^2 is 2
    assert few.mean is not old and len(few.mean) == 5, "one dropped, two split, one left alone"
    torch.testing.assert_close(few.mean[:3, 1].detach(), torch.tensor([0.0, 0.1, 0.1]))
    torch.testing.assert_close(few.mean[3:, 1].detach(), torch.tensor([-0.1, -0.1]))
    assert float(few.log_scale[1, 1].exp().detach()) == pytest.approx(0.2 / 1.6)
    few.set_detail(1.0)
    assert len(few.mean) == 5, "nothing has pulled since"


def test_two_halves_look_about_like_the_whole() -> None:
    whole = single(log_scale=[math.log(0.2), math.log(0.05), math.log(0.05)], opacity_logit=2.0)
    numbers = [whole.mean, whole.log_scale, whole.rotation, whole.opacity_logit, torch.zeros(1, 3)]
    made = GaussianCloud(
        mean=numbers[0], log_scale=numbers[1], rotation=numbers[2], opacity_logit=numbers[3], color_logit=numbers[4]
    )
    before = made.render(CAMERAS, size=32).alpha.detach()
    made.detail, made.pulled = 0.5, torch.ones(1)
    made.set_detail(0.7)
    assert len(made.mean) == 2
    assert float((made.render(CAMERAS, size=32).alpha.detach() - before).abs().max()) < 0.2


def test_sizes_are_kept_and_settings_are_checked() -> None:
    made = GaussianSettings(resolution=16).begin(lambda p: (torch.zeros(len(p)), torch.rand_like(p)))
    assert len(made.mean) == 1, "of nothing at all, the likeliest place"
    plain = float(made.prior_loss().detach())
    with torch.no_grad():
        made.log_scale[0] = torch.tensor([5.0, -20.0, -20.0])
        made.mean[0, 0], made.opacity_logit[0] = 7.0, 90.0
    assert plain == 0 and float(made.prior_loss().detach()) > 0.1
    made.constrain()
    assert float(made.log_scale.max().detach()) < 0 and float(made.mean.max().detach()) < 0.7
    assert len(made.export()) == 1 and float(made.export().opacity()) < 1
    with torch.no_grad():
        made.opacity_logit.fill_(-6.0)
    assert len(made.export()) == 0
    with torch.no_grad():
        made.mean.fill_(float("nan"))
    with pytest.raises(FitError, match="must be finite"):
        made.to_mesh(resolution=16, max_faces=100)
    for wrong in ({"resolution": 4}, {"most": 0}, {"opacity": 1.0}):
        with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must lie between"):
            GaussianSettings(**wrong)


def test_it_is_fitted_and_meshed_on_a_second_device_as_here() -> None:
    settings = GaussianSettings(resolution=16)

    def fitted(views: Views) -> GaussianCloud:
        made = fit(observe(views), representation=settings, settings=FitSettings(steps=4)).representation
        assert isinstance(made, GaussianCloud)
        return made

    torch.manual_seed(0)
    here = fitted(ball_views(size=16))
    with second_device() as device:
        torch.manual_seed(0)
        there = fitted(ball_views(size=16).to(device))
        assert on(device, there) and there.device == device
        drawn = there.render(CAMERAS.to(device), size=12, normals=True)
        assert on(device, [drawn.rgb, drawn.normal])
        assert on(device, there.surface_color(torch.ones(2, 3, device=device) / 3, torch.ones(2, 3, device=device)))
        assert on(torch.device("cpu"), there.to_mesh(resolution=16, max_faces=200).mesh.vertices)
        pictures = drawn.rgb.to("cpu")
    assert len(here.mean) == len(there.mean)
    torch.testing.assert_close(pictures, here.render(CAMERAS, size=12).rgb, atol=0.02, rtol=0)
