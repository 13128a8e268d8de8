"""A texture for a mesh that exists: views drawn over its shape, painted on it, and the shape left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from fakes import OLD_NUMPY, GaussianDenoiser, tiny_model, tiny_scheduler
from test_reprojection import sphere

from viewfold import make
from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import InputError, PromptError
from viewfold.lifting.light import PaintedIn
from viewfold.lifting.paint import PaintSettings
from viewfold.lifting.retexture import MOST_FACES, RetextureSettings, retexture
from viewfold.lifting.survey import Survey
from viewfold.pipeline.redraw import levels, redraw
from viewfold.scene.framing import Framing
from viewfold.scene.light import Light
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.standing import Standing
from viewfold.views import GROUND, Views

FURNITURE = Path(__file__).parent / "assets" / "furniture"
AROUND = Cameras.orbit(8, elevation_deg=[5.0, 40.0] * 4)
KNOWN = RetextureSettings(texture_size=64, strengths=(0.9,), paint=PaintSettings(light=Light()))


def halves(views: Views, *, strength: float) -> Views:
    """Draw the upper half red and the lower one blue, lit as the pictures are."""
    assert views.alpha is not None
    row = torch.arange(views.rgb.shape[-1]) < views.rgb.shape[-1] / 2
    paint = torch.where(
        row[None, :, None], torch.tensor([0.9, 0.1, 0.1])[:, None, None], torch.tensor([0.1, 0.1, 0.9])[:, None, None]
    )
    drawn = views.rgb / 0.5 * paint  # the shape comes in a grey of 0.5
    return replace(views, rgb=drawn * views.alpha + GROUND * (1 - views.alpha), alpha=None)


def test_the_light_of_the_views_is_divided_out_and_the_shape_stays_where_it_was() -> None:
    given = replace(sphere(n=24), vertices=sphere(n=24).vertices * 7 + torch.tensor([10.0, -3.0, 40.0]))
    asset = retexture(given, "a ball", redraw=halves, cameras=AROUND, size=64, settings=KNOWN)
    assert asset.report["light"] == "known" and asset.representation is None
    assert all(0 <= spent < 600 for spent in asset.report["seconds"].values())
    seen = rasterize(asset.mesh, Cameras.orbit(1, elevation_deg=15, azimuth_deg=22.5), size=64, light=None)
    top, bottom = (seen.rgb[0, :, row, 30:34].mean(-1) for row in (16, 48))
    torch.testing.assert_close(top, torch.tensor([0.9, 0.1, 0.1]), atol=0.06, rtol=0)
    torch.testing.assert_close(bottom, torch.tensor([0.1, 0.1, 0.9]), atol=0.06, rtol=0)
    back = asset.standing.apply(asset.mesh)
    assert float(torch.cdist(back.vertices.double(), given.vertices.double()).amin(1).max()) < 1e-4
    assert len(back.faces) == len(given.faces)


def test_the_second_round_sees_the_first_ones_colours() -> None:
    shown: list[torch.Tensor] = []

    def watching(views: Views, *, strength: float) -> Views:
        shown.append(views.rgb[:, :, 32, 32])
        shown.append(torch.tensor(strength))
        return halves(views, strength=strength) if len(shown) == 2 else replace(views, rgb=views.over(), alpha=None)

    settings = replace(KNOWN, strengths=(0.9, 0.5))
    asset = retexture(sphere(n=24), "a ball", redraw=watching, cameras=AROUND, size=64, settings=settings)
    assert [float(strength) for strength in shown[1::2]] == pytest.approx([0.9, 0.5])
    assert (shown[0].amax(1) - shown[0].amin(1)).max() < 1e-5, "grey at first"
    assert (shown[2].amax(1) - shown[2].amin(1)).min() > 0.3, "coloured then"
    assert asset.report["views_psnr_db"] > 30


def test_ground_that_was_drawn_into_the_shape_counts_little() -> None:
    def carved(views: Views, *, strength: float) -> Views:
        assert views.alpha is not None
        drawn = views.rgb / 0.5 * torch.tensor([0.8, 0.3, 0.1])[:, None, None]
        drawn = drawn * views.alpha + GROUND * (1 - views.alpha)
        drawn[::3, :, :, 30:] = GROUND  # in every third view the prior believes in half the shape
        return replace(views, rgb=drawn, alpha=None)

    seen = rasterize(
        retexture(sphere(n=24), "a ball", redraw=carved, cameras=AROUND, size=64, settings=KNOWN).mesh,
        AROUND,
        size=64,
        light=None,
    )
    inner = seen.rgb.permute(0, 2, 3, 1)[seen.alpha[:, 0] > 0.999]
    off = (inner - torch.tensor([0.8, 0.3, 0.1])).norm(dim=1)
    assert float((off > 0.15).float().mean()) < 0.1  # 0.21 where all pixels count alike


def test_a_mesh_keeps_its_place_unless_it_is_told_otherwise() -> None:
    mesh = replace(sphere(n=12), vertices=sphere(n=12).vertices * 3 + 5)
    framing = Framing.of(mesh, "sphere")
    framed = framing.apply(mesh)
    torch.testing.assert_close(Standing(framing=framing).apply(framed).vertices, mesh.vertices)
    torch.testing.assert_close(Standing(framing=framing).undo(mesh, framed).vertices, framed.vertices)
    tall = Standing(framing=framing, height=2.0, origin="base").apply(framed).vertices
    low, high = tall.amin(0), tall.amax(0)
    assert float(low[2]) == pytest.approx(0, abs=1e-5) and float(high[2]) == pytest.approx(2)
    scaled = Standing(framing=framing, height=6.0).apply(framed).vertices
    torch.testing.assert_close(scaled, mesh.vertices * (6 / float((mesh.vertices.amax(0) - mesh.vertices.amin(0))[2])))


def test_what_cannot_be_seen_goes_with_a_warning_and_what_is_too_much_is_refused() -> None:
    ball, glass = sphere(n=8), Material(opacity=0.0, alpha_mode="blend")
    first = torch.zeros(len(ball.faces), dtype=torch.int64)
    first[:4] = 1
    helper = replace(ball, materials=(Material(), glass), face_material=first)
    with pytest.warns(UserWarning, match="4 faces are wholly transparent"):
        asset = retexture(helper, "a ball", redraw=halves, cameras=AROUND, size=32, settings=KNOWN)
    assert len(asset.mesh.faces) == len(ball.faces) - 4
    many = Mesh(vertices=ball.vertices, faces=ball.faces[:1].repeat(MOST_FACES + 1, 1))
    with pytest.raises(InputError, match="`mesh` must have at most 100000 faces"):
        retexture(many, "a ball", redraw=halves, cameras=AROUND, size=32)
    nothing = Mesh(vertices=torch.zeros(3, 3), faces=torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="at least one face"):
        retexture(nothing, "a ball", redraw=halves, cameras=AROUND, size=32)
    with pytest.raises(PromptError):
        retexture(ball, " ", redraw=halves, cameras=AROUND, size=32)
    wrongs: list[dict[str, Any]] = [
        {"strengths": ()},
        {"strengths": (0.0,)},
        {"strengths": (1.1,)},
        {"faces": 3},
        {"texture_size": 15},
        {"texture_size": 8193},
    ]
    for wrong in wrongs:
        with pytest.raises(InputError, match=next(iter(wrong))):
            RetextureSettings(**wrong)
    thinned = retexture(
        sphere(n=24),
        "a ball",
        redraw=halves,
        cameras=AROUND,
        size=32,
        settings=replace(KNOWN, faces=300, paint=PaintSettings(light=PaintedIn())),
    )
    assert len(thinned.mesh.faces) <= 300 and thinned.report["light"] == "painted in (unlit)"


# Redrawing ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("walk", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_what_is_behind_the_object_stays_and_the_object_becomes_what_the_prior_believes(walk: Any) -> None:
    """Of a prior whose latents all have a known mean: the object goes there from any colour, more with more noise."""
    model = tiny_model(unet=GaussianDenoiser(mean=1.0, std=0.05))
    if walk is not None:
        model.scheduler = walk.from_config(tiny_scheduler().config)
    cameras = Cameras.orbit(2)
    size = model.image_size
    alpha = torch.zeros(2, 1, size, size)
    alpha[..., size // 2 :] = 1
    views = Views(rgb=torch.full((2, 3, size, size), 0.2), alpha=alpha, cameras=cameras)
    found: list[torch.Tensor] = []
    decode = model.decode
    model.decode = lambda latents: (found.append(latents), decode(latents))[1]  # type: ignore[method-assign]
    redraw(model, "a red mug", views, strength=0.9, steps=10, guidance=1.0)
    latents, half = found[0], found[0].shape[-1] // 2
    clean = model.encode(views.over(GROUND))
    torch.testing.assert_close(latents[..., :half], clean[..., :half])
    assert float((latents[..., half:] - 1).abs().mean()) < 0.1


def test_levels_begin_at_the_strength_and_fall_evenly() -> None:
    assert levels(1.0, steps=4, trained=1000) == [999, 749, 500, 250]
    assert levels(0.5, steps=8, trained=1000) == [499, 374, 250, 125]
    assert levels(0.01, steps=8, trained=1000) == [9]
    for strength, steps in ((0.0, 8), (1.2, 8), (float("nan"), 8), (0.5, 0), (0.5, 1001)):
        with pytest.raises(InputError):
            levels(strength, steps=steps, trained=1000)


def test_views_without_outlines_are_refused() -> None:
    model, cameras = tiny_model(), Cameras.orbit(2)
    size = model.image_size
    with pytest.raises(InputError, match="without alpha"):
        redraw(model, "a red mug", Views(rgb=torch.zeros(2, 3, size, size), cameras=cameras), strength=0.5)
    with pytest.raises(InputError, match="pixels along each side"):
        small = Views(rgb=torch.zeros(2, 3, 8, 8), alpha=torch.ones(2, 1, 8, 8), cameras=cameras)
        redraw(model, "a red mug", small, strength=0.5)


# From the outside -----------------------------------------------------------------------------------------------------


def test_the_call_draws_the_models_own_views_and_labels_them() -> None:
    asked: list[tuple[str, int, int]] = []
    settings = RetextureSettings(texture_size=32, strengths=(0.9, 0.5), survey=Survey(views=6))
    asset = make.retexture(
        tiny_model(), "a red mug", sphere(n=12), settings=settings, progress=lambda *step: asked.append(step)
    )
    assert len(asset.views) == 6 and asset.report["settings"]["strengths"] == (0.9, 0.5)
    assert asked.count(("texture", 2, 2)) == 1 and sum(stage == "generate" for stage, _, _ in asked) > 4
    assert asset.label.report() and asset.report.items() >= asset.label.report().items()


def test_somebody_elses_mesh_through_the_command_line(tmp_path: Path) -> None:
    crate, out = FURNITURE / "crate" / "crate.obj", tmp_path / "box.glb"
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    options = ["--model", str(model), "--texture", "32", "--quality", "draft", "--views", "4", "--out", str(out)]
    assert main(["lift", "a red mug", "--mesh", str(crate), *options]) == 0
    before, after = load_mesh(crate), load_mesh(out)
    for bound in (0, 1):
        torch.testing.assert_close(
            before.vertices.aminmax(dim=0)[bound], after.vertices.aminmax(dim=0)[bound], rtol=1e-4, atol=1e-3
        )
    assert len(after.faces) == len(before.faces) and after.materials[0].texture is not None
    assert out.with_suffix(".webp").is_file() and out.with_suffix(".json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "."], "`--from` must be left out"),
        (["--steps", "5"], "`--steps` must be left out"),
        (["--guidance", "5"], "`--guidance` must be left out"),
        (["--score", "sds"], "`--score` must be left out"),
        (["--negative", "blurry"], "`--negative` must be left out"),
        (["--tries", "2"], "`--tries` must be left out"),
        (["--quality", "high"], "`--quality` must be draft or standard"),
        ([], "mesh.glb` cannot be read"),
    ],
)
def test_options_that_would_mean_nothing_are_refused_by_name(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lift", "a mug", "--mesh", str(tmp_path / "mesh.glb"), "--out", str(tmp_path / "mug.glb")]
    assert main([*arguments, *options]) in (2, 3)
    assert message in capsys.readouterr().err and not (tmp_path / "mug.glb").exists()
