"""Pixels in files: eight bits, alpha of every kind, sizes, animations, and what a camera's lens becomes on disk."""

from __future__ import annotations

import errno
import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from viewfold import limits
from viewfold import views as module
from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError, MissingExtraError, OutputError
from viewfold.label import UNLABELLED
from viewfold.origin.hook import label_of
from viewfold.picture import contact_sheet, read_image, to_pil, write_turntable
from viewfold.views import Views, atomic_write, check_output


def saved(picture: Image.Image, **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.save(buffer, **{"format": "PNG", **options})
    buffer.seek(0)
    return buffer


# Eight bits -----------------------------------------------------------------------------------------------------------


def test_every_one_of_256_levels_survives_the_trip() -> None:
    rgb = torch.arange(256).reshape(1, 16, 16).expand(3, 16, 16) / 255
    assert np.array_equal(np.asarray(to_pil(rgb))[..., 0], np.arange(256).reshape(16, 16))
    assert torch.equal(read_image(saved(to_pil(rgb))), rgb.contiguous())


@pytest.mark.parametrize(
    ("value", "level"), [(0.4999, 127), (0.5001, 128), (127.6 / 255, 128), (127.4 / 255, 127), (-0.3, 0), (1.7, 255)]
)
def test_a_colour_goes_to_the_nearest_level_and_stays_in_range(value: float, level: int) -> None:
    assert to_pil(torch.full((3, 1, 1), value)).getpixel((0, 0)) == (level,) * 3


def test_channels_rows_and_columns_keep_their_places() -> None:
    picture = torch.zeros(4, 2, 3)
    picture[0, 0, 1], picture[1, 1, 2], picture[2, 1, 0], picture[3, 0, 0] = 1, 1, 1, 0.2
    pil = to_pil(picture.double().float().requires_grad_())
    assert pil.mode == "RGBA" and pil.size == (3, 2)
    assert [pil.getpixel(at) for at in ((1, 0), (2, 1), (0, 1), (0, 0))] == [
        (255, 0, 0, 0),
        (0, 255, 0, 0),
        (0, 0, 255, 0),
        (0, 0, 0, 51),
    ]
    assert torch.equal(read_image(saved(pil)), (picture * 255).round() / 255)


# Kinds of pictures ----------------------------------------------------------------------------------------------------


def test_a_palette_keeps_its_transparent_colour() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 10, 10, 10, 10, 200])
    picture.putpixel((1, 0), 1)
    assert read_image(saved(picture)).shape == (3, 1, 2)
    read = read_image(saved(picture, transparency=0))
    assert (read * 255).round().int().tolist() == [[[200, 10]], [[10, 10]], [[10, 200]], [[0, 255]]]
    bytewise = read_image(saved(picture, transparency=bytes([64, 255])))
    assert (bytewise[3] * 255).round().int().tolist() == [[64, 255]]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 51, [51, 51, 51]),
        ("LA", (51, 102), [51, 51, 51, 102]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 4), [1, 2, 3, 4]),
        ("1", 1, [255, 255, 255]),
    ],
)
def test_every_mode_is_read_as_rgb_with_alpha_where_it_has_one(mode: str, value: Any, expected: list[int]) -> None:
    read = read_image(saved(Image.new(mode, (1, 1), value)))
    assert (read[:, 0, 0] * 255).round().int().tolist() == expected and read.dtype == torch.float32


def test_a_key_colour_and_cmyk_are_read() -> None:
    keyed = saved(Image.new("RGB", (1, 1), (9, 8, 7)), transparency=(9, 8, 7))
    assert read_image(keyed)[3].item() == 0
    inks = read_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format="JPEG"))
    assert inks.shape == (3, 8, 8) and inks[0].mean() > 0.9 > 0.1 > inks[1:].mean()


def test_the_number_of_pixels_is_bounded_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PICTURE_PIXELS", 12)
    assert read_image(saved(Image.new("RGB", (4, 3)))).shape == (3, 3, 4)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(AssetError, match=r"at most 12 pixels; got \(4, 4\)"):
        read_image(saved(Image.new("RGB", (4, 4))))


