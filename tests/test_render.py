"""Rendering folders of assets: cameras, resuming, and what becomes of corrupt files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.data import render
from viewfold.data.render import PAPER, RenderSettings, render_assets
from viewfold.errors import InputError, OutputError
from viewfold.image import read_image
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.mesh import Material, Mesh

SETTINGS = RenderSettings(size=16, views=2)


def _asset(folder: Path, uid: str) -> None:
    mesh = Mesh(
        vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        faces=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
        materials=(Material(color=(0.9, 0.2, 0.1)),),
    )
    to_trimesh(mesh).export(folder / f"{uid}.glb")
    (folder / f"{uid}.json").write_text(json.dumps({"captions": [f"a red {uid}"], "licence": "CC0"}))


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    for uid in ("one", "two"):
        _asset(folder, uid)
    return folder


def test_an_asset_becomes_pictures_with_their_cameras(assets: Path, tmp_path: Path) -> None:
    report = render_assets(assets, tmp_path / "out", settings=SETTINGS)
    assert (report.done, report.skipped, report.failed) == (2, 0, [])
    meta = json.loads((tmp_path / "out/one/meta.json").read_text())
    assert meta["captions"] == ["a red one"] and meta["licence"] == "CC0" and meta["uid"] == "one"
    assert [view["file"] for view in meta["views"]] == ["000.webp", "001.webp", "002.webp", "003.webp"]
    picture = read_image(tmp_path / "out/one/000.webp")
    assert picture.shape == (4, 16, 16)
    assert float(picture[3].max()) == 1 and float(picture[3].min()) == 0
    opaque = picture[:3, picture[3] > 0.9].mean(1)
    assert float(opaque[0]) > 3 * float(opaque[1]) > 0
    pose = torch.tensor([view["world_from_camera"] for view in meta["views"]]).view(-1, 4, 4)
    cameras = Cameras(world_from_camera=pose, fov_deg=torch.tensor([view["fov_deg"] for view in meta["views"]]))
    assert torch.allclose(cameras.code(), SETTINGS.cameras("one").code())
    assert cameras.elevation_deg.tolist() == pytest.approx([view["elevation_deg"] for view in meta["views"]], abs=1e-3)


def test_cameras_depend_on_the_seed_and_the_name_alone() -> None:
    one = RenderSettings(seed=3).cameras("duck")
    assert torch.equal(one.world_from_camera, RenderSettings(seed=3).cameras("duck").world_from_camera)
    assert not torch.equal(one.world_from_camera, RenderSettings(seed=3).cameras("mug").world_from_camera)
    assert not torch.equal(one.world_from_camera, RenderSettings(seed=4).cameras("duck").world_from_camera)


def test_the_papers_cameras_stay_in_the_papers_ranges() -> None:
    cameras = Cameras.cat([PAPER.cameras(f"asset {i}") for i in range(20)])
    assert len(cameras) == 20 * 2 * 32
    assert bool(((cameras.fov_deg >= 15) & (cameras.fov_deg <= 60)).all())
    assert bool(((cameras.elevation_deg > -1e-3) & (cameras.elevation_deg < 30.001)).all())
    factor = cameras.position.norm(dim=-1) * (cameras.fov_deg.deg2rad() / 2).tan() / 0.5
    assert 0.9 <= float(factor.min()) + 1e-5 and float(factor.max()) <= 1.1 + 1e-5
    assert cameras.azimuth_deg[1].item() == pytest.approx(360 / 32, abs=1e-2)
    assert math.isclose(float(cameras.fov_deg.max()), 60, abs_tol=8)


def test_a_second_run_renders_only_what_is_missing(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render_assets(assets, out, settings=SETTINGS)
    first = (out / "one/000.webp").read_bytes()
    (out / "one/meta.json").unlink()  # as if it had been cut off
    _asset(assets, "three")
    seen: list[tuple[int, int]] = []
    report = render_assets(assets, out, settings=SETTINGS, progress=lambda done, total: seen.append((done, total)))
    assert (report.done, report.skipped) == (2, 1)
    assert seen == [(2, 3), (3, 3)]
    assert (out / "one/000.webp").read_bytes() == first
    assert sorted(p.name for p in out.iterdir()) == ["one", "three", "two"]


def test_corrupt_assets_are_named_and_the_rest_is_rendered(assets: Path, tmp_path: Path) -> None:
    (assets / "bad.glb").write_bytes((assets / "one.glb").read_bytes()[:-40])
    _asset(assets, "worse")
    (assets / "worse.json").write_text("{")
    (assets / "point.obj").write_text("v 1 1 1\nf 1 1 1\n")
    report = render_assets(assets, tmp_path / "out", settings=SETTINGS)
    assert report.done == 2
    assert [name for name, _ in report.failed] == ["bad.glb", "point.obj", "worse.glb"]
    assert all(reason for _, reason in report.failed)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_two_processes_render_what_one_does(assets: Path, tmp_path: Path) -> None:
    (assets / "bad.glb").write_bytes(b"glTF")
    report = render_assets(assets, tmp_path / "two", settings=SETTINGS, workers=2)
    assert (report.done, len(report.failed)) == (2, 1)
    render_assets(assets, tmp_path / "one", settings=SETTINGS)
    for uid in ("one", "two"):
        assert (tmp_path / "one" / uid / "003.webp").read_bytes() == (tmp_path / "two" / uid / "003.webp").read_bytes()


def test_a_folder_without_assets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.glb, \.obj, \.ply"):
        render_assets(tmp_path, tmp_path / "out")


def test_an_asset_that_kills_its_process_is_found_and_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deadly, started = Path("c.glb"), []

    def fake(paths: list[Path], *_: object) -> Iterator[tuple[Path, None]]:
        started.append(paths[0].name)
        for path in paths:
            if path == deadly:
                raise BrokenProcessPool
            yield path, None

    monkeypatch.setattr(render, "_in_pool", fake)
    paths = [Path(f"{name}.glb") for name in "abcde"]
    result = list(render._render_all(paths, tmp_path, SETTINGS, 2))
    assert [path for path, _ in result] == paths
    assert [path for path, reason in result if reason] == [deadly]
    assert started == ["a.glb", "c.glb", "d.glb"]


def test_a_folder_that_holds_anything_else_is_never_replaced(assets: Path) -> None:
    (assets / "one").mkdir()
    (assets / "one" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="thesis.txt"):
        render_assets(assets, assets, settings=SETTINGS)
    assert (assets / "one" / "thesis.txt").is_file()
