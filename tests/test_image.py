"""Views on disk: round trips, all or nothing, and pictures from strangers."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError, OutputError
from viewfold.picture import contact_sheet, read_image, write_turntable
from viewfold.store import atomic_write, check_output
from viewfold.views import Views


def make_views(*, alpha: bool = False) -> Views:
    generator = torch.Generator().manual_seed(0)
    rgb = (torch.rand(3, 3, 8, 8, generator=generator) * 255).round() / 255
    return Views(
        rgb=rgb,
        alpha=torch.ones(3, 1, 8, 8) if alpha else None,
        cameras=Cameras.orbit(3, elevation_deg=20, fov_deg=35),
        prompt="a red mug",
        run={"seed": 3},
    )


@pytest.mark.parametrize("alpha", [False, True])
def test_saved_views_load_back_the_same(tmp_path: Path, alpha: bool) -> None:
    views = make_views(alpha=alpha)
    views.save(tmp_path / "mug")
    again = Views.load(tmp_path / "mug")
    assert torch.equal(again.rgb, views.rgb)
    assert (again.alpha is not None) == alpha
    assert torch.allclose(again.cameras.world_from_camera, views.cameras.world_from_camera)
    assert torch.allclose(again.cameras.fov_deg, views.cameras.fov_deg)
    assert again.prompt == "a red mug" and again.run["seed"] == 3


def test_saving_twice_replaces_the_folder(tmp_path: Path) -> None:
    make_views().save(tmp_path / "mug")
    (tmp_path / "mug" / "007.png").write_text("of an older run with more views")
    make_views().save(tmp_path / "mug")
    assert not (tmp_path / "mug" / "007.png").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mug"]


def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"would be lost \(thesis.txt\)"):
        make_views().save(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="would be lost"):
        make_views().save(".")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match="the folder that you are in"):
        make_views().save(".")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "thesis.txt"]


def test_a_place_that_cannot_be_written_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.glb").mkdir()
    for place, holds, says in (
        ("file", "x", "it is a file"),
        ("file/x.glb", None, "file is a file"),
        ("folder.glb", None, "it is a folder"),
        ("a" * 300, "x", "name too long"),
    ):
        with pytest.raises(OutputError, match=says):
            check_output(tmp_path / place, holds=holds)
    check_output(tmp_path / "new" / "deep" / "mug.glb")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="no permission"):
        check_output(tmp_path / "mug.glb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.glb"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("encoder error -2 when writing image file"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_error_whoever_writes(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python, Pillow, torch and safetensors say it."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OutputError, match="no space left"), atomic_write(tmp_path / "file"):
        raise error
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))
    with pytest.raises(RuntimeError, match="shapes"), atomic_write(tmp_path / "file"):
        raise RuntimeError("shapes do not fit")
    assert not list(tmp_path.iterdir())


def test_a_failure_inside_atomic_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        make_views().save(tmp_path / "file" / "mug")


def test_pictures_outside_the_folder_are_refused(tmp_path: Path) -> None:
    make_views().save(tmp_path / "mug")
    document = json.loads((tmp_path / "mug" / "transforms.json").read_text())
    document["frames"][0]["file_path"] = "../../secret.png"
    (tmp_path / "mug" / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(AssetError, match="points outside"):
        Views.load(tmp_path / "mug")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", b"not a picture"])
def test_damaged_pictures_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(AssetError, match=r"bad\.png"):
        read_image(tmp_path / "bad.png")


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PPM"])
def test_seldom_kinds_of_pictures_are_not_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS would start Ghostscript on a stranger's program, whatever the file's name."""
    from PIL import EpsImagePlugin, Image

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", format=kind)
    with pytest.raises(AssetError, match=r"picture\.png"):
        read_image(tmp_path / "picture.png")


@pytest.mark.parametrize("content", ["[]", "{", '{"frames": 3}', '{"frames": [{}]}', '{"frames": []}'])
def test_damaged_transforms_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "transforms.json").write_text(content)
    with pytest.raises(AssetError, match=r"transforms\.json"):
        Views.load(tmp_path)


def test_views_need_a_camera_each() -> None:
    with pytest.raises(InputError, match="one picture per camera"):
        Views(rgb=torch.zeros(2, 3, 8, 8), cameras=Cameras.orbit(3))


def test_a_contact_sheet_holds_every_picture_in_order() -> None:
    rgb = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.2, 0.4)])
    sheet = contact_sheet(rgb, columns=2, gap=2)
    assert sheet.size == (10, 10)
    assert [sheet.getpixel(at)[0] for at in ((1, 1), (8, 1), (1, 8), (8, 8))] == [0, 51, 102, 255]


def test_a_sheet_has_one_row_up_to_eight_and_a_gap_of_two() -> None:
    assert contact_sheet(torch.zeros(3, 3, 4, 6)).size == (3 * 8 - 2, 4)
    assert contact_sheet(torch.zeros(8, 3, 4, 6)).size == (8 * 8 - 2, 4)
    assert contact_sheet(torch.zeros(9, 3, 4, 6)).size == (8 * 8 - 2, 2 * 6 - 2)
    assert contact_sheet(torch.zeros(5, 3, 4, 4), columns=2, gap=0).size == (8, 12)


def test_a_turntable_has_a_frame_a_view(tmp_path: Path) -> None:
    from PIL import Image

    write_turntable(make_views().rgb, tmp_path / "turn.gif")
    with Image.open(tmp_path / "turn.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 3
    with pytest.raises(InputError, match=r"\.webp, \.gif or \.mp4"):
        write_turntable(make_views().rgb, tmp_path / "turn.avi")


def test_a_frames_own_lens_comes_before_the_documents(tmp_path: Path) -> None:
    make_views().save(tmp_path / "views")
    path = tmp_path / "views" / "transforms.json"
    document = json.loads(path.read_text())
    width = document["frames"][0]["w"]
    document |= {"fl_x": width / 2, "w": width}  # 90 degrees
    own = math.degrees(2 * math.atan(0.5 * width / document["frames"][0]["fl_x"]))
    for frame in document["frames"][1:]:
        del frame["fl_x"], frame["fl_y"]
    path.write_text(json.dumps(document))
    fov = Views.load(tmp_path / "views").cameras.fov_deg
    assert fov[0].item() == pytest.approx(own, abs=1e-3) and fov[1].item() == pytest.approx(90, abs=1e-3) != own
