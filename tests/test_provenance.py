"""Where files come from: records through every format, honest silence without a model, and files from strangers."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from PIL import Image
from test_export import cube, read_glb

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import AssetError, InputError
from viewfold.lifting.asset import Asset3D
from viewfold.origin.hook import Origin, label_of, relabelled
from viewfold.origin.record import TRAINED_ALGORITHMIC_MEDIA, payload, picture_fields, read_provenance, record
from viewfold.origin.watermark import embed, read
from viewfold.picture import read_image, write_turntable
from viewfold.pipeline import generate, generate_batch
from viewfold.scene.export import save_mesh
from viewfold.scene.grid import GridField
from viewfold.scene.meshfile import load_mesh
from viewfold.views import Views

RECORD = record(model="folders/mvdream", weights_sha256="c0ffee00" * 8, prompt="a red mug", seed=7, watermark=True)
LABEL = label_of(RECORD)
MESH = cube((0.8, 0.1, 0.2), (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model whose pictures are large enough to carry a mark."""
    pipeline = tiny_model()
    small = pipeline.decode
    pipeline.decode = lambda latents: torch.nn.functional.interpolate(small(latents), size=(64, 64), mode="bilinear")
    return pipeline


def make_views(record: object = None) -> Views:
    """Pictures of noise whose files carry a record, as the hook leaves them."""
    rgb = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), (64, 64))
    return relabelled(Views(rgb=rgb, cameras=Cameras.orbit(2), run={} if record is None else {"provenance": record}))


