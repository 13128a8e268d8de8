"""Photographs as people have them: every kind and shape, damaged, foreign, cut out, framed; what is said of a set."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.data.photos import FILLED, Photos, PhotoSettings, augmented, framed_alike, read_photos
from viewfold.data.remark import remarks
from viewfold.data.toybox import Asset
from viewfold.errors import InputError, MissingExtraError
from viewfold.picture import read_image, to_pil
from viewfold.scene.rasterize import Rendering, rasterize

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 160, 60)


def toy(kind: str = "mug", main: str = "purple", accent: str = "lime", *, size: int = 64, views: int = 4) -> Rendering:
    mesh = Asset.of(kind, main, accent, seed=1).mesh()
    return rasterize(mesh, Cameras.orbit(views, elevation_deg=15, azimuth_deg=20), size=size)


def straight(drawn: Rendering) -> torch.Tensor:
    return torch.cat([drawn.rgb / drawn.alpha.clamp(min=1e-4), drawn.alpha], 1).clamp(0, 1)


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right, a green frame."""
    picture = Image.new("RGB", (width, height), GREEN)
    edge = max(2, min(width, height) // 8)
    picture.paste(RED, (edge, edge, width // 2, height - edge))
    picture.paste(BLUE, (width // 2, edge, width - edge, height - edge))
    return picture


def only(folder: Path, *, size: int = 64, **settings) -> torch.Tensor:
    return read_photos(folder, size=size, settings=PhotoSettings(**settings)).photos[0].rgba


def color_at(rgba: torch.Tensor, x: float, y: float) -> list[int]:
    size = rgba.shape[-1]
    return (rgba[:3, int(y * size), int(x * size)] * 255).round().int().tolist()


def said(photos: Photos, words: str) -> list[str]:
    return [note for note in photos.notes if words in note]


def test_a_phone_s_picture_stands_upright_and_red_stays_on_the_left(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: to be turned clockwise
    halves(300, 200).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    rgba = only(tmp_path)
    assert color_at(rgba, 0.3, 0.5) == pytest.approx(RED, abs=12) and color_at(rgba, 0.7, 0.5) == pytest.approx(
        BLUE, abs=12
    )


@pytest.mark.parametrize("kind", ["palette", "CMYK", "sixteen bits", "WebP", "grey with alpha", "Phone.JPEG"])
def test_every_kind_of_file_gives_its_colours(tmp_path: Path, kind: str) -> None:
    picture = halves(120, 120)
    if kind == "palette":
        picture.quantize(8).save(tmp_path / "a.PNG")
    elif kind == "CMYK":
        picture.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    elif kind == "sixteen bits":
        Image.fromarray(np.full((50, 50), 30000, np.uint16)).save(tmp_path / "a.png")
    elif kind == "WebP":
        picture.save(tmp_path / "a.webp", lossless=True)
    elif kind == "Phone.JPEG":
        picture.save(tmp_path / kind, quality=95)
    else:
        Image.new("LA", (50, 50), (90, 255)).save(tmp_path / "a.png")
    rgba = only(tmp_path)
    assert rgba.shape == (4, 64, 64) and bool((rgba[3] == 1).all())
    expected = {"sixteen bits": [round(30000 / 257)] * 3, "grey with alpha": [90] * 3}.get(kind, list(RED))
    assert color_at(rgba, 0.3, 0.5) == pytest.approx(expected, abs=12)


@pytest.mark.parametrize("is_tall", [True, False])
def test_a_long_picture_is_padded_with_its_border_s_colour_and_not_squashed(tmp_path: Path, is_tall: bool) -> None:
    picture = Image.new("RGB", (100, 300) if is_tall else (300, 100), GREEN)
    picture.paste(RED, (30, 130, 70, 170) if is_tall else (130, 30, 170, 70))  # a square in its middle
    picture.paste(BLUE, (0, 0, 20, 20))
    picture.save(tmp_path / "long.png")
    rgba = only(tmp_path, size=150)
    is_red, is_blue = rgba[0] > 0.5, (rgba[2] > 0.5) & (rgba[0] < 0.3)
    assert is_red.any(1).sum() == is_red.any(0).sum() == 20  # 40 of 300 px in 150
    torch.testing.assert_close(is_red.nonzero().float().mean(0), torch.tensor([74.5, 74.5]), atol=0.6, rtol=0)
    assert is_blue.nonzero()[0].tolist() == ([0, 50] if is_tall else [50, 0])
    assert color_at(rgba, 0.02, 0.5) == color_at(rgba, 0.5, 0.02) == color_at(rgba, 0.98, 0.98) == list(GREEN)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.25])
def test_a_subject_with_alpha_is_cropped_to_its_box_and_the_margin(tmp_path: Path, margin: float) -> None:
    picture = Image.new("RGBA", (400, 200), (255, 255, 255, 0))
    picture.paste((*RED, 255), (300, 20, 360, 140))  # 60 x 120, near an edge
    picture.save(tmp_path / "a.png")
    rgba = only(tmp_path, size=100, margin=margin)
    inside = rgba[3] > 0.5
    box = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    height, width = len(box[0]), len(box[1])
    assert height == pytest.approx(100 * (1 - 2 * margin), abs=1) and width == pytest.approx(height / 2, abs=1)
    assert abs(int(box[0][0]) + int(box[0][-1]) - 99) <= 1 and abs(int(box[1][0]) + int(box[1][-1]) - 99) <= 1


def test_what_transparent_pixels_hold_never_bleeds_into_the_outline(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (333, 333), (0, 255, 0, 0))
    picture.paste((*RED, 255), (50, 50, 250, 251))
    picture.save(tmp_path / "a.png")
    rgba = only(tmp_path, size=64)
    seen = rgba[:3, rgba[3] > 0.01]
    torch.testing.assert_close(seen, (torch.tensor(RED) / 255)[:, None].expand_as(seen), atol=1e-3, rtol=0)


def test_a_toy_cut_out_by_its_maker_is_framed_as_the_toy_is(tmp_path: Path) -> None:
    """Held to a rendering of the size that it is shrunk to."""
    drawn = toy(size=256, views=1)
    to_pil(straight(drawn)[0]).save(tmp_path / "a.png")
    rgba = only(tmp_path, size=64, margin=0.0)
    rows, columns = (drawn.alpha[0, 0] > 0.05).any(1).nonzero(), (drawn.alpha[0, 0] > 0.05).any(0).nonzero()
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    covered = rgba[3].sum() / 64**2
    torch.testing.assert_close(covered, drawn.alpha.sum() / max(tall, wide) ** 2, atol=0.005, rtol=0)


def test_damaged_foreign_and_hostile_files_are_named_and_the_rest_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PICTURE_PIXELS", 200 * 200)
    halves(120, 120).save(tmp_path / "good.png")
    halves(120, 120).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "whole.jpg").unlink()
    (tmp_path / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    (tmp_path / "renamed.jpg").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(60))
    (tmp_path / "clip.jpg").write_bytes(b"\0\0\0\x18ftypqt  " + bytes(60))
    (tmp_path / "camera.NEF").write_bytes(b"II*\0" + bytes(60))
    (tmp_path / "live.mov").write_bytes(bytes(60))
    halves(300, 200).save(tmp_path / "bomb.png")
    Image.new("RGB", (1500, 20)).save(tmp_path / "strip.png")
    Image.new("RGBA", (50, 50), (1, 2, 3, 0)).save(tmp_path / "nothing.png")
    for stray in ("notes.txt", "views.json", ".DS_Store", "._good.png", "Thumbs.db"):
        (tmp_path / stray).write_text("x")
    (tmp_path / "older").mkdir()
    photos = read_photos(tmp_path, size=64)
    assert [photo.path.name for photo in photos.photos] == ["good.png"]
    reasons = dict(photos.failed)
    assert photos.failed == sorted(photos.failed) and len(reasons) == 11
    for name, words in {
        "phone.HEIC": "HEIC picture; convert it to JPEG or PNG",
        "renamed.jpg": "HEIC picture; convert it to JPEG or PNG",
        "clip.jpg": "a video; convert",
        "live.mov": "a video; convert",
        "camera.NEF": "a camera's raw picture; convert",
        "bomb.png": "must have at most 40000 pixels",
        "strip.png": "10 times as long",
        "nothing.png": "transparent everywhere",
        "short.jpg": "truncated",
        "corrupt.png": "cannot be read",
        "empty.png": "cannot be read",
    }.items():
        assert words in reasons[name] and str(tmp_path) not in reasons[name], (name, reasons[name])
    assert said(photos, "no pictures") == ["left out, no pictures: notes.txt, older/, views.json"]


def test_a_folder_of_which_nothing_can_be_used_says_why_for_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it holds no picture"):
        read_photos(tmp_path, size=64)
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.heic: it is a HEIC picture; convert"):
        read_photos(tmp_path, size=64)
    for wrong in (tmp_path / "a.heic", tmp_path / "absent"):
        with pytest.raises(InputError, match="`folder` must be a folder"):
            read_photos(wrong, size=64)
    with pytest.raises(InputError, match="`margin`"):
        PhotoSettings(margin=0.5)
    with pytest.raises(InputError, match="`size`"):
        read_photos(tmp_path, size=8)


def test_too_many_pictures_are_refused_before_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PHOTOS", 2)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(InputError, match="at most 2 pictures"):
        read_photos(tmp_path, size=64)


def test_a_jpeg_of_more_pixels_than_pictures_may_have_is_decoded_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves(2400, 2200).save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(limits, "PICTURE_PIXELS", 2000 * 2000)
    rgba = only(tmp_path)
    assert color_at(rgba, 0.3, 0.5) == pytest.approx(RED, abs=12)
    assert read_image(tmp_path / "a.jpg", at_least=1024).shape == (3, 1100, 1200)
    monkeypatch.setattr(limits, "PHOTO_PIXELS", 2000 * 2000)
    with pytest.raises(InputError, match="must have at most 4000000 pixels"):
        read_photos(tmp_path, size=64)


def test_pictures_without_transparency_are_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    halves(100, 100).save(tmp_path / "a.png")
    to_pil(straight(toy(views=1))[0]).save(tmp_path / "b.png")
    photos = read_photos(tmp_path, size=64, settings=PhotoSettings(background="alpha"))
    assert [p.path.name for p in photos.photos] == ["b.png"] and "no transparency" in dict(photos.failed)["a.png"]


def test_a_small_picture_is_enlarged_and_said_to_be(tmp_path: Path) -> None:
    halves(40, 30).save(tmp_path / "a.png")
    photos = read_photos(tmp_path, size=64)
    assert photos.photos[0].notes == ("enlarged from 40 to 64 px, so it shows less than others",)
    assert said(photos, "a.png: enlarged from 40") and said(photos, "only one picture")


def test_many_pictures_are_all_used_and_said_to_be_many(tmp_path: Path) -> None:
    rgba = straight(toy())
    names = [f"{i}.png" for i in range(21)]
    assert any(note.startswith("21 pictures, all of which") for note in remarks(rgba[[0] * 21], names))
    assert not any("pictures" in note for note in remarks(rgba[[0] * 20], names[:20]))


TOYS = [("mug", "purple", "lime"), ("car", "red", "white"), ("cat", "black", "orange"), ("chair", "brown", "pink")]


@pytest.mark.parametrize(("kind", "main", "accent"), TOYS)
@pytest.mark.parametrize("opaque", [False, True])
def test_nothing_is_said_of_four_sides_of_one_thing(kind: str, main: str, accent: str, opaque: bool) -> None:
    rgba = straight(toy(kind, main, accent))
    if opaque:
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:] + 0.7 * (1 - rgba[:, 3:]), torch.ones_like(rgba[:, 3:])], 1)
    assert remarks(rgba, list("abcd")) == []


