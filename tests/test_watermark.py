"""The invisible mark: what is put in comes out, through the copies that people make; nothing is read where none is."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from viewfold.errors import InputError
from viewfold.origin.watermark import DOUBTFUL, MIN_AGREEMENT, MIN_EDGE, embed, read
from viewfold.picture import read_image, to_pil

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIZES = (64, 256, 512)


def drawn(kind: str, size: int) -> Tensor:
    """A picture "3 h w" as a file would hold it."""
    generator = torch.Generator().manual_seed(size)
    ramp = torch.linspace(0, 1, size)
    match kind:
        case "noise":
            picture = torch.rand(3, size, size, generator=generator)
        case "smooth":
            coarse = torch.rand(1, 3, 5, 5, generator=generator)
            picture = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0]
        case "ramp":
            picture = torch.stack(
                [ramp.expand(size, size), ramp[:, None].expand(size, size), 1 - ramp.expand(size, size)]
            )
        case "white" | "grey" | "black":
            picture = torch.full((3, size, size), {"white": 1.0, "grey": 0.5, "black": 0.0}[kind])
        case "red":
            picture = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, size, size)
        case name:
            with Image.open(next(PICTURES.glob(f"{name}.*"))) as file:
                edge = min(file.size)
                real = file.convert("RGB").crop((0, 0, edge, edge)).resize((size, size), Image.Resampling.LANCZOS)
            return pixels(real)
    return eight_bit(picture.clamp(0, 1))


KINDS = ("noise", "smooth", "ramp", "white", "grey", "black", "red", "lifted", "toys")
NATURAL = ("smooth", "ramp", "grey", "lifted", "toys")


def pixels(picture: Image.Image) -> Tensor:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    buffer.seek(0)
    return read_image(buffer)[:3]


def eight_bit(rgb: Tensor) -> Tensor:
    return (rgb * 255).round() / 255


def jpeg(rgb: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    to_pil(rgb).save(buffer, format="JPEG", quality=quality)
    buffer.seek(0)
    return read_image(buffer)


def resized(rgb: Tensor, factor: float) -> Tensor:
    size = round(rgb.shape[-1] * factor)
    return pixels(to_pil(rgb).resize((size, size), Image.Resampling.BICUBIC))


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_embedded_is_read_from_eight_bits(kind: str, size: int) -> None:
    draw, picture = random.Random(f"{kind}{size}"), drawn(kind, size)
    for payload in (0, 2**32 - 1, draw.getrandbits(32)):
        marked = eight_bit(embed(picture[None], payload))[0]
        assert read(marked) == payload
        assert psnr(marked, picture) >= 37, "hard to see"
        assert 0 <= float(marked.min()) and float(marked.max()) <= 1


COPIES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "JPEG 75": (lambda rgb: jpeg(rgb, 75), SIZES),
    "JPEG 60": (lambda rgb: jpeg(rgb, 60), SIZES),
    "twice as wide, JPEG 75": (lambda rgb: jpeg(resized(rgb, 2), 75), (64, 256)),
    "three quarters": (lambda rgb: resized(rgb, 0.75), SIZES),
    "half": (lambda rgb: resized(rgb, 0.5), (256, 512)),
    "half, JPEG 60": (lambda rgb: jpeg(resized(rgb, 0.5), 60), (512,)),
    "wider than high": (lambda rgb: pixels(to_pil(rgb).resize((300, 200))), (256,)),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("kind", NATURAL)
def test_the_mark_survives_copies(kind: str, copy: str) -> None:
    through, sizes = COPIES[copy]
    for size in sizes:
        payload = random.Random(f"{kind}{copy}{size}").getrandbits(32)
        assert read(through(eight_bit(embed(drawn(kind, size)[None], payload))[0])) == payload, size


def test_pictures_without_a_mark_read_as_none() -> None:
    """Of 300 of random noise and smooth shapes at all sizes none passes, where one in a million would."""
    generator = torch.Generator().manual_seed(0)
    for index in range(300):
        coarse = torch.rand(1, 3, 4 + index % 40, 4 + index % 40, generator=generator)
        size = 48 + index % 100
        assert read(torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")[0]) is None
    for kind in KINDS:
        for size in (1, 8, 64, 256):
            assert read(drawn(kind, size)) is None, (kind, size)
    for shade in range(0, 256, 5):
        assert read(torch.full((3, 64, 64), shade / 255)) is None


def test_a_false_alarm_is_as_rare_as_stated() -> None:
    """2 steps x 2^4 tries x 2^-16, times how often noise agrees that much: about one in a million."""
    agreement = torch.cos(4 * torch.pi * torch.rand(200_000, 48, generator=torch.Generator().manual_seed(0))).mean(1)
    often = float((agreement > MIN_AGREEMENT).float().mean())
    assert 5e-7 < 2 * 2**DOUBTFUL * 2**-16 * often < 2e-6


def test_marking_twice_changes_next_to_nothing() -> None:
    once = eight_bit(embed(drawn("lifted", 256)[None], 77))
    again = eight_bit(embed(once, 77))
    assert psnr(again, once) > 60 and read(again[0]) == 77


def test_a_new_mark_replaces_the_old_one() -> None:
    once = eight_bit(embed(drawn("lifted", 256)[None], 77))
    assert read(eight_bit(embed(once, 78))[0]) == 78


def test_each_picture_is_marked_for_itself() -> None:
    pair = torch.stack([drawn("smooth", 64), drawn("ramp", 64)])
    assert torch.allclose(embed(pair, 5)[1], embed(pair[1:], 5)[0], atol=1e-6)


def test_the_colour_stays() -> None:
    """Where nothing clips, all three channels move alike."""
    picture = drawn("grey", 64) * torch.tensor([0.8, 1.0, 1.2])[:, None, None]
    change = embed(picture[None], 123)[0] - picture
    assert torch.allclose(change[0], change[2], atol=1e-5)


def test_the_pattern_never_changes() -> None:
    """A mark of this version must be read by every later one: this picture was marked by the first."""
    marked = embed(drawn("grey", 64)[None], 0xC0FFEE)[0, 0]
    found = (marked[::21, ::21] * 255).flatten().tolist()
    assert found == pytest.approx(FIRST, abs=0.05)


FIRST = [
    125.68,
    127.29,
    124.63,
    129.12,
    128.01,
    130.5,
    128.43,
    128.85,
    129.84,
    123.49,
    125.99,
    133.0,
    128.0,
    125.97,
    131.41,
    128.46,
]


@pytest.mark.parametrize("payload", [-1, 2**32])
def test_a_payload_that_does_not_fit_is_refused(payload: int) -> None:
    with pytest.raises(InputError, match=r"`payload` must .* 32 bits"):
        embed(torch.zeros(1, 3, 64, 64), payload)


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match=f"at least {MIN_EDGE} px"):
        embed(torch.zeros(1, 3, 64, MIN_EDGE - 1), 1)