def test_a_record_says_which_model_and_seed_and_keeps_the_prompt_to_itself() -> None:
    assert RECORD["model"] == "mvdream" and RECORD["seed"] == 7 and payload(RECORD) == 0xC0FFEE00
    assert RECORD["prompt_sha256"] == hashlib.sha256(b"a red mug").hexdigest()
    assert "red mug" not in json.dumps(RECORD)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_a_picture_carries_its_record(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"turn{suffix}"
    if suffix == ".png":
        Image.new("RGB", (8, 8)).save(path, **picture_fields(RECORD, suffix=suffix))
    else:
        write_turntable(make_views().rgb, path, label=LABEL)
    said = read_provenance(path)
    assert said.record == RECORD
    assert said.digital_source_type == TRAINED_ALGORITHMIC_MEDIA
    assert said.software == RECORD["software"]
    if suffix != ".gif":
        assert b"DigitalSourceType" in path.read_bytes(), "in XMP as well, for other programs"


def test_other_programs_find_the_fields_where_they_look(tmp_path: Path) -> None:
    make_views(RECORD).save(tmp_path / "mug")
    with Image.open(tmp_path / "mug" / "000.png") as picture:
        assert picture.info["Software"] == RECORD["software"]
        assert TRAINED_ALGORITHMIC_MEDIA in picture.info["XML:com.adobe.xmp"]
    with Image.open(tmp_path / "mug" / "turntable.webp") as picture:
        assert (
            picture.getexif()[0x0131] == RECORD["software"]
            and TRAINED_ALGORITHMIC_MEDIA.encode() in picture.info["xmp"]
        )


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_mesh_carries_its_record_and_still_opens(suffix: str, tmp_path: Path) -> None:
    path = save_mesh(MESH, tmp_path / f"mug{suffix}", label=LABEL)
    assert read_provenance(path).record == RECORD
    assert len(load_mesh(path).faces) == 12


def test_a_glb_names_its_maker_in_gltfs_own_fields(tmp_path: Path) -> None:
    tree, _ = read_glb(save_mesh(MESH, tmp_path / "mug.glb", label=LABEL))
    assert tree["asset"] == {"version": "2.0", "generator": RECORD["software"], "extras": {"provenance": RECORD}}


def test_an_stl_has_room_for_one_word(tmp_path: Path) -> None:
    said = read_provenance(save_mesh(MESH, tmp_path / "mug.stl", label=LABEL))
    assert (said.record, said.digital_source_type) == (None, TRAINED_ALGORITHMIC_MEDIA)
    assert said.software == RECORD["software"]


NAMES = ["000.png", "contact.png", "turntable.webp", "mesh.glb", "mesh.obj", "mesh.ply", "mesh.stl"]


@pytest.mark.parametrize("name", NAMES)
def test_what_no_model_made_does_not_claim_it(name: str, tmp_path: Path) -> None:
    folder = make_views().save(tmp_path / "renders") if "mesh" not in name else tmp_path
    path = folder / name if "mesh" not in name else save_mesh(MESH, tmp_path / name)
    said = read_provenance(path)
    assert said.record is None and said.digital_source_type is None
    assert b"trainedAlgorithmicMedia" not in path.read_bytes()


def test_generate_records_and_marks_where_the_model_says_so(model: Any, tmp_path: Path) -> None:
    plain = generate(model, "a red mug", steps=1)
    marked = generate(model, "a red mug", steps=1, origin=Origin(watermark=True))
    assert payload(plain.run["provenance"]) is None and read(plain.rgb[0]) is None
    number = payload(marked.run["provenance"])
    assert number == int(marked.run["weights_sha256"][:8], 16)
    folder = marked.save(tmp_path / "mug")
    for name in ("000.png", "003.png", "contact.png"):
        assert read(read_image(folder / name)[:3]) == number, name
        assert read_provenance(folder / name).record == marked.run["provenance"]
    assert float((marked.rgb - plain.rgb).square().mean()) < 10**-3.7
    again = Views.load(folder)
    assert payload(again.run["provenance"]) == number, "saved again, it still says so"


def test_a_models_index_decides_and_a_call_overrules_it(model: Any) -> None:
    model.register_to_config(watermark=True)
    try:
        assert payload(generate(model, "a red mug", steps=1).run["provenance"]) is not None
        assert payload(generate(model, "a red mug", steps=1, origin=Origin(watermark=False)).run["provenance"]) is None
    finally:
        model.register_to_config(watermark=False)


def test_pictures_that_are_too_small_go_unmarked_unless_the_mark_was_asked_for() -> None:
    tiny = tiny_model()
    tiny.register_to_config(watermark=True)
    assert payload(generate(tiny, "a red mug", steps=1).run["provenance"]) is None
    with pytest.raises(InputError, match="at least 48 px"):
        generate(tiny, "a red mug", steps=1, origin=Origin(watermark=True))


def test_given_pictures_stay_as_they_are_and_claim_nothing(tmp_path: Path) -> None:
    views = make_views({**RECORD, "given": [1]})
    folder = views.save(tmp_path / "mug")
    assert read_provenance(folder / "000.png").record == RECORD
    assert read_provenance(folder / "001.png").record is None


def test_a_batch_marks_too(model: Any, tmp_path: Path) -> None:
    done = generate_batch(model, ["a red mug"], tmp_path, steps=1, origin=Origin(watermark=True)).done[0]
    assert read(read_image(done / "000.png")[:3]) is not None


def test_an_asset_carries_the_record_of_its_report(tmp_path: Path) -> None:
    grid = GridField(resolution=4)
    asset = Asset3D(mesh=MESH, representation=grid, views=make_views(), prompt="a cube", label=LABEL)
    path = asset.save(tmp_path / "cube.glb")
    assert read_provenance(path).record == RECORD
    assert read_provenance(path.with_suffix(".webp")).record == RECORD
    assert read(read_image(path.with_suffix(".webp"))[:3]) == payload(RECORD)


# Strangers' files ----------------------------------------------------------------------------------------------------


def glb(tree: bytes, *, says: int | None = None) -> bytes:
    length = len(tree) if says is None else says
    return struct.pack("<4sII", b"glTF", 2, 20 + len(tree)) + struct.pack("<I4s", length, b"JSON") + tree


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"\x89PNG\r\n\x1a\n broken"),
        ("a.jpg", b"GIF89a"),
        ("a.webp", b"RIFF\x00\x00\x00\x00WEBPVP8X"),
        ("a.glb", b"glTF"),
        ("a.glb", glb(b"{}", says=2**31)),
        ("a.glb", glb(b"{}", says=400)),
        ("a.glb", glb(b"[]")),
        ("a.glb", glb(b"[" * 100_000)),
        ("a.glb", glb(b'{"asset": 3}')),
        ("a.ply", b"obj"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AssetError, match=rf"{name}. cannot be read as"):
        read_provenance(tmp_path / name)


