"""Pictures as others write them: depths, key colours, orientations, animations, and those made to do harm."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.picture import kept_fields, pixels, read_image

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> io.BytesIO:
    """A PNG written by hand from the specification; `rows` begin with their filter's byte each."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def sixteen(*values: int) -> bytes:
    return b"\0" + np.array(values, ">u2").tobytes()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = read_image(png(4, 1, 16, GREY, sixteen(0, 1000, 32768, 65535)))
    assert grey[:, 0].T.tolist() == pytest.approx(np.repeat([[0, 1000, 32768, 65535]], 3, 0).T / 65535, abs=1e-6)
    values = [0, 1000, 32768, 65535, 300, 511]
    colour = read_image(png(2, 1, 16, RGB, sixteen(*values)))
    assert colour[:, 0].T.flatten().tolist() == pytest.approx([v / 65535 for v in values], abs=1 / 255)
    both = read_image(png(1, 1, 16, GREY_ALPHA, sixteen(30000, 32768)))
    assert both[:, 0, 0].tolist() == pytest.approx([30000 / 65535] * 3 + [0.5], abs=1 / 255)
    four = read_image(png(1, 1, 16, RGBA, sixteen(30000, 65535, 1, 16384)))
    assert four[:, 0, 0].tolist() == pytest.approx([30000 / 65535, 1, 0, 0.25], abs=1 / 255)


@pytest.mark.parametrize(("depth", "row", "key"), [(16, sixteen(7, 9), 9), (4, b"\0\x0f", 15), (2, b"\0\x30", 3),
                                                   (1, b"\0\x40", 1), (8, b"\0\x05\x09", 9)])  # fmt: skip
def test_the_grey_that_stands_for_nothing_is_transparent_at_every_depth(depth: int, row: bytes, key: int) -> None:
    read = read_image(png(2, 1, depth, GREY, row, chunk(b"tRNS", struct.pack(">H", key))))
    assert read[3, 0].tolist() == [1, 0]


def test_a_transparent_colour_of_sixteen_bits_is_refused_by_name() -> None:
    file = png(2, 1, 16, RGB, sixteen(0, 1000, 32768, 1, 2, 3), chunk(b"tRNS", struct.pack(">HHH", 0, 1000, 32768)))
    with pytest.raises(AssetError, match="8 bits a channel to have a transparent colour"):
        read_image(file)


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_their_exif_says(orientation: int) -> None:
    """Held to Pillow's own."""
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "WEBP"):
        file = io.BytesIO()
        picture.save(file, kind, exif=exif, lossless=True)
        with Image.open(file) as saved:
            expected = np.asarray(ImageOps.exif_transpose(saved))
        read = (read_image(file) * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(read, expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_an_animation_it_is_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#0000ff")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    read = read_image(file)
    torch.testing.assert_close(read[:3], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_that_ends_too_early_is_named(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(AssetError, match=r"half\.png` cannot be read as a picture: (image file is trunc|could not)"):
        read_image(tmp_path / "half.png")


@functools.cache
def bombs() -> dict[str, Any]:
    body = chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GREY, 0, 0, 0))
    vast = zlib.compress(bytes(2**27), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    canvas = struct.pack("<I", 0x10) + (16382).to_bytes(3, "little") * 2
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, GREY, 0, 0, 0))
    return {
        "profile": signature + head + chunk(b"iCCP", b"x\0\0" + vast) + b"".join(body),
        "text": signature + head + chunk(b"zTXt", b"x\0\0" + vast) + b"".join(body),
        "international text": signature + head + chunk(b"iTXt", b"x\0\x01\0\0\0" + vast) + b"".join(body),
        "canvas": b"RIFF\xff\0\0\0WEBPVP8X" + struct.pack("<I", 10) + canvas[0:4] + canvas[4:] + bytes(200),
        "size": signature + large + b"".join(body),
    }


@pytest.mark.parametrize("name", ["profile", "text", "international text", "canvas", "size"])
def test_what_unpacks_to_more_than_a_picture_allocates_nothing(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "x.png").write_bytes(bombs()[name])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
    try:
        if "text" not in name and name != "profile":
            with pytest.raises(AssetError, match=r"x\.png"):
                read_image(tmp_path / "x.png")
        else:  # Pillow may leave out a field that is too long, or refuse the file
            try:
                assert read_image(tmp_path / "x.png").shape == (3, 1, 1)
            except AssetError:
                pass
        assert kept_fields(tmp_path / "x.png", suffix=".png") == {}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_file_beyond_all_pictures_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    monkeypatch.setattr(limits, "PICTURE_BYTES", (tmp_path / "x.png").stat().st_size - 1)
    with pytest.raises(AssetError, match="it has .* bytes, more than"):
        read_image(tmp_path / "x.png")


def test_pixels_of_a_picture_in_memory() -> None:
    array = pixels(Image.new("LA", (3, 2), (51, 102)))
    assert array.shape == (2, 3, 4) and array.dtype == np.float32
    assert array[0, 0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4])
