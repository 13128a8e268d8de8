"""Flows 1 and 2 on a second device, without a GPU: one owner says where things are, and nobody waits without need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from fakes import OLD_NUMPY, tiny_model
from lift_fakes import PriorOn, ball_views
from second_device import move, on, second_device

import viewfold
from viewfold.camera import Cameras
from viewfold.diffusion.sampler import SCHEDULERS, named_scheduler
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Fitted, fit
from viewfold.lifting.lens import find_lens
from viewfold.lifting.observation import Observed, ObserveSettings, observe
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import Asset3D, LiftSettings, MeshSettings, lift
from viewfold.model import weights_hash
from viewfold.pipeline import MultiViewPipeline, generate
from viewfold.scene.grid import GridField, GridSettings

CPU = torch.device("cpu")
GRID = GridSettings(resolution=16, samples=16)
FIT = FitSettings(steps=12)
DISTIL = DistilSettings(steps=6)
MESH = MeshSettings(resolution=24, faces=200, texture_size=32)
POLISH = PolishSettings(steps=4)
SETTINGS = LiftSettings(representation=GRID, fit=FIT, distil=DISTIL, mesh=MESH, polish=POLISH)


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    """A tiny model that draws pictures large enough for a watermark."""
    return tiny_model()


def fit_ball(observed: Observed, *, settings: FitSettings = FIT) -> Fitted:
    return fit(observed, representation=GRID, settings=settings, generator=torch.Generator().manual_seed(0))


def on_both(run, waits: list[str] | None = None):
    """Return what `run(device)` returns on the CPU and on the second device."""
    expected = run(CPU)
    with second_device(waits) as device:
        return expected, run(device)


# Flow 1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("around", [False, True], ids=["alone", "around given views"])
def test_a_model_draws_there_what_it_draws_here(name: str, around: bool) -> None:
    four = Cameras.orbit(4)
    given = replace(ball_views(size=16), cameras=Cameras.cat([four[1], Cameras.orbit(3, elevation_deg=60)]))

    def run(device: torch.device) -> torch.Tensor:
        model = tiny_model()
        model.scheduler = named_scheduler(name, like=model.scheduler)
        if device != CPU:
            move(model, device)
        assert model.device == device
        views = generate(model, "a red mug", cameras=four, steps=3, given=given if around else None)
        assert on(CPU, [views.rgb, views.cameras.fov_deg]) and views.run["device"] == str(device)
        return views.rgb

    torch.testing.assert_close(*on_both(run), atol=1e-4, rtol=0)


def test_text_pictures_and_latents_are_on_the_models_device_and_the_same() -> None:
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def run(device: torch.device) -> list[torch.Tensor]:
        model = tiny_model() if device == CPU else move(tiny_model(), device)
        latents = model.encode(pictures)
        results = [model.condition(["a red mug", ""]).part("tokens"), latents, model.decode(latents.detach())]
        assert on(device, results)
        return [each.detach().cpu() for each in results]

    for expected, found in zip(*on_both(run), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_pictures_cross_to_the_host_once() -> None:
    waits: list[str] = []
    model = tiny_model()
    with second_device(waits) as device:
        move(model, device)
        weights_hash.weights_hash(model)  # reads every weight on the host, once for all
        generate(model, "a red mug", steps=2)
        waits.clear()
        generate(model, "a red mug", steps=2)
    assert Counter(waits)["aten._to_copy.default"] == 1, waits


def test_a_mark_is_put_into_pictures_that_were_drawn_there() -> None:
    from viewfold.origin.hook import Origin
    from viewfold.origin.watermark import read

    shipped, marked = viewfold.load("toybox", device="cpu"), Origin(watermark=True)
    with second_device() as device:
        views = generate(move(shipped, device), "a red mug", cameras=Cameras.orbit(1), steps=1, origin=marked)
        assert on(CPU, views.rgb) and read(views.rgb[0]) is not None


# Flow 2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lift_happens_where_the_model_is_and_is_the_same() -> None:
    def run(device: torch.device) -> Asset3D:
        asset = lift(PriorOn(device), "a red ball", views=ball_views(), settings=SETTINGS)
        assert on(CPU, [asset.representation, asset.mesh.vertices, asset.views.rgb, asset.views.cameras.fov_deg])
        return asset

    expected, found = on_both(run)
    for name in ("rerender_psnr_db", "silhouette_iou", "fit_loss"):
        assert found.report[name] == pytest.approx(expected.report[name], rel=0.02), name
    grids = [each.representation.snapshot() for each in (found, expected)]
    torch.testing.assert_close(*grids, atol=0.05, rtol=0)


@pytest.mark.slow
def test_views_come_from_any_device_and_the_models_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views on an accelerator and a model on the CPU: a raw error about devices, before."""
    places: list[torch.device] = []

    def recorded(observed: Observed, **options) -> Fitted:
        fitted = fit(observed, **options)
        places.extend([fitted.representation.device, observed.foreground.alpha.device, observed.views.rgb.device])
        return fitted

    monkeypatch.setattr("viewfold.lifting.stages.fit", recorded)
    with second_device() as device:
        lift(PriorOn(device), "a red ball", views=ball_views(), settings=SETTINGS)
        assert places == [device] * 3
        lift(PriorOn(CPU), "a red ball", views=ball_views().to(device), settings=SETTINGS)
        assert places[3:] == [CPU] * 3


