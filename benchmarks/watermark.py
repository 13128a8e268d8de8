"""How many bits of the invisible mark come out wrong, by size, JPEG quality and resize; prints the table of the docs.

    python benchmarks/watermark.py [--payloads 1] [--sizes 64 128 256 512]

"48 bits" are the 32 of the payload and the 16 that check them, as read before the search among doubtful bits; "read" is
the share of pictures whose payload `read` returns.  No wrong payload may be returned at all.  Pictures: crops of
docs/pictures and of scikit-image's photographs, smooth shapes, noise and flat fields.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from viewfold.origin import watermark

DOCS = Path(__file__).parents[1] / "docs" / "pictures"
SIZES = (64, 128, 256, 512)
PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket", "retina")


def pictures(size: int) -> Iterator[Image.Image]:
    """Yield 18 pictures (5 photographs, 6 of ours, 7 made up) of `size` pixels a side."""
    from skimage import data

    sources = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    for path in sorted(DOCS.glob("*.png")):
        with Image.open(path) as file:
            whole = file.convert("RGB")
        edge = min(whole.size)
        sources += [whole.crop((0, 0, edge, edge)), whole.crop((whole.width - edge, 0, whole.width, edge))]
    for source in sources:
        edge = min(source.size)
        yield source.crop((0, 0, edge, edge)).resize((size, size), Image.Resampling.LANCZOS)
    draw = np.random.default_rng(size)
    yield Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8))
    yield Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size))
    for color in ((255, 255, 255), (128, 128, 128), (0, 0, 0), (255, 0, 0)):
        yield Image.new("RGB", (size, size), color)
    row, column = np.mgrid[:size, :size] - size / 2
    disk = (np.hypot(row, column) < 0.35 * size)[..., None]
    yield Image.fromarray(np.where(disk, (200, 30, 30), (255, 255, 255)).astype(np.uint8))


def through(kind: str, **options: int) -> Callable[[Image.Image], Image.Image]:
    """Return what saves and opens a picture again."""

    def copy(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **options)
        buffer.seek(0)
        return Image.open(buffer).convert("RGB")

    return copy


def resized(
    factor: float, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Callable[[Image.Image], Image.Image]:
    """Return what scales a picture."""
    return lambda picture: picture.resize((round(picture.width * factor), round(picture.height * factor)), resample)


def cropped(picture: Image.Image) -> Image.Image:
    """Cut a sixteenth off each side."""
    edge = picture.width // 16
    return picture.crop((edge, edge, picture.width - edge, picture.height - edge))


COPIES: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
    "PNG": [through("PNG")],
    "JPEG 90": [through("JPEG", quality=90)],
    "JPEG 75": [through("JPEG", quality=75)],
    "JPEG 60": [through("JPEG", quality=60)],
    "JPEG 40": [through("JPEG", quality=40)],
    "WebP 80": [through("WEBP", quality=80)],
    "0.75x": [resized(0.75)],
    "0.5x": [resized(0.5)],
    "0.5x bilinear": [resized(0.5, Image.Resampling.BILINEAR)],
    "2x": [resized(2)],
    "0.75x, JPEG 60": [resized(0.75), through("JPEG", quality=60)],
    "2x, JPEG 60": [resized(2), through("JPEG", quality=60)],
    "crop by 1/16": [cropped],
    "mirror": [lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)],
}


def tensor(picture: Image.Image) -> Tensor:
    """Return "3 h w" in [0, 1]."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def wrong_bits(picture: Tensor, payload: int, step: float) -> int:
    """Count the bits that read wrong at the step at which they were written, without the search."""
    pattern = watermark._pattern()
    phase = watermark._project(picture[None])[0] / step - pattern.dither
    found = (torch.cos(2 * torch.pi * phase) < 0).tolist()
    number = payload << watermark.CHECK_BITS | watermark._check(payload)
    return sum(bit != bool(number >> i & 1) for i, bit in enumerate(found))


def measure(size: int, n_payloads: int) -> tuple[dict[str, str], str]:
    """Return a cell per copy, and the PSNR of the mark."""
    draw, step = random.Random(size), watermark.COARSE if size <= watermark.COARSE_UP_TO else watermark.FINE
    wrong: dict[str, list[int]] = {name: [] for name in COPIES}
    read: dict[str, list[bool]] = {name: [] for name in COPIES}
    quality = []
    for picture in pictures(size):
        for _ in range(n_payloads):
            payload = draw.getrandbits(32)
            marked = (watermark.embed(tensor(picture)[None], payload)[0] * 255).round().byte()
            file = Image.fromarray(marked.permute(1, 2, 0).numpy())
            quality.append(float(-10 * (marked / 255 - tensor(picture)).square().mean().log10()))
            for name, steps in COPIES.items():
                copy = file
                for change in steps:
                    copy = change(copy)
                found = watermark.read(tensor(copy))
                assert found in (payload, None), "a wrong payload was read"
                wrong[name].append(wrong_bits(tensor(copy), payload, step))
                read[name].append(found == payload)
    cells = {name: f"{np.mean(wrong[name]):.2f} / {100 * np.mean(read[name]):.0f} %" for name in COPIES}
    return cells, f"{np.mean(quality):.1f} ({min(quality):.1f})"


def false_alarms(n: int) -> str:
    """Return how often pictures without a mark agree with a lattice as much as one with it, and pass the check."""
    generator, agreed, passed = torch.Generator().manual_seed(0), 0, 0
    pattern = watermark._pattern()
    for index in range(n):
        cells = 3 + index % 60
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
        phase = watermark._project(picture)[0] / watermark.COARSE - pattern.dither
        agreed += bool(torch.cos(4 * torch.pi * phase).mean() >= watermark.MIN_AGREEMENT)
        passed += watermark.read(picture[0]) is not None
    tries = 2 * 2**watermark.DOUBTFUL / 2**watermark.CHECK_BITS
    return f"{n} pictures without a mark: {agreed} agree (x {tries:.1e} for the check), {passed} read as marked"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payloads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = arguments.sizes
    measured = {size: measure(size, arguments.payloads) for size in sizes}
    print("| wrong of 48 bits / payload read |", " | ".join(f"{size} px" for size in sizes), "|")
    print("|---|" + "---|" * len(sizes))
    for name in COPIES:
        print(f"| {name} |", " | ".join(measured[size][0][name] for size in sizes), "|")
    print("| PSNR in dB, mean (least) |", " | ".join(measured[size][1] for size in sizes), "|")
    print(f"\n{false_alarms(10_000)}")


if __name__ == "__main__":
    main()
