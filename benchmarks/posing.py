"""From where was a picture taken, and does the model know?  Held-out toys from random sides.

    python benchmarks/posing.py [--toys 12] [--pictures 4] [--levels 0.2 0.4]

A toy is of a combination of colours that was never trained on; the model is told its kind alone.  Its pictures are
taken from anywhere around and 0 to 30 degrees above, once framed as the model's own views are, and once cut out and
cropped to their box, as people's are.  Printed: the share of pictures whose azimuth is found within 8, 15 and 30
degrees (by chance: 4, 8 and 17 %), the mean errors of the elevation and of the height in the frame, and CPU seconds
a set.  `--levels` compares candidates at other shares of the noise schedule.  Toys that are the same
from several sides are in it: a lamp all round, a table from front and back, a rocket from four sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from toybox_subjects import BACKGROUND, SIZE, held_out_toys, world_of

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.photos import read_photos
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.report import markdown_table
from viewfold.personalization import pose
from viewfold.picture import to_pil
from viewfold.pipeline import posing
from viewfold.scene.rasterize import rasterize

RUN = 19
"""Which toys of `held_out_toys`: others than those of `personalize.py`."""

WITHIN_DEG = (8, 15, 30)


def heights(alpha: Tensor) -> Tensor:
    """Return the share of the frame's height "n" that each picture's subject takes."""
    return (alpha[:, 0] > 0.5).any(dim=2).float().mean(dim=1)


def main() -> None:
    """Draw, ask and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--levels", type=float, nargs="+", default=posing.LEVELS)
    options = parser.parse_args()
    posing.LEVELS = tuple(options.levels)
    torch.set_num_threads(1)
    toys = held_out_toys(options.toys, seed=RUN, world=world_of(load_judge()[0]))
    model = vf.load("toybox", device="cpu", dtype=torch.float32)
    generator, rows = torch.Generator().manual_seed(1), []
    true = [
        Cameras.at(
            azimuth_deg=360 * torch.rand(options.pictures, generator=generator),
            elevation_deg=30 * torch.rand(options.pictures, generator=generator),
        )
        for _ in toys
    ]
    for name in ("framed as the model's own", "cut out, cropped to their box"):
        around, above, size, spent = [], [], [], 0.0
        for toy, cameras in zip(toys, true, strict=True):
            drawn = rasterize(toy.mesh(), cameras, size=4 * SIZE)
            pictures = drawn.over(BACKGROUND)
            if name.startswith("cut"):
                straight = (drawn.rgb / drawn.alpha.clamp_min(1e-6)).clamp(0, 1)
                pictures = torch.cat([straight, drawn.alpha], dim=1)
            with tempfile.TemporaryDirectory() as folder:
                for number, picture in enumerate(pictures):
                    to_pil(picture).save(Path(folder) / f"{number:03d}.png")
                photos, started = read_photos(folder, size=SIZE), time.process_time()
                views = pose(model, photos, f"a {toy.kind}", Path(folder) / "posed", seed=0)
                found, spent = views.cameras, spent + time.process_time() - started
            if views.alpha is not None and name.startswith("cut"):
                size.append((heights(views.alpha) / heights(drawn.alpha)).log().abs())
            around.append(((found.azimuth_deg - cameras.azimuth_deg + 180) % 360 - 180).abs())
            above.append((found.elevation_deg - cameras.elevation_deg).abs())
            print(f"{name}, {toy.captions[0]}: off by {[round(x) for x in around[-1].tolist()]} degrees", flush=True)
        off = torch.cat(around)
        shares = [f"{float((off <= most).float().mean()):.2f}" for most in WITHIN_DEG]
        height = f"{float(torch.cat(size).mean()):.1%}" if size else ""
        rows.append([name, *shares, f"{float(torch.cat(above).mean()):.1f}", height, f"{spent / len(toys):.1f}"])
    columns = ["pictures", *(f"within {most}" for most in WITHIN_DEG), "elevation off by", "height", "CPU s a set"]
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main()