@pytest.mark.parametrize("opaque", [False, True])
def test_a_red_car_among_pictures_of_a_purple_mug_is_said(opaque: bool) -> None:
    rgba = torch.cat([straight(toy()), straight(toy("car", "red", "white"))[:1]])
    if opaque:
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:] + 0.7 * (1 - rgba[:, 3:]), torch.ones_like(rgba[:, 3:])], 1)
    assert remarks(rgba, list("abcde")) == ["as if of another thing, by its colours: e"]


def test_a_picture_that_is_blurred_by_a_pixel_is_said_to_be_so() -> None:
    rgba = straight(toy())
    said_of_it = ["blurred beside the others: b"]
    for sigma, expected in ((0.3, []), (1.0, said_of_it), (3.0, said_of_it)):
        premultiplied = torch.cat([rgba[1, :3] * rgba[1, 3:], rgba[1, 3:]]).numpy()
        blurred = torch.from_numpy(gaussian_filter(premultiplied, (0, sigma, sigma)))
        blurred = torch.cat([blurred[:3] / blurred[3:].clamp(min=1e-4), blurred[3:]]).clamp(0, 1)
        assert remarks(torch.stack([rgba[0], blurred, *rgba[2:]]), list("abcd")) == expected


def test_pictures_that_are_the_same_are_paired_with_the_first_of_them() -> None:
    rgba = straight(toy())
    pairs = [f"the same picture, or nearly: a and {name}" for name in "bd"]
    assert remarks(rgba[[0, 0, 2, 0]], list("abcd")) == pairs


