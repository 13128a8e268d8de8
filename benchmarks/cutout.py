"""How well a subject is cut out of photographs: intersection over union of the mask with the true one.

    python benchmarks/cutout.py [--toys 10] [--size 256]

Toys that are drawn over a plain, a shaded and a textured ground, with a camera's noise.  A row a ground: the mean, the
worst, how many masks are better than 0.9, how many pictures were kept whole (counted as 0), and the time of one.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.functional import interpolate
from toybox_subjects import held_out_toys

from viewfold.camera import Cameras
from viewfold.data.cutout import find_subject
from viewfold.data.toybox import World
from viewfold.evaluation.report import markdown_table
from viewfold.scene.rasterize import rasterize

NOISE = 0.02
"""Standard deviation, of an indoor picture of a phone."""

GROUNDS = ("plain", "shaded", "textured")


def ground(name: str, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a ground, (3, size, size): one colour, a ramp between two, or blotches of several scales like a carpet."""
    first, second = torch.rand((2, 3, 1, 1), generator=generator)
    if name == "plain":
        return first.expand(3, size, size)
    if name == "shaded":
        return first + (second - first) * 0.5 * torch.linspace(0, 1, size)[None, :, None]
    blotches = [torch.randn((1, 3, cells, cells), generator=generator) for cells in (6, 20, 64)]
    grown = sum(interpolate(each, (size, size), mode="bicubic") for each in blotches)
    return (first + 0.06 * grown[0]).clamp(0, 1)  # pyright: ignore[reportIndexIssue]


def main() -> None:
    """Draw, cut out and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=10)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    toys = held_out_toys(options.toys, seed=5, world=World())[: options.toys]
    rows = []
    for name in GROUNDS:
        found, whole, seconds = [], 0, 0.0
        for index, toy in enumerate(toys):
            generator = torch.Generator().manual_seed(index)
            cameras = Cameras.orbit(1, elevation_deg=20, azimuth_deg=40.0 * index, distance=1.8)
            drawn = rasterize(toy.mesh(), cameras, size=options.size)
            picture = drawn.rgb[0] + ground(name, options.size, generator) * (1 - drawn.alpha[0])
            picture = picture + NOISE * torch.randn(picture.shape, generator=generator)
            start = time.process_time()
            mask = find_subject(picture.clamp(0, 1))
            seconds += time.process_time() - start
            if isinstance(mask, str):
                print(f"{name} {toy.kind} {toy.colors}: {mask}")
            both = (0.0, 1.0) if isinstance(mask, str) else overlap(mask > 0.5, drawn.alpha[0] > 0.5)
            whole += isinstance(mask, str)
            found.append(both[0] / both[1])
        good = sum(iou > 0.9 for iou in found)
        rows.append([name, f"{sum(found) / len(found):.3f}", f"{min(found):.3f}", f"{good} of {len(found)}", str(whole),
                     f"{seconds / len(found):.2f}"])  # fmt: skip
        print(name, [round(iou, 2) for iou in found])
    print(markdown_table(["ground", "IoU, mean", "worst", "above 0.9", "kept whole", "CPU s"], rows))


def overlap(mask: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return the areas of the intersection and of the union."""
    return float((mask & truth).sum()), float((mask | truth).sum())


if __name__ == "__main__":
    main()