@pytest.mark.slow
@pytest.mark.parametrize("lens", ["cameras", "silhouettes"])
def test_a_fit_takes_its_device_from_the_views(lens: str) -> None:
    def run(device: torch.device) -> torch.Tensor:
        observed = find_lens(observe(ball_views().to(device)), settings=ObserveSettings(lens=lens))
        fitted = fit_ball(observed)
        assert on(device, [fitted.representation, observed.foreground.alpha, observed.views.cameras.fov_deg])
        return fitted.representation.snapshot().cpu()

    expected, found = on_both(run)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@pytest.mark.slow
def test_the_shipped_pipeline_is_lifted_there(model: MultiViewPipeline) -> None:
    """Encoding, text and noise of a real model, from one distillation step to files."""
    settings = replace(SETTINGS, distil=DistilSettings(steps=2))
    with second_device() as device:
        asset = viewfold.lift(move(tiny_model(), device), "a red mug", views=ball_views(size=16), settings=settings)
    assert on(CPU, asset.representation) and asset.report["rollbacks"] == 0


# Nobody waits without need --------------------------------------------------------------------------------------------


def waits_of_eight_steps(run, *, renders: int) -> Counter[str]:
    """Return what eight more steps of `run(steps, device)` wait for, beside so many renders.

    A render packs its samples, and waits for their number.
    """
    counts = []
    for steps in (11, 19):
        waits: list[str] = []
        with second_device(waits) as device:
            run(steps, device)
        counts.append(Counter(waits))
    waits = []
    with second_device(waits) as device:
        grid = GridField(resolution=16).to(device)
        waits.clear()
        grid.refresh()
        grid.render(ball_views().cameras.to(device), size=16)
    for name, number in Counter(waits).items():
        counts[1][name] -= renders * number
    counts[1].subtract(counts[0])
    return Counter({name: number for name, number in counts[1].items() if number})


@pytest.mark.slow
def test_a_step_of_the_fit_waits_for_nothing_but_the_render() -> None:
    """The loss is looked at every ten steps, not in these eight."""

    def run(steps: int, device: torch.device) -> None:
        fit_ball(observe(ball_views().to(device)), settings=replace(FIT, steps=steps))

    assert waits_of_eight_steps(run, renders=8) == {}


@pytest.mark.slow
def test_a_step_of_the_distillation_waits_once() -> None:
    def run(steps: int, device: torch.device) -> None:
        fitted = fit_ball(observe(ball_views().to(device)), settings=replace(FIT, steps=4))
        settings = replace(DISTIL, steps=steps, learning_rate=1e-6)
        distil(
            fitted, PatientPrior(device), "a red ball", settings=settings, generator=torch.Generator().manual_seed(0)
        )

    assert waits_of_eight_steps(run, renders=8 + 3) == {"aten._to_copy.default": 8}  # three compare with the views


class PatientPrior(PriorOn):
    """A prior that draws nothing and so waits for nothing; not to be followed far."""

    def predict_noise(self, x, t, condition, cameras):
        return x * 0.5


def test_weights_are_hashed_once_a_load(model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    original = weights_hash.hash_tensors
    monkeypatch.setattr(weights_hash, "hash_tensors", lambda *args: hashed.append(1) or original(*args))
    settings = replace(SETTINGS, distil=replace(DISTIL, steps=1))
    for _ in range(2):
        generate(model, "a red mug", steps=1)
    viewfold.lift(model, "a red mug", views=ball_views(size=16), settings=settings)
    assert len(hashed) == len(weights_hash.HASH_ORDER)
