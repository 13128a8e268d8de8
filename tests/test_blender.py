"""Blender as an engine: how it is found, what becomes of one that dies, and, where there is one, the same pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import trimesh

from viewfold.data.engines import Cycles, Engine, Pictures, RenderSettings, Subject, open_engine
from viewfold.data.engines.blender import HOW_TO_GET, PROGRAM, find_surroundings
from viewfold.data.engines.exr import read_exr
from viewfold.data.render import Limits, render_assets
from viewfold.data.toybox import sample_toy
from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.picture import read_image
from viewfold.scene.export import save_mesh
from viewfold.scene.framing import Frame
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh

SETTINGS = RenderSettings(size=16, views=2, orbits=1, engine="blender")


def program(folder: Path, *lines: str) -> Path:
    """A program that stands for a Python with bpy."""
    path = folder / "python-of-blender"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def textured_box(folder: Path) -> Path:
    """Six sides, each with a quarter of its own colour, as a GLB with a texture and no vertex colours."""
    corner = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.3, 0.3) for z in (-0.4, 0.4)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    image = torch.tensor([[0.9, 0.1, 0.1, 0.5], [0.1, 0.8, 0.2, 0.7]])[:, :, None].repeat(1, 1, 3)
    image = torch.stack([image[..., 0], image[..., 1].flip(0), image[..., 2].flip(1)], dim=-1)
    image = image.repeat_interleave(16, 0).repeat_interleave(16, 1)
    faces = torch.tensor([[4 * i + a for a in three] for i in range(6) for three in ((0, 1, 2), (0, 2, 3))])
    mesh = Mesh(
        vertices=corner[[i for side in sides for i in side]],
        faces=faces,
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).repeat(6, 1),
        materials=(Material(texture=Texture(image=image)),),
    )
    to_trimesh(mesh).export(folder / "box.glb")
    return folder / "box.glb"


def agreement(one: Pictures, two: Pictures) -> dict[str, float]:
    """How far two engines' pictures are apart where both are opaque."""
    inside = [(pictures.rgba[:, 3] > 0.5) for pictures in (one, two)]
    both = (one.rgba[:, 3] > 0.99) & (two.rgba[:, 3] > 0.99)
    return {
        "iou": float((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()),
        "color": float((one.rgba[:, :3] - two.rgba[:, :3]).abs().permute(0, 2, 3, 1)[both].mean()),
        "depth": float((one.depth - two.depth).abs()[:, 0][both].median()),
        "cosine": float((one.normal * two.normal).sum(1)[both].median()),
    }


def test_without_blender_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(PROGRAM, raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install bpy==5\.0\.1"):
        open_engine(SETTINGS)
    monkeypatch.setenv(PROGRAM, str(tmp_path / "nothing"))
    with pytest.raises(MissingExtraError, match="nothing' is no program"):
        open_engine(SETTINGS)
    with pytest.raises(MissingExtraError, match="has none"):
        open_engine(SETTINGS, blender=program(tmp_path, "exit 1")).draw(
            Subject.of(textured_box(tmp_path)), SETTINGS.cameras("box"), SETTINGS
        )


def test_a_blender_that_dies_is_tried_again_and_then_names_its_asset(tmp_path: Path) -> None:
    answer = 'viewfold-render: {"version": "0"}'
    fake = program(tmp_path, f"echo x >> {tmp_path}/starts", f"echo '{answer}'", "read job", "kill -9 $$")
    textured_box(tmp_path)
    report = render_assets(
        tmp_path, tmp_path / "out", settings=SETTINGS, blender=fake, limits=Limits(retries=2), caption_from_name=True
    )
    assert report.failed == [("box.glb", "Blender died (SIGKILL)")]
    assert (tmp_path / "starts").read_text() == "x\n" * 3
    assert [path.name for path in (tmp_path / "out").glob("*")] == ["manifest.sqlite"], "which knows the reason"


def test_what_blender_says_of_an_asset_is_passed_on(tmp_path: Path) -> None:
    job = tmp_path / "seen.json"
    lines = ['echo \'viewfold-render: {"version": "0"}\'', "while read job; do", f'cat "$job" > {job}', "echo noise"]
    fake = program(tmp_path, *lines, 'echo \'viewfold-render: {"error": "no mesh"}\'', "done")
    engine = open_engine(SETTINGS, blender=fake)
    with pytest.raises(AssetError, match="box.glb` cannot be drawn by Blender: no mesh"):
        engine.draw(Subject.of(textured_box(tmp_path)), SETTINGS.cameras("box"), SETTINGS)
    engine.close()
    told = json.loads(job.read_text())
    assert [view["fov_deg"] for view in told["views"]] == [40.0, 40.0] and told["samples"] == 32
    assert told["scale"] == pytest.approx(0.5 / 0.5**0.5) and told["center"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_surroundings_are_files_that_blender_reads(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`hdri` must be"):
        find_surroundings(tmp_path)
    for name in ("b.exr", "a.HDR", "c.png"):
        (tmp_path / name).write_text("")
    assert [path.name for path in find_surroundings(tmp_path)] == ["a.HDR", "b.exr"]
    chosen = {SETTINGS.surroundings_of(f"asset {i}", 2) for i in range(20)}
    assert chosen == {(0, 0.0), (1, 0.0)}
    turned = dataclasses.replace(SETTINGS, light="random").surroundings_of("asset 0", 2)
    assert turned == dataclasses.replace(SETTINGS, light="random").surroundings_of("asset 0", 2) and turned[1] > 0


def exr(width: int, height: int, channels: dict[str, np.ndarray], compression: int = 0) -> bytes:
    """An OpenEXR file by the layout's description, its lines from the bottom up."""

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value

    listed = b"".join(name.encode() + b"\0" + struct.pack("<iiii", 2, 0, 1, 1) for name in channels) + b"\0"
    head = struct.pack("<ii", 20000630, 2) + attribute("channels", "chlist", listed)
    head += attribute("compression", "compression", bytes([compression]))
    for name in ("dataWindow", "displayWindow"):
        head += attribute(name, "box2i", struct.pack("<iiii", 0, 0, width - 1, height - 1))
    head += attribute("lineOrder", "lineOrder", b"\1") + attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    head += attribute("screenWindowCenter", "v2f", struct.pack("<ff", 0, 0))
    head += attribute("screenWindowWidth", "float", struct.pack("<f", 1)) + b"\0"
    line = 8 + 4 * width * len(channels)
    table = [len(head) + 8 * height + line * (height - 1 - row) for row in range(height)]
    lines = b""
    for row in reversed(range(height)):
        pixels = b"".join(values[row].astype("<f4").tobytes() for values in channels.values())
        lines += struct.pack("<ii", row, len(pixels)) + pixels
    return head + struct.pack(f"<{height}Q", *table) + lines


def test_exr_pictures_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    channels = {name: random.normal(size=(3, 5)).astype(np.float32) for name in ("Layer.Combined.A", "Layer.z.V")}
    path = tmp_path / "a.exr"
    path.write_bytes(whole := exr(5, 3, channels))
    found = read_exr(path)
    assert found.keys() == channels.keys()
    for name, values in channels.items():
        assert np.array_equal(found[name], values)
    for damaged in (whole[:-1], whole[:40], b"", b"x" * 400, exr(5, 3, channels, compression=3)):
        path.write_bytes(damaged)
        with pytest.raises(AssetError, match="a.exr"):
            read_exr(path)


@pytest.fixture(scope="module")
def blender() -> Iterator[Engine]:
    if not os.environ.get(PROGRAM):
        pytest.skip(f"{PROGRAM} names no Blender. {HOW_TO_GET}")
    engine = open_engine(SETTINGS)
    yield engine
    engine.close()


@pytest.mark.heavy
@pytest.mark.parametrize("frame", get_args(Frame))
@pytest.mark.parametrize("kind", ["toy", "textured", "obj", "ply", "mesh"])
def test_blender_and_the_built_in_engine_show_the_same_object(
    blender: Engine, tmp_path: Path, kind: str, frame: Frame
) -> None:
    ours = RenderSettings(
        size=96, supersample=8, orbits=1, views=3, light="none", frame=frame, fov_deg=(30.0, 50.0), depth=True
    )
    theirs = dataclasses.replace(ours, engine="blender", cycles=Cycles(samples=64))
    toy = next(toy for toy in map(sample_toy, range(99)) if getattr(toy, "finish", "matt") == "matt").mesh()
    toy = dataclasses.replace(toy, vertices=toy.vertices * 3 + torch.tensor([5.0, -2, 1]))
    match kind:
        case "textured":
            asset: Path | Mesh = textured_box(tmp_path)
        case "mesh":
            asset = toy
        case _:
            asset = tmp_path / f"toy.{'glb' if kind == 'toy' else kind}"
            save_mesh(toy, asset)
    subject = Subject.of(asset, frame=ours.frame, uid="toy")
    cameras = ours.cameras("toy")
    found = agreement(blender.draw(subject, cameras, theirs), open_engine(ours).draw(subject, cameras, ours))
    assert found["iou"] > 0.99 and found["color"] < 0.01 and found["depth"] < 1e-3 and found["cosine"] > 0.99, found


@pytest.mark.heavy
def test_what_blenders_reader_puts_elsewhere_is_handed_over_as_ours_reads_it(blender: Engine, tmp_path: Path) -> None:
    """Coordinates of a survey: our reader moves them to the origin, Blender's loses their small digits."""
    lines = ["v 5000000 0 4000000", "v 5000001 0 4000000", "v 5000000 1 4000000", "v 5000000 0 4000001"]
    (tmp_path / "far.obj").write_text("\n".join([*lines, "f 1 3 2", "f 1 2 4", "f 1 4 3", "f 2 3 4", ""]))
    ours = RenderSettings(size=64, supersample=8, orbits=1, views=3, light="none")
    subject, cameras = Subject.of(tmp_path / "far.obj"), ours.cameras("far")
    theirs = blender.draw(subject, cameras, dataclasses.replace(ours, engine="blender"))
    assert theirs.notes["read_by"] == "viewfold"
    assert agreement(theirs, open_engine(ours).draw(subject, cameras, ours))["iou"] > 0.99


@pytest.mark.heavy
def test_light_falls_from_where_the_built_in_engine_has_it(blender: Engine, tmp_path: Path) -> None:
    ours = RenderSettings(size=48, orbits=1, views=4, light="random", seed=3)
    theirs = dataclasses.replace(ours, engine="blender", cycles=Cycles(samples=64))
    trimesh.creation.icosphere(subdivisions=4).export(tmp_path / "ball.ply")
    subject = Subject.of(tmp_path / "ball.ply")
    for uid in ("a", "b", "c"):
        subject = dataclasses.replace(subject, uid=uid)
        cameras = ours.cameras(uid)
        one, two = (
            engine.draw(subject, cameras, s).rgba for engine, s in ((blender, theirs), (open_engine(ours), ours))
        )
        both = (one[:, 3] > 0.99) & (two[:, 3] > 0.99)
        pair = torch.stack([one[:, 0][both], two[:, 0][both]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.9
        assert float((pair[0] - pair[1]).abs().mean()) < 0.06


@pytest.mark.heavy
def test_surroundings_light_what_stands_in_them(blender: Engine, tmp_path: Path) -> None:
    red = {name: np.full((8, 16), value, dtype=np.float32) for name, value in (("B", 0.0), ("G", 0.1), ("R", 0.8))}
    (tmp_path / "red.exr").write_bytes(exr(16, 8, red))
    trimesh.creation.icosphere(subdivisions=3).export(tmp_path / "ball.ply")
    cycles = Cycles(samples=16, hdri=str(tmp_path))
    settings = RenderSettings(size=24, orbits=1, views=2, light="random", engine="blender", cycles=cycles)
    render_assets(tmp_path, tmp_path / "out", settings=settings, blender=os.environ[PROGRAM], caption_from_name=True)
    meta = json.loads((tmp_path / "out" / "ball" / "meta.json").read_text())
    assert meta["drawing"]["hdri"] == "red.exr" and 0 < meta["drawing"]["turn_deg"] < 360
    assert meta["drawing"]["light"] is None and meta["drawing"]["engine"].startswith("Blender ")
    picture = read_image(tmp_path / "out" / "ball" / "000.webp")
    assert picture[:3, 12, 12].tolist() == pytest.approx([0.9, 0.35, 0.0], abs=0.05)