# Animations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "tolerance"), [(".webp", 0.03), (".gif", 0.03)])
def test_an_animation_has_its_frames_in_order_its_pace_and_no_end(
    tmp_path: Path, suffix: str, tolerance: float
) -> None:
    greys = [0.1, 0.9, 0.5]
    write_turntable(torch.stack([torch.full((3, 8, 8), g) for g in greys]), tmp_path / f"a{suffix}")
    write_turntable(torch.rand(2, 3, 8, 8), tmp_path / f"b{suffix}", frames_per_second=4)
    with Image.open(tmp_path / f"a{suffix}") as animation:
        frames = [np.asarray(frame.convert("RGB")).mean() / 255 for frame in ImageSequence.Iterator(animation)]
        assert animation.info["loop"] == 0
        assert animation.info["duration"] == (67 if suffix == ".webp" else 60)  # GIF counts in hundredths
    assert frames == pytest.approx(greys, abs=tolerance)
    with Image.open(tmp_path / f"b{suffix}") as animation:
        animation.load()
        assert animation.info["duration"] == 250


def test_a_film_is_written_frame_by_frame_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    class Writer:
        def send(self, frame: bytes | None) -> None:
            done.append(frame)

        def close(self) -> None:
            done.append("closed")

    def write_frames(path: str, size: tuple[int, int], *, fps: float, macro_block_size: int) -> Writer:
        Path(path).write_bytes(b"film")
        done.append((size, fps, macro_block_size))
        return Writer()

    package = ModuleType("imageio_ffmpeg")
    package.write_frames = write_frames  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    rgb = torch.stack([torch.zeros(3, 2, 4), torch.ones(3, 2, 4)])
    write_turntable(rgb, tmp_path / "a.mp4", frames_per_second=12.0)
    assert done == [((4, 2), 12.0, 2), None, b"\0" * 24, b"\xff" * 24, "closed"]
    assert (tmp_path / "a.mp4").read_bytes() == b"film"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match="pip install imageio-ffmpeg"):
        write_turntable(rgb, tmp_path / "b.mp4")


@pytest.mark.parametrize(("n_views", "duration"), [(4, 500), (16, 250)])
def test_a_folder_of_views_turns_at_a_pace_that_can_be_followed(tmp_path: Path, n_views: int, duration: int) -> None:
    views = Views(rgb=torch.rand(n_views, 3, 8, 8), cameras=Cameras.orbit(n_views))
    folder = views.save(tmp_path / "views")
    with Image.open(folder / "turntable.webp") as animation:
        animation.load()
        assert animation.info["duration"] == duration
    assert not (views.save(tmp_path / "still", turntable=False) / "turntable.webp").exists()
    alone = Views(rgb=views.rgb[:1], cameras=views.cameras[:1])
    assert not (alone.save(tmp_path / "alone") / "turntable.webp").exists()


def test_a_sheet_carries_a_mark_of_its_own_where_it_is_large_enough() -> None:
    rgb = torch.full((2, 3, 64, 64), 0.5)
    label = label_of({"watermark": "00000005"})
    plain, marked = (np.asarray(contact_sheet(rgb, label=said), int) for said in (UNLABELLED, label))
    assert plain.shape == marked.shape and 0 < np.abs(plain - marked).max() < 20
    small = torch.full((2, 3, 8, 8), 0.5)
    assert np.array_equal(np.asarray(contact_sheet(small, label=label)), np.asarray(contact_sheet(small)))


# Lenses ---------------------------------------------------------------------------------------------------------------


def test_the_lens_of_each_view_is_its_focal_length_in_pixels(tmp_path: Path) -> None:
    cameras = Cameras.cat([Cameras.orbit(1, fov_deg=90), Cameras.orbit(1, fov_deg=2 * math.degrees(math.atan(0.25)))])
    folder = Views(rgb=torch.zeros(2, 3, 10, 10), cameras=cameras).save(tmp_path / "views")
    document = json.loads((folder / "transforms.json").read_text())
    assert document["camera_model"] == "OPENCV"
    for index, (frame, focal) in enumerate(zip(document["frames"], (5, 20), strict=True)):
        assert frame["file_path"] == f"{index:03d}.png"
        assert (frame["fl_x"], frame["fl_y"]) == (pytest.approx(focal), pytest.approx(focal))
        assert (frame["cx"], frame["cy"], frame["w"], frame["h"]) == (5, 5, 10, 10)
    torch.testing.assert_close(Views.load(folder).cameras.fov_deg, cameras.fov_deg)


