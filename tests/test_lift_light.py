"""Light through the whole lift: who is told what of it, and what the asset, its turntable and its report then show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lift_fakes import PerfectPrior, ball
from test_reprojection import sphere

from viewfold.camera import Cameras
from viewfold.evaluation.likeness import psnr_db
from viewfold.lifting import stages
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.distillation import DistilSettings
from viewfold.lifting.light import Bare, PaintedIn
from viewfold.lifting.paint import PaintSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.shading import Shading
from viewfold.lifting.stages import FitSettings, GridSettings, LiftSettings, MeshSettings, lift
from viewfold.lifting.start import FromBlob
from viewfold.scene.light import Light
from viewfold.scene.material import Material
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

AROUND = Cameras.orbit(6, elevation_deg=[5.0, 40.0] * 3)
HARSH = Light(sky=0.9, ground=0.3, key=0.4, direction=(0.4, -0.7, 0.6))
SMALL = LiftSettings(
    fit=FitSettings(steps=30),
    representation=GridSettings(resolution=24, samples=24),
    mesh=MeshSettings(resolution=32, faces=800, texture_size=64),
    polish=PolishSettings(steps=8),
)


def prior() -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])


def views(light: Light) -> Views:
    """A plain ball in a light, over a ground that is far from its colours."""
    mesh = replace(sphere(n=32), materials=(Material(color=(0.8, 0.5, 0.3)),))
    return Views(rgb=rasterize(mesh, AROUND, size=48, light=light).over(0.05), cameras=AROUND)


def lifted(light: Light | PaintedIn, *, drawn_in: Light) -> Asset3D:
    return lift(prior(), "a ball", views=views(drawn_in), settings=replace(SMALL, paint=PaintSettings(light=light)))


def test_an_asset_draws_itself_as_the_views_were() -> None:
    """In the light that viewers are taken to have: lit once where light was divided out, as it is where it was not."""
    true = views(Light())
    known, painted = lifted(Light(), drawn_in=Light()), lifted(PaintedIn(), drawn_in=Light())
    for asset, word in ((known, "known"), (painted, "painted in (unlit)")):
        assert asset.report["light"] == word and asset.mesh.materials[0].lit == (word == "known")
        assert psnr_db(asset.render(AROUND, size=48).over(0.05), true.rgb) > 24
    bare = known.mesh
    twice = rasterize(replace(bare, materials=(replace(bare.materials[0], lit=True),)), AROUND, size=48, light=None)
    assert (
        float((twice.over(0.05) - true.rgb).abs().amax()) > 0.15
    )  # without light it looks otherwise: the test can fail


def test_the_report_compares_in_the_light_that_was_divided_out() -> None:
    """The representation holds the views' light; drawn without it, or in another, the file would be far off."""
    harsh, painted = lifted(HARSH, drawn_in=HARSH), lifted(PaintedIn(), drawn_in=HARSH)
    assert harsh.report["rerender_psnr_db"] > painted.report["rerender_psnr_db"] - 2 > 18


def test_a_view_that_sees_a_highlight_counts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a glossy ball: with equal trust in all views the highlights would leave their mark."""
    from viewfold.lifting import paint as stage

    gloss = replace(sphere(n=32), materials=(Material(color=(0.6, 0.1, 0.1), roughness=0.35, metallic=0.0),))
    bright = Light(sky=0.8, ground=0.55, key=0.9, direction=(0.4, -0.7, 0.6))
    given = Views(rgb=rasterize(gloss, AROUND, size=48, light=bright).over(0.05), cameras=AROUND)
    settings = replace(SMALL, paint=PaintSettings(light=bright))
    spread = []
    for trusting in (False, True):
        if trusting:
            albedo = stage.Found.albedo
            monkeypatch.setattr(stage.Found, "albedo", lambda *a, f=albedo, **k: (f(*a, **k)[0], torch.ones(())))
        mesh = lift(prior(), "a glossy red ball", views=given, settings=settings).mesh
        drawn = rasterize(mesh, AROUND, size=48, light=None)
        inner = (drawn.alpha > 0.999).expand(-1, 3, -1, -1)
        spread.append(float((drawn.rgb - torch.tensor([0.6, 0.1, 0.1])[:, None, None])[inner].square().mean().sqrt()))
    assert spread[0] < 0.9 * spread[1]


@pytest.mark.parametrize("shading", [Shading(albedo_steps=0), None], ids=["lit in each step", "never lit"])
def test_what_a_distillation_lit_anew_is_bare_and_its_own_pictures_colour_nothing(
    shading: Shading | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    paint = stages.paint

    def recording(extracted: Any, **told: Any) -> Any:
        asked.append(told)
        return paint(extracted, **told)

    monkeypatch.setattr(stages, "paint", recording)
    settings = replace(SMALL, start=FromBlob(radius=0.2), distil=DistilSettings(steps=1, shading=shading))
    asset = lift(prior(), "a metal ball", settings=settings)
    assert asked[0]["from_views"] is False and asked[0]["distilled"] is True and asked[0]["prompt"] == "a metal ball"
    assert isinstance(asked[0]["settings"].light, Bare) == (shading is not None)
    assert asset.report["settings"]["paint"]["light"]["kind"] == ("estimate" if shading is None else "bare")
    lift(prior(), "a ball", views=views(Light()), settings=SMALL)
    assert asked[1]["from_views"] is True and asked[1]["distilled"] is False
