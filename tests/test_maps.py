"""`lift --maps` and `--turntable`: pictures of the result beside it, true to its shape."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_asset_files import asset, contents
from test_export import cube
from test_provenance import LABEL

from viewfold.camera import Cameras
from viewfold.cli import main, maps
from viewfold.cli.maps import check_maps, write_maps
from viewfold.errors import MissingExtraError, OutputError
from viewfold.lifting.asset import Asset3D, check_place
from viewfold.origin.record import read_provenance
from viewfold.scene.standing import Standing
from viewfold.views import Views

HALF = 0.25


def box() -> Asset3D:
    """A red box of side 0.5 about the origin, which stands a metre tall in its file."""
    mesh = replace(cube((1.0, 0.2, 0.1), (0.0, 0.0, 0.0)), vertex_color=None)
    middle = (mesh.vertices.amax(0) + mesh.vertices.amin(0)) / 2
    vertices = (mesh.vertices - middle) * (2 * HALF / (mesh.vertices.amax(0) - mesh.vertices.amin(0)))
    views = Views(rgb=torch.rand(1, 3, 8, 8), cameras=Cameras.orbit(1, fov_deg=50))
    standing = Standing(height=1.0, origin="base")
    return replace(asset(), mesh=replace(mesh, vertices=vertices), views=views, standing=standing, label=LABEL)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "SIZE", 96)


# Maps -----------------------------------------------------------------------------------------------------------------


def test_depth_and_cameras_lead_back_to_the_surface_and_normals_stand_on_it(tmp_path: Path) -> None:
    made = box()
    folder = write_maps(made, made.save(tmp_path / "box.glb", turntable=False))
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    assert len(frames) == 8 and len(list(folder.iterdir())) == 8 * 4 + 2
    for frame in frames:
        pose, size = np.array(frame["transform_matrix"]), frame["w"]
        depth = pixels(folder / frame["depth_file_path"]) * frame["depth_scale"]
        opacity = pixels(folder / frame["opacity_file_path"]) / 255
        rgba = pixels(folder / frame["file_path"]) / 255
        assert np.array_equal(rgba[..., 3], opacity) and depth.shape == (size, size)
        row, column = np.nonzero(opacity == 1)
        assert 0.1 < len(row) / size**2 < 0.7
        x, y = (column + 0.5 - frame["cx"]) / frame["fl_x"], -(row + 0.5 - frame["cy"]) / frame["fl_y"]
        far = depth[row, column]
        points = np.stack([x * far, y * far, -far, np.ones_like(far)]).T @ pose.T
        on = np.abs(points[:, :3]) / HALF
        inner = np.sort(on, axis=1)[:, 1] < 0.9  # a pixel at an edge is of two sides
        assert np.abs(on[inner].max(1) - 1).max() < 0.01, "each point lies on a side of the box"
        normal = pixels(folder / frame["normal_file_path"])[row, column] / 255 * 2 - 1
        side = np.eye(3)[on.argmax(1)] * np.sign(points[:, :3])
        assert (normal * side).sum(1)[inner].min() > 0.98
        assert (rgba[row, column, 0] > rgba[row, column, 2]).all()
    azimuths = Cameras(
        world_from_camera=torch.tensor([frame["transform_matrix"] for frame in frames]), fov_deg=torch.full((8,), 50.0)
    ).azimuth_deg
    assert azimuths.tolist() == pytest.approx([45.0 * i for i in range(8)], abs=1e-3)


def test_maps_are_views_that_say_what_they_show(tmp_path: Path) -> None:
    made = box()
    path = made.save(tmp_path / "box.obj", turntable=False)
    views = Views.load(write_maps(made, path))
    assert views.prompt == made.prompt and views.alpha is not None and len(views) == 8
    assert views.cameras.fov_deg.tolist() == pytest.approx([50.0] * 8)
    assert views.run["asset"]["name"] == "box.obj" and views.run["provenance"] == LABEL.report()["provenance"]
    corner = torch.tensor(views.run["file_from_world"]) @ torch.tensor([HALF, HALF, HALF, 1.0])
    assert corner.tolist() == pytest.approx([0.5, 0.5, 1.0, 1.0]), "of a metre's height, on its base"
    for name in ("000.webp", "000.depth.png", "000.normal.png", "000.opacity.png"):
        assert read_provenance(tmp_path / "box.maps" / name), name


def test_maps_replace_older_ones_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path, folder = box(), tmp_path / "box.glb", tmp_path / "box.maps"
    made.save(path, turntable=False)
    write_maps(made, path)
    before = contents(folder)
    monkeypatch.setattr(Views, "transforms", lambda *_, **__: {"frames": [{}] * 8, "bad": {1j}})
    with pytest.raises(TypeError):
        write_maps(replace(made, prompt="another"), path)
    assert contents(folder) == before and {entry.name for entry in tmp_path.iterdir()} == {
        "box.glb",
        "box.json",
        "box.maps",
    }
    (folder / "mine.txt").write_text("somebody's")
    with pytest.raises(OutputError, match="holds other things, which would be lost .mine.txt"):
        check_maps(path)


# Turntables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def film(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for imageio-ffmpeg: a writer that is sent frames."""

    def write_frames(path: str, size: tuple[int, int], **_: Any) -> Any:
        data = b"film"
        while (frame := (yield)) is not None:
            data += frame[:1]
        Path(path).write_bytes(data)

    class Writer:
        def __init__(self, path: str, size: tuple[int, int], **options: Any) -> None:
            self.steps = write_frames(path, size, **options)

        def send(self, frame: bytes | None) -> None:
            self.steps.send(frame)

        def close(self) -> None:
            with pytest.raises(StopIteration):
                self.steps.send(None)

    package = ModuleType("imageio_ffmpeg")
    package.write_frames = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)


