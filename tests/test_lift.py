"""Views become a field, a field becomes what the prior believes, and both become files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, OutputError, PromptError
from viewfold.lifting import foreground as fg
from viewfold.lifting.asset import Asset3D, measure_export
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Reconstruction, fit_views, hull_field
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard
from viewfold.lifting.regularize import binary_entropy, orientation, sparsity, total_variation
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.scene.export import save_mesh
from viewfold.scene.field import GridField, lattice
from viewfold.scene.interchange import load_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import RaySamples
from viewfold.scene.volume import render_volume
from viewfold.views import Views

SMALL_FIT = FitSettings(resolution=24, steps=24, samples=24)
SMALL = LiftSettings(
    fit=SMALL_FIT,
    distil=DistilSettings(steps=4, samples=24),
    mesh=MeshSettings(resolution=32, faces=400, texture_size=64),
)
UNSEEN = Cameras.orbit(4, elevation_deg=20, azimuth_deg=45)


def prior(**options) -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0], **options)


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def unseen_overlap(field: GridField) -> float:
    with torch.no_grad():
        drawn = render_volume(field, UNSEEN, size=32, n_samples=48)
    return overlap(drawn.alpha, ball(UNSEEN, size=32)[1])


@pytest.fixture(scope="module")
def fitted() -> Reconstruction:
    return fit_views(ball_views(), settings=SMALL_FIT, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def asset() -> Asset3D:
    return lift(prior(), "a red ball", views=ball_views(), settings=SMALL)


# Foreground ---------------------------------------------------------------------------------------------------------


def test_the_ground_is_the_median_of_the_border_even_where_the_object_touches_it() -> None:
    rgb = torch.full((1, 3, 32, 32), 0.25)
    rgb[:, :, 10:, 8:20] = 0.9
    assert torch.equal(fg.border_median(rgb), torch.full((1, 3), 0.25))


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
    hull = fg.visual_hull(alpha, views.cameras, points)
    radius = points.norm(dim=-1)
    assert float(hull[radius < 0.33].min()) > 0.5
    assert float(hull[radius > 0.55].max()) < 0.5


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
    found = fg.estimate_cameras(views, fg.find_foreground(views))
    assert abs(float(found.fov_deg[0]) - fov) <= 5


# Regularisers -------------------------------------------------------------------------------------------------------


def test_total_variation_of_a_step_is_its_height_over_the_pairs_of_cells() -> None:
    grid = torch.zeros(1, 1, 4, 4, 4)
    assert float(total_variation(grid)) == 0
    grid[..., 2:] = 3.0  # one of three pairs along x
    assert float(total_variation(grid)) == pytest.approx(3.0 / 3 / 3)


def test_entropy_and_sparsity_prefer_clear_and_empty_pictures() -> None:
    half, clear = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 2, 2)
    assert float(binary_entropy(half)) == pytest.approx(0.6931, abs=1e-4)
    assert float(binary_entropy(clear)) < 0.01
    assert float(sparsity(clear)) == pytest.approx(0.1) and float(sparsity(half)) > 0.5


def test_orientation_is_a_sum_over_samples_of_two_hand_worked_rays() -> None:
    """One ray passes a back (cosine 1) in front of a front (cosine -1), the other a surface seen at 60 degrees."""
    ray = torch.tensor([0.0, 1.0, 0.0])
    weight = torch.tensor([0.5, 0.3, 0.8], requires_grad=True)
    normal = torch.stack([ray, -ray, torch.tensor([0.75**0.5, 0.5, 0.0])]).requires_grad_()
    samples = RaySamples(weight=weight, normal=normal, direction=ray.expand(3, 3), n_rays=2)
    loss = orientation(samples)
    assert float(loss.detach()) == pytest.approx((0.5 * 1 + 0.3 * 0 + 0.8 * 0.25) / 2)
    loss.backward()
    assert weight.grad is None, "a surface must turn, not fade"
    assert normal.grad is not None
    torch.testing.assert_close(normal.grad @ ray, torch.tensor([0.5, 0.0, 0.8 * 0.5]))


def test_orientation_is_at_home_in_a_render(fitted: Reconstruction) -> None:
    """The samples of a render sum to its pictures; of a ball hardly any that light reaches turns its back."""
    with torch.no_grad():
        rendered = render_volume(fitted.field, UNSEEN, size=32, normals=True)
    samples = rendered.samples
    assert samples is not None and 0 < samples.n_rays <= int((rendered.alpha > 0).sum())
    torch.testing.assert_close(samples.weight.sum(), rendered.alpha.sum(), rtol=1e-4, atol=0)
    seen = (samples.weight[:, None] * samples.normal).sum(dim=0)
    torch.testing.assert_close(seen, rendered.normal.sum(dim=(0, 2, 3)), rtol=1e-3, atol=0.5)
    assert float((samples.normal * samples.direction).sum(-1) @ samples.weight) < 0
    flipped = replace(samples, direction=-samples.direction)
    assert float(orientation(samples)) < 0.1 * float(orientation(flipped))
    assert render_volume(fitted.field, UNSEEN, size=8).samples is None


# Reconstruction -----------------------------------------------------------------------------------------------------


def test_a_coloured_ball_is_reconstructed_from_four_views(fitted: Reconstruction) -> None:
    assert unseen_overlap(fitted.field) > 0.85
    with torch.no_grad():
        drawn = render_volume(fitted.field, UNSEEN, size=32, n_samples=48).over(0.5)
    truth, alpha = ball(UNSEEN, size=32)
    error = (drawn - truth).square().mean(dim=1, keepdim=True)[alpha > 0.9].mean()
    assert float(-10 * error.log10()) > 18


def test_the_fit_is_better_than_the_hull_that_it_starts_from(fitted: Reconstruction) -> None:
    start = hull_field(fitted.views, fitted.foreground, resolution=24)
    with torch.no_grad():
        before, after = (
            (render_volume(f, fitted.views.cameras, size=32, n_samples=48).over(0.5) - fitted.views.rgb).square().mean()
            for f in (start, fitted.field)
        )
    assert after < before


def test_views_that_share_no_volume_are_a_fit_error() -> None:
    alpha = torch.zeros(2, 1, 32, 32)
    alpha[0, :, :6, :6], alpha[1, :, -6:, -6:] = 1, 1
    views = Views(rgb=alpha.expand(-1, 3, -1, -1), alpha=alpha, cameras=Cameras.orbit(2, span_deg=20))
    with pytest.raises(FitError, match="share no volume"):
        fit_views(views, settings=SMALL_FIT)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="resolution"):
        FitSettings(resolution=4)
    with pytest.raises(InputError, match="elevation_deg"):
        DistilSettings(elevation_deg=(30, 0))


# Distillation -------------------------------------------------------------------------------------------------------


def test_a_prior_that_knows_the_object_pulls_a_wrong_field_to_it(fitted: Reconstruction) -> None:
    wrong = replace(fitted, field=GridField(resolution=24, blob_radius=0.2))
    before = unseen_overlap(wrong.field)
    rollbacks = distil(
        wrong,
        prior(),
        "a red ball",
        settings=DistilSettings(steps=40, samples=24, learning_rate=0.3, photometric_weight=0.0, guidance=1.0),
        generator=torch.Generator().manual_seed(0),
    )
    assert rollbacks == 0
    assert before < 0.6 < 0.85 < unseen_overlap(wrong.field)


def test_a_nan_from_the_prior_is_a_fit_error() -> None:
    with pytest.raises(FitError, match="finite noise"):
        lift(prior(nan_after=2), "a red ball", views=ball_views(), settings=SMALL)


def test_no_steps_of_distillation_leave_the_fit_as_it_is(fitted: Reconstruction) -> None:
    before = fitted.field.grid.detach().clone()
    assert distil(fitted, prior(), "a red ball", settings=DistilSettings(steps=0)) == 0
    assert torch.equal(before, fitted.field.grid)


@pytest.mark.parametrize("coverage", [0.01, 0.95])
def test_the_guard_goes_back_when_the_field_empties_or_fills(coverage: float) -> None:
    grid = GridField(resolution=8)
    start = grid.grid.detach().clone()
    guard = Guard(grid, coverage=0.2, learning_rate=0.1)
    assert guard.step(grid.grid.sum(), coverage=0.2)
    assert not torch.equal(grid.grid, start)
    assert not guard.step(grid.grid.sum(), coverage=coverage)
    assert torch.equal(grid.grid, start)
    assert (guard.rollbacks, guard.learning_rate) == (1, 0.05)


def test_the_guard_survives_a_nan_gradient_but_not_many() -> None:
    grid = GridField(resolution=8)
    guard = Guard(grid, coverage=0.2, learning_rate=0.1)
    for _ in range(MAX_ROLLBACKS):
        assert not guard.step(grid.grid.sum() * float("nan"), coverage=0.2)
    assert bool(torch.isfinite(grid.grid).all())
    with pytest.raises(FitError, match="NaN"):
        guard.step(grid.grid.sum() * float("nan"), coverage=0.2)


# The whole flow -----------------------------------------------------------------------------------------------------


def test_the_report_measures_the_exported_file(asset: Asset3D) -> None:
    report = asset.report
    assert report["rerender_psnr_db"] > 18 and report["silhouette_iou"] > 0.9
    assert report["watertight"] and report["components"] == 1
    assert 100 < report["faces"] <= 400
    assert set(report["seconds"]) == {"fit", "distil", "mesh", "texture", "check"}
    json.dumps(report)


@pytest.mark.parametrize("change", ["nothing", "smaller", "dark"])
def test_a_writer_that_breaks_the_file_shows_in_the_report(asset: Asset3D, monkeypatch, change: str) -> None:
    """The mesh in memory is the same in all three: only the file tells."""

    def write(mesh: Mesh, path: Path) -> Path:
        mesh = replace(mesh, vertices=mesh.vertices * 0.8) if change == "smaller" else mesh
        dark = tuple(replace(m, color=(0.2, 0.2, 0.2)) for m in mesh.materials)
        return save_mesh(replace(mesh, materials=dark) if change == "dark" else mesh, path)

    monkeypatch.setattr("viewfold.lifting.asset.save_mesh", write)
    ground = torch.full((3, 1, 1), 0.5)
    measured = measure_export(asset.mesh, asset.field, ground=ground, like=ball_views().cameras)
    assert (measured["rerender_psnr_db"] > 18) == (change == "nothing")
    assert (measured["silhouette_iou"] > 0.9) == (change != "smaller")


def test_an_asset_is_saved_as_mesh_report_and_turntable(asset: Asset3D, tmp_path) -> None:
    asset.save(tmp_path / "ball.glb")
    assert sorted(os.listdir(tmp_path)) == ["ball.glb", "ball.json", "ball.webp"]
    assert len(load_mesh(tmp_path / "ball.glb").faces) == len(asset.mesh.faces)
    assert json.loads((tmp_path / "ball.json").read_text())["prompt"] == "a red ball"
    asset.save(tmp_path / "other" / "ball.obj", turntable=False)
    assert "ball.obj" in os.listdir(tmp_path / "other")


def test_an_unknown_suffix_lists_the_known_ones_and_writes_nothing(asset: Asset3D, tmp_path) -> None:
    with pytest.raises(InputError, match=".glb, .obj, .ply"):
        asset.save(tmp_path / "ball.stl")
    assert not os.listdir(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(asset: Asset3D, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        asset.save(tmp_path / "file" / "ball.glb")


@pytest.mark.slow
def test_the_same_seed_makes_the_same_mesh(asset: Asset3D) -> None:
    again = lift(prior(), "a red ball", views=ball_views(), settings=SMALL)
    assert torch.equal(asset.mesh.vertices, again.mesh.vertices)


def test_samples_without_an_object_are_sampled_again_with_the_next_seed() -> None:
    asked = []

    def sample(seed: int) -> Views:
        asked.append(seed)
        views = ball_views()
        return views if seed > 7 else replace(views, rgb=torch.full_like(views.rgb, 0.5))

    settings = replace(SMALL, distil=DistilSettings(steps=0))
    stages = []
    made = lift(prior(), "a", sample=sample, seed=7, settings=settings, progress=lambda *p: stages.append(p))
    assert asked == [7, 8] and made.report["seed"] == 8
    assert {stage for stage, _, _ in stages} == {"fit", "mesh", "texture", "check"}
    assert all(0 <= step <= total for _, step, total in stages)


def test_what_cannot_be_lifted_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        lift(prior(), "  ", views=ball_views())
    with pytest.raises(InputError, match="views"):
        lift(prior(), "a red ball")