def test_missing_files_and_unknown_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="No such file"):
        read_provenance(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"must end in one of \.png"):
        read_provenance(tmp_path / "mug.txt")


@pytest.mark.parametrize(
    "found",
    [3, [], "x", {}, {"seed": "x", "model": 4}, {"watermark": "../x"}, {"a": {"b": 1}}, {"seed": True}],
)
def test_a_record_that_is_none_is_not_passed_on(found: object, tmp_path: Path) -> None:
    assert payload(found) is None
    views = make_views(found)
    views.save(tmp_path / "views")
    said = read_provenance(tmp_path / "views" / "000.png").record or {}
    assert set(said) <= {"watermark"}


def test_a_strangers_record_is_cut_and_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = {"model": "\x1b[2J" + "x" * 10**6, "software": '"/><script>', "seed": 3, "more": ["x"] * 1000}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", **picture_fields(evil, suffix=".png"))
    said = read_provenance(tmp_path / "a.png")
    assert said.record is not None and set(said.record) == {"model", "software", "seed"}
    assert len(said.record["model"]) <= 256 and (tmp_path / "a.png").stat().st_size < 10_000
    assert main(["provenance", str(tmp_path / "a.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_source_type_of_another_program_is_read(tmp_path: Path) -> None:
    packet = (
        b"<x:xmpmeta><Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/x/digitalCapture</Iptc4xmpExt:DigitalSourceType>"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.webp", xmp=packet)
    said = read_provenance(tmp_path / "photo.webp")
    assert said.record is None and said.digital_source_type == "http://cv.iptc.org/x/digitalCapture"


# The verb ------------------------------------------------------------------------------------------------------------


def test_the_verb_reads_records_and_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = make_views(RECORD)
    marked = replace(views, rgb=embed(views.rgb, 0xC0FFEE00))
    folder, mesh = marked.save(tmp_path / "mug"), save_mesh(MESH, tmp_path / "mug.glb", label=LABEL)
    assert main(["provenance", str(folder / "000.png"), str(mesh)]) == 0
    said = capsys.readouterr().out
    assert "model: mvdream" in said and "watermark: c0ffee00, as in the record" in said and said.count("seed: 7") == 2
    assert main(["provenance", "--json", str(folder / "000.png"), str(mesh)]) == 0
    picture, thing = map(json.loads, capsys.readouterr().out.splitlines())
    assert picture["record"] == thing["record"] == RECORD
    assert picture["watermark"] == "c0ffee00" and "watermark" not in thing


def test_the_verb_says_when_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), (90, 20, 200)).save(tmp_path / "photo.jpg")
    assert main(["provenance", str(tmp_path / "photo.jpg")]) == 0
    said = capsys.readouterr().out
    assert "no record of viewfold" in said and "watermark: none found" in said


def test_the_verb_goes_on_past_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    assert main(["provenance", str(tmp_path / "bad.png"), str(tmp_path / "good.png")]) == 3
    out, err = capsys.readouterr()
    assert "good.png" in out and "bad.png" in err and "1 of 2 files" in err and "Traceback" not in err
    assert main(["provenance", str(tmp_path / "bad.png")]) == 3


def test_names_and_prompts_that_are_no_text_are_shown_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system hands over bytes that are no UTF-8 as lone surrogates, which no strict stream takes."""
    assert len(record(model="a", weights_sha256="0" * 64, prompt="mug \udcff", seed=0, watermark=False)) == 6
    path = tmp_path / os.fsdecode(b"mug\xff.png")
    Image.new("RGB", (64, 64)).save(path)
    assert main(["provenance", str(path)]) == 0
    assert "mug\\udcff.png:" in capsys.readouterr().out