def test_a_folder_of_nerfstudio_may_say_the_lens_once(tmp_path: Path) -> None:
    folder = Views(rgb=torch.zeros(2, 3, 10, 10), cameras=Cameras.orbit(2)).save(tmp_path / "views")
    document = json.loads((folder / "transforms.json").read_text())
    frames = [{name: frame[name] for name in ("file_path", "transform_matrix")} for frame in document["frames"]]
    focal = 5 / math.tan(math.radians(20))
    (folder / "transforms.json").write_text(json.dumps({"fl_x": focal, "w": 10, "frames": frames}))
    (folder / "run.json").unlink()
    loaded = Views.load(folder)
    torch.testing.assert_close(loaded.cameras.fov_deg, torch.full((2,), 40.0))
    assert (loaded.prompt, loaded.run, loaded.alpha) == ("", {}, None)


def test_pictures_of_another_shape_than_said_or_of_two_kinds_are_refused(tmp_path: Path) -> None:
    folder = Views(rgb=torch.zeros(2, 3, 10, 10), cameras=Cameras.orbit(2)).save(tmp_path / "views")
    for shape, says in (((3, 10, 8), "10 x 10; the picture has 8 x 10"), ((4, 10, 10), "all have alpha, or none")):
        to_pil(torch.zeros(shape)).save(folder / "001.png")
        with pytest.raises(AssetError, match=says):
            Views.load(folder)
    to_pil(torch.zeros(3, 8, 8)).save(folder / "001.png")
    with pytest.warns(UserWarning, match="drawn again as square ones of 10 px"):
        assert Views.load(folder).rgb.shape == (2, 3, 10, 10)


def test_alpha_is_the_fourth_channel_of_every_picture(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rgba = (torch.rand(2, 4, 8, 8, generator=generator) * 255).round() / 255
    views = Views(rgb=rgba[:, :3], alpha=rgba[:, 3:], cameras=Cameras.orbit(2))
    folder = views.save(tmp_path / "views")
    assert torch.equal(read_image(folder / "001.png"), rgba[1])
    again = Views.load(folder)
    assert again.alpha is not None and torch.equal(again.alpha, views.alpha) and torch.equal(again.rgb, views.rgb)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_fails_is_the_users_to_mend_and_other_errors_are_ours(tmp_path: Path, code: int) -> None:
    with pytest.raises(OutputError, match="cannot be written"), atomic_write(tmp_path / "a"):
        raise OSError(code, "no")
    with pytest.raises(OSError, match="odd"), atomic_write(tmp_path / "a"):
        raise OSError(errno.EINVAL, "odd")
    for text in ("I/O error: (os error 28)", "No space left on device"):
        with pytest.raises(OutputError, match="no space"), atomic_write(tmp_path / "a"):
            raise ValueError(text)
    with pytest.raises(InputError, match="own"), atomic_write(tmp_path / "a"):
        raise InputError("own")
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ValueError, match="stop"), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("half")
        assert temporary.parent != tmp_path and (tmp_path / "a").read_text() == "old"
        raise ValueError("stop")
    assert (tmp_path / "a").read_text() == "old"
    with atomic_write(tmp_path / "deep" / "b") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "deep" / "b").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "deep"]


def test_a_folder_of_the_programs_own_files_may_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    for name in ("000.png", "contact.png", "turntable.webp", "transforms.json", "run.json", ".DS_Store"):
        (folder / name).write_text("")
    check_output(folder, holds=module.VIEW_FILES)
    for index in range(4):
        (folder / f"own{index}.txt").write_text("")
    with pytest.raises(OutputError, match=r"own0\.txt, own1\.txt, own2\.txt, \.\.\."):
        check_output(folder, holds=module.VIEW_FILES)
    (folder / "own3.txt").unlink()
    with pytest.raises(OutputError, match=r"own2\.txt\)"):
        check_output(folder, holds=module.VIEW_FILES)


def test_views_must_be_pictures_of_three_channels() -> None:
    for shape in ((3, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(Exception, match="rgb|shape"):
            Views(rgb=torch.zeros(shape), cameras=Cameras.orbit(3))
    assert len(Views(rgb=torch.zeros(3, 3, 8, 8), cameras=Cameras.orbit(3))) == 3
