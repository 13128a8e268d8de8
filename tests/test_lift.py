"""Views become a field, a field becomes what the prior believes, and both become files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views, overlap

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, OutputError, PromptError
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.check import measure_export
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Fitted, first_guess, fit
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard
from viewfold.lifting.observation import observe
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.scene.export import save_mesh
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.representation import Representation
from viewfold.views import Views

SMALL_GRID, SMALL_FIT = GridSettings(resolution=24, samples=24), FitSettings(steps=24)
SMALL = LiftSettings(
    representation=SMALL_GRID,
    fit=SMALL_FIT,
    distil=DistilSettings(steps=4),
    mesh=MeshSettings(resolution=32, faces=400, texture_size=64),
    polish=PolishSettings(steps=8),
)
UNSEEN = Cameras.orbit(4, elevation_deg=20, azimuth_deg=45)


def prior(**options) -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0], **options)


def unseen_overlap(representation: Representation) -> float:
    with torch.no_grad():
        drawn = representation.render(UNSEEN, size=32, quality=2.0)
    return overlap(drawn.alpha, ball(UNSEEN, size=32)[1])


def fit_small(views: Views) -> Fitted:
    generator = torch.Generator().manual_seed(0)
    return fit(observe(views), representation=SMALL_GRID, settings=SMALL_FIT, generator=generator)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit_small(ball_views())


@pytest.fixture(scope="module")
def asset() -> Asset3D:
    return lift(prior(), "a red ball", views=ball_views(), settings=SMALL)


# Reconstruction -----------------------------------------------------------------------------------------------------


def test_a_coloured_ball_is_reconstructed_from_four_views(fitted: Fitted) -> None:
    assert unseen_overlap(fitted.representation) > 0.85
    with torch.no_grad():
        drawn = fitted.representation.render(UNSEEN, size=32, quality=2.0).over(0.5)
    truth, alpha = ball(UNSEEN, size=32)
    error = (drawn - truth).square().mean(dim=1, keepdim=True)[alpha > 0.9].mean()
    assert float(-10 * error.log10()) > 18


def test_the_fit_is_better_than_the_hull_that_it_starts_from(fitted: Fitted) -> None:
    start, views = SMALL_GRID.begin(first_guess(fitted.observed)), fitted.observed.views
    with torch.no_grad():
        before, after = (
            (each.render(views.cameras, size=32, quality=2.0).over(0.5) - views.rgb).square().mean()
            for each in (start, fitted.representation)
        )
    assert after < before


def test_views_that_share_no_volume_are_a_fit_error() -> None:
    alpha = torch.zeros(2, 1, 32, 32)
    alpha[0, :, :6, :6], alpha[1, :, -6:, -6:] = 1, 1
    views = Views(rgb=alpha.expand(-1, 3, -1, -1), alpha=alpha, cameras=Cameras.orbit(2, span_deg=20))
    with pytest.raises(FitError, match="share no volume"):
        fit_small(views)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="resolution"):
        GridSettings(resolution=1)
    with pytest.raises(InputError, match="steps"):
        FitSettings(steps=0)
    with pytest.raises(InputError, match="elevation_deg"):
        DistilSettings(elevation_deg=(30, 0))


# Distillation -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prior_that_knows_the_object_pulls_a_wrong_field_to_it(fitted: Fitted) -> None:
    wrong = replace(fitted, representation=GridField(resolution=24, blob_radius=0.2, settings=SMALL_GRID))
    before = unseen_overlap(wrong.representation)
    refined = distil(
        wrong,
        prior(),
        "a red ball",
        settings=DistilSettings(steps=40, learning_rate=0.3, photometric_weight=0.0, guidance=1.0),
        generator=torch.Generator().manual_seed(0),
    )
    assert refined.rollbacks == 0
    assert before < 0.6 < 0.85 < unseen_overlap(refined.representation)


def test_a_nan_from_the_prior_is_a_fit_error() -> None:
    with pytest.raises(FitError, match="finite noise"):
        lift(prior(nan_after=2), "a red ball", views=ball_views(), settings=SMALL)


def test_no_steps_of_distillation_leave_the_fit_as_it_is(fitted: Fitted) -> None:
    before = fitted.representation.snapshot()
    refined = distil(fitted, prior(), "a red ball", settings=DistilSettings(steps=0))
    assert refined.rollbacks == 0 and torch.equal(before, refined.representation.snapshot())


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
    assert set(report["seconds"]) == {"fit", "distil", "mesh", "polish", "texture", "check"}
    json.dumps(report)


@pytest.mark.parametrize("change", ["nothing", "smaller", "dark"])
def test_a_writer_that_breaks_the_file_shows_in_the_report(asset: Asset3D, monkeypatch, change: str) -> None:
    """The mesh in memory is the same in all three: only the file tells."""

    def write(mesh: Mesh, path: Path) -> Path:
        mesh = replace(mesh, vertices=mesh.vertices * 0.8) if change == "smaller" else mesh
        dark = tuple(replace(m, color=(0.2, 0.2, 0.2)) for m in mesh.materials)
        return save_mesh(replace(mesh, materials=dark) if change == "dark" else mesh, path)

    monkeypatch.setattr("viewfold.lifting.check.save_mesh", write)
    seen = observe(ball_views())
    measured = measure_export(asset.mesh, asset.representation, ground=seen.ground, lens=seen.lens)
    assert (measured["rerender_psnr_db"] > 18) == (change == "nothing")
    assert (measured["silhouette_iou"] > 0.9) == (change != "smaller")


@pytest.mark.slow
def test_an_asset_is_saved_as_mesh_report_and_turntable(asset: Asset3D, tmp_path) -> None:
    asset.save(tmp_path / "ball.glb")
    assert sorted(os.listdir(tmp_path)) == ["ball.glb", "ball.json", "ball.webp"]
    assert len(load_mesh(tmp_path / "ball.glb").faces) == len(asset.mesh.faces)
    assert json.loads((tmp_path / "ball.json").read_text())["prompt"] == "a red ball"
    asset.save(tmp_path / "other" / "ball.obj", turntable=False)
    assert "ball.obj" in os.listdir(tmp_path / "other")


def test_an_unknown_suffix_lists_the_known_ones_and_writes_nothing(asset: Asset3D, tmp_path) -> None:
    with pytest.raises(InputError, match=".glb, .obj, .ply, .stl, .usdz"):
        asset.save(tmp_path / "ball.fbx")
    assert not os.listdir(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(asset: Asset3D, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        asset.save(tmp_path / "file" / "ball.glb")


@pytest.mark.slow
def test_the_same_seed_makes_the_same_mesh(asset: Asset3D) -> None:
    again = lift(prior(), "a red ball", views=ball_views(), settings=SMALL)
    assert torch.equal(asset.mesh.vertices, again.mesh.vertices)


@pytest.mark.slow
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
    assert {stage for stage, _, _ in stages} == {"fit", "mesh", "polish", "texture", "check"}
    assert all(0 <= step <= total for _, step, total in stages)


def test_what_cannot_be_lifted_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        lift(prior(), "  ", views=ball_views())
    with pytest.raises(InputError, match="views"):
        lift(prior(), "a red ball")
