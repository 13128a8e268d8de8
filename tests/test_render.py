"""Rendering folders of assets: cameras, resuming, and what becomes of corrupt files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewfold.camera import Cameras, framing_distance
from viewfold.data import render
from viewfold.data.render import PAPER, RenderSettings, render_asset, render_assets
from viewfold.data.source import find_assets
from viewfold.errors import InputError, OutputError
from viewfold.picture import read_image
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh

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


def _red_square(folder: Path) -> Path:
    """A matt red square that faces the front, turned by 20 degrees so that its edges cut pixels."""
    turn = torch.tensor([[math.cos(0.35), -math.sin(0.35)], [math.sin(0.35), math.cos(0.35)]])
    across = torch.tensor([[-0.4, -0.4], [0.4, -0.4], [0.4, 0.4], [-0.4, 0.4]]) @ turn.T
    mesh = Mesh(
        vertices=torch.stack([across[:, 0], torch.zeros(4), across[:, 1]], dim=1) * 3 + torch.tensor([5.0, -2, 1]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        materials=(Material(color=(0.9, 0.1, 0.1)),),
    )
    to_trimesh(mesh).export(folder / "square.glb")
    return folder / "square.glb"


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_the_edge_of_a_red_square_is_red_and_its_coverage_counts_the_samples(tmp_path: Path, supersample: int) -> None:
    settings = RenderSettings(
        size=32, views=1, orbits=1, supersample=supersample, elevation_deg=(0.0, 0.0), random_azimuth=False
    )
    render_asset(_red_square(tmp_path), tmp_path / "out", settings=settings)
    picture = read_image(tmp_path / "out" / "square" / "000.webp")
    alpha, inside = picture[3], picture[:3, 16, 16]
    n = supersample**2
    counts = {round(value * n) for value in alpha.flatten().tolist()}
    torch.testing.assert_close((alpha * n).round() / n, alpha, atol=0.003, rtol=0)
    assert float(alpha.sum()) == pytest.approx((2**0.5 / 2 / 0.625 * 16) ** 2, rel=0.02)  # scaled to the sphere
    assert counts == {0, 1} if supersample == 1 else len(counts) > 3
    straight = picture[:3, alpha > 0.1]
    torch.testing.assert_close(straight, inside[:, None].expand_as(straight), atol=0.012, rtol=0)
    expected = 0.9 * ((0.55 + 0.8) / 2 + 0.3 * 0.7 / math.sqrt(1.01))  # half sky, half ground, and the lamp's share
    assert inside.tolist() == pytest.approx([expected, expected / 9, expected / 9], abs=0.01)


def test_each_circle_has_an_elevation_azimuth_lens_and_distance_of_its_own() -> None:
    settings = RenderSettings(
        orbits=40, views=3, elevation_deg=(-20.0, 60.0), fov_deg=(20.0, 50.0), distance=(0.8, 1.2), seed=1
    )
    cameras = settings.cameras("mug")
    circles = [cameras[3 * i : 3 * i + 3] for i in range(40)]
    for circle in circles:
        for numbers in (circle.elevation_deg, circle.fov_deg, circle.position.norm(dim=-1)):
            torch.testing.assert_close(numbers, numbers[:1].expand(3), atol=1e-3, rtol=1e-5)
        turned = (circle.azimuth_deg - circle.azimuth_deg[0]) % 360
        torch.testing.assert_close(turned, torch.tensor([0.0, 120, 240]), atol=1e-2, rtol=0)
    firsts = Cameras.cat([circle[0] for circle in circles])
    factor = firsts.position.norm(dim=-1) * (firsts.fov_deg.deg2rad() / 2).tan() / 0.5
    for numbers, low, high in (
        (firsts.elevation_deg, -20, 60),
        (firsts.fov_deg, 20, 50),
        (firsts.azimuth_deg, 0, 360),
        (factor, 0.8, 1.2),
    ):
        span = high - low  # of 40 uniform draws the ends are missed by more than a fifth once in 10,000
        assert low - 1e-3 <= float(numbers.min()) < low + 0.2 * span
        assert high - 0.2 * span < float(numbers.max()) <= high + 1e-3


def test_by_default_circles_are_framed_and_may_start_at_the_front() -> None:
    cameras = RenderSettings(random_azimuth=False).cameras("mug")
    assert len(cameras) == 8
    torch.testing.assert_close(cameras.azimuth_deg[[0, 4]], torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras.position.norm(dim=-1), torch.full((8,), framing_distance(40.0)))
    assert bool((RenderSettings().cameras("mug").azimuth_deg[[0, 4]] > 1).all())


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 0), ("size", 4097), ("supersample", 0), ("supersample", 17), ("orbits", 0), ("orbits", 1025)]
    + [("views", 0), ("views", 257), ("elevation_deg", (-90.0, 0.0)), ("elevation_deg", (0.0, 90.0))]
    + [("elevation_deg", (20.0, 10.0)), ("fov_deg", (0.5, 40.0)), ("fov_deg", (40.0, 171.0)), ("distance", (0.0, 1.0))],
)
def test_settings_out_of_range_are_named_and_their_limits_are_not(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"`{name}` must"):
        RenderSettings(**{name: value})
    RenderSettings(size=1, supersample=16, orbits=1, views=256, elevation_deg=(-89.9, 89.9), fov_deg=(1.0, 170.0))
    RenderSettings(size=4096, supersample=1, orbits=1024, views=1, elevation_deg=(5.0, 5.0), distance=(0.1, 100.0))


def test_of_two_files_of_one_name_the_first_kind_is_taken_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.ply", "b.obj", "b.glb", "a.PLY", "c.obj", ".d.glb", "e.json", "f.txt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_assets(tmp_path)] == ["a.PLY", "b.glb", "c.obj"]
    with pytest.raises(InputError, match="must be a folder of assets"):
        find_assets(tmp_path / "b.glb")


def test_assets_come_in_no_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for i in range(20):
        (tmp_path / f"{i:02d}.obj").write_text("")
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text("a mug")
    monkeypatch.setattr(render, "_attempt", lambda path, *_: taken.append(path.stem))
    report = render_assets(tmp_path, tmp_path / "out", settings=SETTINGS)
    assert report.done == 20 and sorted(taken) == [f"{i:02d}" for i in range(20)] != taken
    with pytest.raises(InputError, match="`workers` must be at least 1"):
        render_assets(tmp_path, tmp_path / "out", workers=0)


def test_what_is_written_says_how_it_was_rendered(assets: Path, tmp_path: Path) -> None:
    settings = RenderSettings(size=8, views=1, orbits=1, seed=9, fov_deg=(30.0, 30.0))
    render_assets(assets, tmp_path / "out", settings=settings)
    meta = json.loads((tmp_path / "out/two/meta.json").read_text())
    assert meta["render"] == settings.record()
    (view,) = meta["views"]
    cameras = settings.cameras("two")
    assert view["fov_deg"] == pytest.approx(30) and view["azimuth_deg"] == pytest.approx(float(cameras.azimuth_deg))
    assert view["world_from_camera"] == pytest.approx(cameras.world_from_camera.flatten().tolist())


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
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["one", "three", "two"]


def test_corrupt_assets_are_named_and_the_rest_is_rendered(assets: Path, tmp_path: Path) -> None:
    (assets / "bad.glb").write_bytes((assets / "one.glb").read_bytes()[:-40])
    _asset(assets, "worse")
    (assets / "worse.json").write_text("{")
    (assets / "point.obj").write_text("v 1 1 1\nf 1 1 1\n")
    report = render_assets(assets, tmp_path / "out", settings=SETTINGS)
    assert report.done == 2
    assert [name for name, _ in report.failed] == ["bad.glb", "point.obj", "worse.glb"]
    assert all(reason for _, reason in report.failed)
    assert sorted(p.parent.name for p in (tmp_path / "out").glob("*/meta.json")) == ["one", "two"]


@pytest.mark.slow
def test_two_processes_render_what_one_does(assets: Path, tmp_path: Path) -> None:
    (assets / "bad.glb").write_bytes(b"glTF")
    report = render_assets(assets, tmp_path / "two", settings=SETTINGS, workers=2)
    assert (report.done, len(report.failed)) == (2, 1)
    render_assets(assets, tmp_path / "one", settings=SETTINGS)
    for uid in ("one", "two"):
        assert (tmp_path / "one" / uid / "003.webp").read_bytes() == (tmp_path / "two" / uid / "003.webp").read_bytes()


def test_a_folder_without_assets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.glb, \.gltf, \.obj, \.ply"):
        render_assets(tmp_path, tmp_path / "out")


def test_a_folder_that_holds_anything_else_is_never_replaced(assets: Path) -> None:
    (assets / "one").mkdir()
    (assets / "one" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="thesis.txt"):
        render_assets(assets, assets, settings=SETTINGS)
    assert (assets / "one" / "thesis.txt").is_file()


def test_depth_and_normals_are_written_to_scale(tmp_path: Path) -> None:
    settings = RenderSettings(
        size=32, views=1, orbits=1, elevation_deg=(0.0, 0.0), random_azimuth=False, depth=True, normals=True
    )
    render_asset(_red_square(tmp_path), tmp_path / "out", settings=settings)
    folder = tmp_path / "out" / "square"
    (view,) = json.loads((folder / "meta.json").read_text())["views"]
    with Image.open(folder / view["depth_file"]) as picture:
        assert picture.mode == "I;16"
        depth = torch.from_numpy(np.asarray(picture).astype(np.int64)) * view["depth_scale"]
    alpha = read_image(folder / "000.webp")[3]
    torch.testing.assert_close(depth[alpha == 1], depth[alpha == 1] * 0 + framing_distance(40.0), atol=1e-4, rtol=0)
    assert not depth[alpha == 0].any()
    normal = read_image(folder / view["normal_file"])
    towards_front = torch.tensor([0.5, 0.0, 0.5])[:, None]
    torch.testing.assert_close(
        normal[:, alpha == 1], towards_front.expand(3, int((alpha == 1).sum())), atol=0.003, rtol=0
    )
    assert not normal[:, alpha == 0].any()


def test_without_light_the_pixels_are_the_material_and_in_a_cube_the_object_is_larger(tmp_path: Path) -> None:
    settings = RenderSettings(size=32, views=1, orbits=1, elevation_deg=(0.0, 0.0), random_azimuth=False, light="none")
    square = _red_square(tmp_path)
    render_asset(square, tmp_path / "a", settings=settings)
    render_asset(square, tmp_path / "b", settings=dataclasses.replace(settings, frame="cube"))
    sphere, cube = (read_image(tmp_path / name / "square" / "000.webp") for name in "ab")
    assert sphere[:3, 16, 16].tolist() == pytest.approx([0.9, 0.1, 0.1], abs=0.012)  # eight bits of linear colour
    side = 0.8 * (math.cos(0.35) + math.sin(0.35))  # of the square's box, which becomes 1; its diagonal was
    assert float(cube[3].sum() / sphere[3].sum()) == pytest.approx(0.8 * 2**0.5 * 0.8 * 2**0.5 / side**2, rel=0.02)


def test_fast_pictures_have_the_same_pixels(assets: Path, tmp_path: Path) -> None:
    for webp in ("small", "fast"):
        render_assets(assets, tmp_path / webp, settings=SETTINGS, webp=webp)
    for name in ("one/000.webp", "two/003.webp"):
        small, fast = (read_image(tmp_path / webp / name) for webp in ("small", "fast"))
        assert torch.equal(small[3], fast[3]) and torch.equal(small[:, small[3] > 0], fast[:, fast[3] > 0])
