"""Clouds of 3D Gaussians in space and in time: what they hold, how they are fitted, split and meshed."""

from __future__ import annotations

import math

import pytest
import torch
from clouds import cloud, single
from lift_fakes import RADIUS, ball, ball_views
from second_device import on, second_device
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.scene.field import lattice
from viewfold.scene.gaussian.field import THINNEST, CloudField
from viewfold.scene.gaussians import GaussianCloud, GaussianSettings
from viewfold.scene.grid import GridSettings
from viewfold.scene.surface import OPACITY_STEP
from viewfold.views import Views

CAMERAS = Cameras.orbit(2, elevation_deg=20)


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
    """Sixteen views: within 1.5 dB of the dense grid at unseen sides, and of more Gaussians than it began with."""
    cameras = Cameras.orbit(16, elevation_deg=[5.0, 30.0] * 8)
    rgb, alpha = ball(cameras, size=40)
    observed = observe(Views(rgb=rgb, alpha=alpha, cameras=cameras))
    found = {}
    for settings in (GridSettings(resolution=48), GaussianSettings(resolution=32)):
        made = fit(observed, representation=settings, generator=torch.Generator().manual_seed(0)).representation
        found[settings.kind] = unseen(made)
    assert found["gaussians"] > found["grid"] - 1.5 and found["gaussians"] > 24.0
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
    assert few.spacing == pytest.approx(1.2 / 47 * 0.5 / 0.7), "with it the rate of their places"
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


def test_it_is_fitted_and_meshed_on_a_second_device_as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfold.scene.gaussians.COLOR_NODES", 24)
    settings = GaussianSettings(resolution=12)

    def fitted(views: Views) -> GaussianCloud:
        made = fit(observe(views), representation=settings, settings=FitSettings(steps=2)).representation
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