def test_a_copy_that_was_saved_anew_is_said_once(tmp_path: Path) -> None:
    drawn = toy(size=256)
    for index, picture in enumerate(drawn.over(0.7)):
        to_pil(picture).save(tmp_path / f"{index}.png")
    with Image.open(tmp_path / "2.png") as original:
        original.resize((200, 200)).save(tmp_path / "sent.jpg", quality=60)
    photos = read_photos(tmp_path, size=64)
    assert said(photos, "same") == ["the same picture, or nearly: 2.png and sent.jpg"]


def test_an_augmented_picture_is_whole_never_mirrored_and_decided_by_its_generator() -> None:
    picture = torch.zeros(4, 64, 64)
    picture[:, 16:48, 8:24], picture[3, 16:48, 40:56], picture[2, 16:48, 40:56] = 1, 1, 1  # white left, blue right
    shapes = set()
    for seed in range(40):
        once, again = (augmented(picture, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(once, again)
        red, blue_only = once[0] * once[3], (once[2] - once[0]) * once[3]
        across = torch.arange(64.0)
        assert (red.sum(0) * across).sum() / red.sum() < (blue_only.sum(0) * across).sum() / blue_only.sum()
        scale = (once[3].sum() / picture[3].sum()) ** 0.5
        assert 0.89 < scale < 1.01 and once[3, 0].max() == 0
        shapes.add(round(float(scale), 3))
    assert len(shapes) > 10
    opaque = augmented(torch.ones(4, 32, 32), torch.Generator().manual_seed(1))
    torch.testing.assert_close(opaque, torch.ones(4, 32, 32))


def test_an_augmented_picture_keeps_what_lies_at_its_frame() -> None:
    """Held to the sum of what it shows: a subject that fills the frame shrinks by the square of the scale."""
    full = torch.ones(4, 64, 64)
    full[3, 0, 0] = 0.5  # not opaque, so what is left free is transparent
    for seed in range(10):
        moved = augmented(full, torch.Generator().manual_seed(seed))
        covered = moved[3] > 0.5
        edges = covered.any(1).sum(), covered.any(0).sum()
        assert min(edges) >= 57 and abs(int(edges[0] - edges[1])) <= 1


def test_without_opencv_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewfold\[photos\]'"):
        read_photos(tmp_path, size=64, settings=PhotoSettings(background="remove"))


def test_a_set_is_framed_so_that_its_thing_is_equally_high_in_all() -> None:
    shots = torch.zeros(2, 4, 64, 64)
    shots[0, :, 6:58, 20:30], shots[1, :, 30:40, 10:30] = (
        1.0,
        1.0,
    )  # high and narrow; low, twice as wide, off the middle
    heights, middles = [], []
    for share in (1.0, 0.5):
        framed = framed_alike(shots, share=share)
        assert framed is not None and framed.shape == shots.shape
        for picture in framed:
            inside = (picture[3] > 0.5).nonzero()
            first, last = inside.amin(0), inside.amax(0) + 1
            heights.append(int(last[0] - first[0]))
            middles.append((first + last) / 2)
            assert int(last[1] - first[1]) <= FILLED * 64 + 1
    assert abs(heights[0] - heights[1]) <= 2 and abs(heights[0] - 0.94 * 64 / 2) <= 2, "the wide one decides"
    assert abs(heights[2] - heights[0] / 2) <= 2 and abs(heights[3] - heights[1] / 2) <= 2
    assert all((middle - 32).abs().max() <= 1.5 for middle in middles)


def test_a_set_with_a_picture_whose_subject_is_not_known_is_not_framed() -> None:
    shots = torch.zeros(2, 4, 16, 16)
    shots[0, :, 4:12, 6:10], shots[1, 3] = 1.0, 1.0
    assert framed_alike(shots, share=1.0) is None