def told(folder: Path) -> str | None:
    return json.loads((folder / "mug.json").read_text())["turntable"]


@pytest.mark.usefixtures("film")
def test_a_turntable_is_of_the_kind_that_is_asked_for_and_the_one_before_goes(tmp_path: Path) -> None:
    for kind, name in (("webp", "mug.webp"), ("mp4", "mug.mp4"), (True, "mug.webp"), ("mp4", "mug.mp4"), (False, None)):
        asset().save(tmp_path / "mug.glb", turntable=kind)
        assert contents(tmp_path).keys() == {"mug.glb", "mug.json"} | ({name} if name else set())
        assert told(tmp_path) == name


def test_a_film_that_cannot_be_made_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match="pip install imageio-ffmpeg"):
        check_place(tmp_path / "mug.glb", turntable="mp4")
    (tmp_path / "mug.mp4").mkdir()
    check_place(tmp_path / "mug.glb", turntable="webp")


def test_a_film_is_made_by_the_real_package(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    asset().save(tmp_path / "mug.glb", turntable="mp4")
    assert (tmp_path / "mug.mp4").read_bytes()[4:8] == b"ftyp" and not (tmp_path / "mug.webp").exists()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_refuses_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    Path("list.txt").write_text("a mug")
    Path("mug.maps").mkdir()
    Path("mug.maps/mine.txt").write_text("somebody's")
    for options, code, says in (
        (["--prompts", "list.txt", "--maps"], 2, "`--maps` must be left out with `--prompts`"),
        (["--prompts", "list.txt", "--turntable", "mp4"], 6, "pip install imageio-ffmpeg"),
        (["a mug", "--turntable", "mp4"], 6, "pip install imageio-ffmpeg"),
        (["a mug", "--maps", "--out", "mug.glb"], 4, "mug.maps` cannot be written: the folder holds other things"),
    ):
        assert main(["lift", *options, "--model", "nowhere"]) == code, options
        assert says in capsys.readouterr().err
