"""The hook that signs results, and labels that outlive a folder: who is asked, what is said, what is kept unread."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from lift_fakes import ball_views
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_provenance import RECORD, make_views

import viewfold
from viewfold.label import UNLABELLED, Label, Made
from viewfold.lifting.distillation import DistilSettings
from viewfold.lifting.fit import FitSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import LiftSettings, MeshSettings
from viewfold.origin.hook import Origin, RecordLabel, relabelled
from viewfold.origin.record import payload, read_provenance
from viewfold.origin.watermark import read
from viewfold.picture import read_image
from viewfold.pipeline import generate
from viewfold.scene.grid import GridSettings
from viewfold.views import Views


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model whose pictures are large enough to carry a mark."""
    pipeline = tiny_model()
    small = pipeline.decode
    pipeline.decode = lambda latents: torch.nn.functional.interpolate(small(latents), size=(64, 64), mode="bilinear")
    return pipeline


def test_a_mark_goes_into_pictures_that_were_drawn_and_not_into_given_ones() -> None:
    views = replace(make_views(), rgb=torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    made = Made(model="toybox", weights_sha256="0" * 64, prompt="a mug", seed=0, given=(1,), watermark=True)
    signed = Origin().sign(views, made)
    assert torch.equal(signed.rgb[1], views.rgb[1]) and read(signed.rgb[0]) == 0
    assert signed.run["provenance"]["given"] == [1] and signed.label == RecordLabel(signed.run["provenance"])


def test_without_the_hook_nobody_is_asked_and_nothing_is_said(model: Any, tmp_path: Path) -> None:
    views = generate(model, "a red loli mug", steps=1, origin=None)
    assert "provenance" not in views.run
    assert read_provenance(views.save(tmp_path / "mug") / "000.png").software is None


def test_a_hook_of_ones_own_signs_in_its_own_way(model: Any) -> None:
    asked: list[object] = []

    class Own:
        def check_prompt(self, prompt: str) -> None:
            asked.append(prompt)

        def sign(self, views: Views, made: Made) -> Views:
            asked.append(made)
            return replace(views, run={"signed": True})

        def label(self, views: Views, made: Made | None) -> Label:
            return UNLABELLED

    assert generate(model, "a red mug", steps=1, seed=3, origin=Own()).run == {"signed": True}
    prompt, made = asked
    assert (
        prompt == "a red mug" and isinstance(made, Made) and (made.seed, made.given, made.watermark) == (3, (), False)
    )


@pytest.mark.parametrize("watermark", [None, True, False])
def test_an_asset_says_what_its_views_do_unless_a_model_went_on_from_them(watermark: bool | None) -> None:
    hook, drawn = Origin(watermark=watermark), make_views({**RECORD, "given": [1]})
    kept = {name: value for name, value in RECORD.items() if watermark is not False or name != "watermark"}
    assert hook.label(drawn, None) == RecordLabel(kept)
    assert hook.label(make_views(), None) is UNLABELLED
    for own in (False, True):
        made = Made(model="other", weights_sha256="ab" * 32, prompt="a mug", seed=1, watermark=own)
        label = hook.label(drawn, made)
        assert isinstance(label, RecordLabel) and label.record["model"] == "other"
        assert payload(label.record) == (0xABABABAB if (own if watermark is None else watermark) else None)


# Loaded and saved again ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 1])
def test_a_lift_signs_what_the_model_had_a_hand_in_and_nothing_else(steps: int) -> None:
    settings = LiftSettings(
        representation=GridSettings(resolution=16, samples=16),
        fit=FitSettings(steps=4),
        distil=DistilSettings(steps=steps),
        mesh=MeshSettings(resolution=24, faces=200, texture_size=32),
        polish=PolishSettings(steps=2),
    )
    asset = viewfold.lift(tiny_model(), "a red mug", views=ball_views(size=16), settings=settings)
    assert ("provenance" in asset.report) == bool(steps) == bool(asset.label.comment())
    assert asset.report.get("provenance", {}) == asset.label.report().get("provenance", {})


def test_what_files_said_is_there_again_when_they_were_loaded_and_saved(model: Any, tmp_path: Path) -> None:
    views = generate(model, "a red mug", steps=1, origin=Origin(watermark=True))
    once = views.save(tmp_path / "once")
    loaded = Views.load(once)
    twice = loaded.save(tmp_path / "twice")
    for index in range(len(views)):
        assert (once / f"{index:03d}.png").read_bytes() == (twice / f"{index:03d}.png").read_bytes()
    for name in ("contact.png", "turntable.webp"):
        assert read_provenance(twice / name) == read_provenance(once / name), name
    assert read(read_image(twice / "contact.png")[:3]) is None, "which is made of pixels: see Views.load"
    again = relabelled(loaded).save(tmp_path / "again")
    assert read(read_image(again / "contact.png")[:3]) == payload(views.run["provenance"])


def test_given_pictures_still_claim_nothing_when_they_were_loaded_and_saved(tmp_path: Path) -> None:
    once = make_views({**RECORD, "given": [1]}).save(tmp_path / "once")
    twice = Views.load(once).save(tmp_path / "twice")
    said = [read_provenance(twice / name).record for name in ("000.png", "001.png", "contact.png")]
    assert said == [RECORD, None, RECORD]


def test_words_and_source_of_another_program_stay_in_a_picture(tmp_path: Path) -> None:
    folder = make_views().save(tmp_path / "photos")
    packet = b'<x:xmpmeta Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/x/digitalCapture"/>'
    info = PngInfo()
    info.add_text("Copyright", "\u00a9 someone")
    info.add_itxt("Title", "\u5bff", lang="ja", tkey="\u984c")
    with Image.open(folder / "000.png") as picture:
        picture.save(folder / "000.png", pnginfo=info)
    with Image.open(folder / "001.png") as picture:
        picture.save(folder / "001.jpg", xmp=packet, quality=95)
    (folder / "transforms.json").write_text((folder / "transforms.json").read_text().replace("001.png", "001.jpg"))
    again = Views.load(folder).save(tmp_path / "again")
    with Image.open(again / "000.png") as picture:
        title = picture.info["Title"]
        assert picture.info["Copyright"] == "\u00a9 someone" and (title, title.lang) == ("\u5bff", "ja")
    assert read_provenance(again / "001.png").digital_source_type == "http://cv.iptc.org/x/digitalCapture"


@pytest.mark.parametrize("name", ["000.png", "contact.png", "turntable.webp"])
def test_fields_of_any_length_are_not_kept_and_a_damaged_sheet_does_no_harm(name: str, tmp_path: Path) -> None:
    folder = make_views().save(tmp_path / "mug")
    long = PngInfo()
    long.add_text("Comment", "x" * 2**17)
    with Image.open(folder / name) as picture:
        picture.save(folder / name, pnginfo=long, exif=b"Exif\0\0" + b"x" * 2**17)
    again = Views.load(folder).save(tmp_path / "again")
    assert (again / name).stat().st_size < 2**17
    for damage in (b"", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X"):
        if name != "000.png":
            (folder / name).write_bytes(damage)
            assert len(Views.load(folder)) == 2
