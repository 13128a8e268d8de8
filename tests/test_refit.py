"""What is fitted to some views says what the others do: of true renders; of look-alikes and strangers it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.data.toybox import Asset, sample_asset
from viewfold.errors import InputError
from viewfold.lifting.fit import FitSettings
from viewfold.refit import LEAST, LEAST_LEFT, Halves, LeftOut, _beside, measure_halves, measure_left_out
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.views import Views

CAMERAS = Cameras.orbit(8, elevation_deg=[10.0, 25.0] * 4)
QUICK = FitSettings(steps=30)


def shown(toy: Asset) -> torch.Tensor:
    return rasterize(toy.mesh(), CAMERAS, size=48).over(0.5)


@pytest.fixture(scope="module")
def toy() -> Asset:
    return sample_asset(90_000_001)


@pytest.fixture(scope="module")
def true(toy: Asset) -> Halves:
    return measure_halves(Views(rgb=shown(toy), cameras=CAMERAS), settings=QUICK)


@pytest.mark.slow
def test_halves_of_look_alikes_make_two_objects(toy: Asset, true: Halves) -> None:
    twin = shown(Asset.of(toy.kind, toy.main, toy.accent, seed=7))
    every_other = torch.where((torch.arange(8) % 2 == 0)[:, None, None, None], shown(toy), twin)
    calls: list[tuple[str, int, int]] = []
    views = Views(rgb=every_other, cameras=CAMERAS)
    found = measure_halves(views, settings=QUICK, progress=lambda *told: calls.append(told))
    assert found.psnr_db < true.psnr_db - 2 and found.outline_iou < true.outline_iou - 0.03
    assert found.depth_gap > 1.1 * true.depth_gap and found.chamfer > true.chamfer and found.f_score < true.f_score
    assert [name for name, *_ in calls if name != "second half"] == ["first half"] * (len(calls) // 2)


@pytest.mark.slow
def test_the_order_of_the_views_does_not_matter(toy: Asset, true: Halves) -> None:
    order = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    shuffled = Views(rgb=shown(toy)[order], cameras=CAMERAS[order])
    found = measure_halves(shuffled, settings=QUICK)
    assert found.psnr_db == pytest.approx(true.psnr_db, abs=0.2) and found.chamfer == pytest.approx(
        true.chamfer, rel=0.1
    )


@pytest.mark.slow
def test_it_is_the_same_again_and_believes_known_outlines(toy: Asset, true: Halves) -> None:
    assert measure_halves(Views(rgb=shown(toy), cameras=CAMERAS), settings=QUICK) == true
    drawn = rasterize(toy.mesh(), CAMERAS, size=48)
    straight = (drawn.rgb / drawn.alpha.clamp_min(1e-6)).clamp(0, 1)
    known = measure_halves(Views(rgb=straight, alpha=drawn.alpha, cameras=CAMERAS), settings=QUICK)
    assert known.psnr_db > true.psnr_db - 1


def test_too_few_views_are_refused_by_name(toy: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = Views(rgb=shown(toy)[: LEAST - 1], cameras=CAMERAS[: LEAST - 1])
    with pytest.raises(InputError, match="at least 8 to be halved; got 7"):
        measure_halves(views)
    views.save(tmp_path / "few", turntable=False)
    assert main(["evaluate", str(tmp_path / "few"), "--halves"]) == 3
    assert "to be halved" in capsys.readouterr().err


def test_the_command_says_what_the_halves_make(
    toy: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Views(rgb=shown(toy), cameras=CAMERAS).save(tmp_path / "eight", turntable=False)
    told = Halves(psnr_db=30.0, outline_iou=0.9, depth_gap=0.01, chamfer=0.02, f_score=0.8)
    monkeypatch.setattr("viewfold.refit.measure_halves", lambda views, **_: told)
    assert main(["evaluate", "--json", str(tmp_path / "eight"), "--halves"]) == 0
    assert json.loads(capsys.readouterr().out)["halves"]["chamfer"] == 0.02
    assert main(["evaluate", str(tmp_path / "eight"), "--halves"]) == 0
    assert "halves        30.0 dB" in capsys.readouterr().out


@pytest.mark.slow
def test_a_view_that_is_not_of_the_object_is_found_by_leaving_it_out(toy: Asset) -> None:
    true = shown(toy)
    said: set[str] = set()
    views = Views(rgb=true, cameras=CAMERAS)
    whole = measure_left_out(views, most=2, settings=QUICK, progress=lambda name, *_: said.add(name))
    assert said == {f"without view {v}" for v in (0, 4)} and whole.n == 2, "evenly around the object"
    assert whole.worst_psnr_db <= whole.psnr_db and 0.7 < whole.outline_iou <= 1
    strange = true.clone()
    strange[4] = shown(sample_asset(90_700_005))[4]
    found = measure_left_out(Views(rgb=strange, cameras=CAMERAS), most=2, settings=QUICK)
    assert found.worst_view == 4 and found.worst_psnr_db < whole.worst_psnr_db - 3
    assert found.psnr_db < whole.psnr_db and found.outline_iou < whole.outline_iou


@pytest.mark.slow
def test_the_ground_that_views_stand_on_does_not_matter(toy: Asset) -> None:
    drawn = rasterize(toy.mesh(), CAMERAS, size=48)
    on = [
        measure_left_out(Views(rgb=drawn.over(grey), cameras=CAMERAS), most=1, settings=QUICK).psnr_db
        for grey in (0.5, 0.97)
    ]
    assert on[0] == pytest.approx(on[1], abs=2.5)


def test_a_view_that_shows_its_object_elsewhere_is_compared_all_the_same(toy: Asset) -> None:
    drawn = rasterize(toy.mesh(), CAMERAS[[0]], size=48)
    away = Rendering(
        rgb=torch.zeros_like(drawn.rgb), alpha=0 * drawn.alpha, depth=0 * drawn.depth, normal=0 * drawn.normal
    )
    psnr, iou = _beside(drawn, away)
    assert iou == 0.0 and psnr == pytest.approx(-10 * math.log10(float((drawn.over(0.5) - 0.5).square().mean())))
    assert _beside(drawn, drawn) == (100.0, 1.0) and _beside(away, away)[1] == 0.0


def test_leaving_out_of_too_few_is_refused_by_name(toy: Asset) -> None:
    views = Views(rgb=shown(toy)[: LEAST_LEFT - 1], cameras=CAMERAS[: LEAST_LEFT - 1])
    with pytest.raises(InputError, match="at least 5 for one to be left out; got 4"):
        measure_left_out(views)
    with pytest.raises(InputError, match="`most` must be at least 1; got 0"):
        measure_left_out(Views(rgb=shown(toy), cameras=CAMERAS), most=0)


def test_the_command_says_what_leaving_out_finds(
    toy: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Views(rgb=shown(toy), cameras=CAMERAS).save(tmp_path / "eight", turntable=False)
    told = LeftOut(psnr_db=25.0, outline_iou=0.9, worst_psnr_db=18.0, worst_view=3, n=8)
    monkeypatch.setattr("viewfold.refit.measure_left_out", lambda views, **_: told)
    assert main(["evaluate", "--json", str(tmp_path / "eight"), "--left-out"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"]["worst_view"] == 3
    assert main(["evaluate", str(tmp_path / "eight"), "--left-out"]) == 0
    assert "(view 3 least: 18.0 dB)" in capsys.readouterr().out
