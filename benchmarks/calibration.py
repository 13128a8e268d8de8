"""What do the scores of views see?  Each on true renders and on the same with known damage.

    python benchmarks/calibration.py [--toys 32] [--views 4] [--out out/calibration]
    python benchmarks/calibration.py --fits 6 --views 8                       # the two that fit objects, a minute a set
    python benchmarks/calibration.py --assets runs/furniture/models/held-out   # things that nobody here made

For each kind of damage (`viewfold.evaluation.damage`): the mean of each score, and how often a true set of views scores
above a damaged one (AUC; 0.5 is a coin, 1 is perfect, below 0.5 the damage looks better than the truth).  Writes
calibration.md, calibration.json and calibration.png, the table of AUCs in colours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, sample_asset
from viewfold.errors import ViewfoldError
from viewfold.evaluation.consistency import find_coverage, measure_consistency
from viewfold.evaluation.damage import Subject, area_under_curve, damaged, with_fronts
from viewfold.evaluation.distinctness import measure_distinctness
from viewfold.evaluation.epipolar import measure_epipolar
from viewfold.evaluation.interval import ratio
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.repetition import measure_repetition
from viewfold.evaluation.report import markdown_table
from viewfold.refit import measure_halves, measure_left_out
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write
from viewfold.views import Views

FIRST_SEED = 90_000_000
SIZE = 64
FITTED = (
    "true",
    "one view of a look-alike",
    "every other view of a look-alike",
    "one view turned by 30 degrees",
    "one view turned by 15 degrees",
    "one view moved by 2/64",
    "two neighbours exchanged",
    "an object with a front on every side",
)
"""The damage that fits are tried on: what the scores of pixels find hardest."""

Score = Callable[[Tensor, Cameras], dict[str, float]]


GROUND = torch.tensor([0.55, 0.95, 0.75])
"""Behind things that may be grey."""


def drawer(mesh: Mesh, ground: float | Tensor = 0.5) -> Callable[[Cameras], Tensor]:
    return lambda cameras: rasterize(mesh, cameras, size=SIZE).over(ground)


def toys(count: int, cameras: Cameras) -> list[Callable[[], Subject]]:
    """Return what makes each subject: toys, and toys of the same kind and colours."""

    def one(index: int) -> Subject:
        asset = sample_asset(FIRST_SEED + index)
        twin = Asset.of(asset.kind, asset.main, asset.accent, seed=FIRST_SEED + 500_000 + index)
        other = sample_asset(FIRST_SEED + 700_000 + index)
        return Subject(
            draw=drawer(asset.mesh()),
            alike=drawer(twin.mesh()),
            other=drawer(other.mesh()),
            janus=drawer(with_fronts(asset.mesh())),
            cameras=cameras,
            seed=index,
        )

    return [lambda index=index: one(index) for index in range(count)]


def strangers(folder: Path, count: int, cameras: Cameras) -> list[Callable[[], Subject]]:
    """Return what makes each subject: every n-th mesh of a folder, and the next one; no look-alikes are known."""
    paths = sorted(path for ending in ("glb", "gltf", "obj", "ply") for path in folder.rglob(f"*.{ending}"))
    paths = paths[:: max(1, len(paths) // count)][:count]

    def one(index: int) -> Subject:
        mesh, other = (load_mesh(paths[i % len(paths)]).fit_sphere() for i in (index, index + 1))
        return Subject(
            draw=drawer(mesh, GROUND),
            other=drawer(other, GROUND),
            janus=drawer(with_fronts(mesh), GROUND),
            cameras=cameras,
            seed=index,
        )

    return [lambda index=index: one(index) for index in range(len(paths))]


def by_pixels(judge: Judge) -> Score:
    """Return the scores that need no fit; of all, more is better."""

    def score(rgb: Tensor, cameras: Cameras) -> dict[str, float]:
        coverage = find_coverage(rgb)
        agreement = measure_consistency(rgb, cameras, coverage=coverage)
        repetition = measure_repetition(rgb, cameras, coverage=coverage)
        epipolar = measure_epipolar(rgb, cameras, coverage=coverage)
        distinct = measure_distinctness(rgb, cameras, coverage=coverage)
        assert epipolar is not None and distinct is not None
        return {
            "agreement": agreement.score,
            "worst view": agreement.worst_view,
            "outline": agreement.outline,
            "color": agreement.color,
            "epipolar": -epipolar.ratio,
            "worst epipolar": -epipolar.worst_cost,
            "distinct": distinct,
            "repetition": 0.0 if repetition is None else -repetition.mean,  # of one colour all over
            "most repeated": 0.0 if repetition is None else -repetition.most,
            "look-alike": judge.read(rgb).agreement,
        }

    return score


def by_fits(rgb: Tensor, cameras: Cameras) -> dict[str, float]:
    """Return the scores that fit objects; of all, more is better."""
    views = Views(rgb=rgb, cameras=cameras)
    halves, left = measure_halves(views), measure_left_out(views, most=4)
    return {
        "halves: PSNR": halves.psnr_db,
        "halves: IoU": halves.outline_iou,
        "halves: depth": -halves.depth_gap,
        "halves: Chamfer": -halves.chamfer,
        "left out: PSNR": left.psnr_db,
        "left out: IoU": left.outline_iou,
        "left out: worst": left.worst_psnr_db,
    }


def draw_table(columns: Sequence[str], rows: dict[str, list[float]], path: Path) -> None:
    """Draw AUCs as a table: green where the damage is told apart, red where it looks better than the truth."""
    font = ImageFont.load_default(size=13)
    left, top, cell, line = 290, 118, 62, 24
    image = Image.new("RGB", (left + cell * len(columns) + 8, top + line * len(rows) + 8), "white")
    draw = ImageDraw.Draw(image)
    for i, column in enumerate(columns):
        label = Image.new("L", (140, 18), 0)
        ImageDraw.Draw(label).text((0, 0), column, fill=255, font=font)
        turned = label.rotate(55, expand=True)
        image.paste((40, 40, 40), (left + i * cell + 4, top - turned.height - 2), turned)
    for j, (name, areas) in enumerate(rows.items()):
        y = top + j * line
        draw.text((8, y + 4), name, fill=(30, 30, 30), font=font)
        for i, area in enumerate(areas):
            good, bad = max(0.0, 2 * area - 1), max(0.0, 1 - 2 * area)
            color = tuple(
                round(255 - strength)
                for strength in (170 * good + 15 * bad, 60 * good + 140 * bad, 150 * good + 150 * bad)
            )
            x = left + i * cell
            draw.rectangle((x, y, x + cell - 2, y + line - 2), fill=color)
            draw.text((x + 16, y + 4), f"{area:.2f}", fill=(20, 20, 20), font=font)
    image.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=32, help="or assets")
    parser.add_argument("--assets", type=Path, help="a folder of meshes in place of the toys")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--fits", type=int, default=0, help="score by fits, so many toys")
    parser.add_argument("--out", type=Path, default=Path("out/calibration"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    elevations = [10.0, 25.0] if options.fits else [15.0, 15.0]
    cameras = Cameras.orbit(options.views, elevation_deg=(elevations * options.views)[: options.views])
    count = options.fits or options.toys
    makers = strangers(options.assets, count, cameras) if options.assets else toys(count, cameras)
    score = by_fits if options.fits else by_pixels(load_judge()[0])
    found: dict[str, list[list[float]]] = {}
    columns: list[str] = []
    failed: list[str] = []
    start = time.time()
    for index, maker in enumerate(makers):
        try:
            sets = damaged(maker())
            rows = {n: score(rgb, cameras) for n, rgb in sets.items() if not options.fits or n in FITTED}
        except ViewfoldError as error:  # an asset that cannot be read, views that share no volume
            failed.append(str(error))
            continue
        columns = list(rows["true"])
        for name, row in rows.items():
            found.setdefault(name, []).append(list(row.values()))
        left = (time.time() - start) / (index + 1) * (len(makers) - index - 1)
        print(f"{index + 1}/{len(makers)}, {left:.0f} s left", flush=True)
    tables = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in found.items()}
    true = tables["true"]
    areas = {
        name: [area_under_curve(true[:, i], table[:, i]) for i in range(len(columns))] for name, table in tables.items()
    }
    lines = [
        [name, *[f"{m:.3f} / {a:.2f}" for m, a in zip(table.mean(0).tolist(), areas[name], strict=True)]]
        for name, table in tables.items()
    ]
    text = markdown_table([f"{options.views} views ({len(true)} sets)", *columns], lines)
    if not options.fits:
        share = {name: ratio(table[:, 0].tolist(), true[:, 0].tolist()).value for name, table in tables.items()}
        text += "\n\nagreement, share of true: " + ", ".join(f"{n} {100 * s:.1f} %" for n, s in share.items())
    print(text)
    for reason in failed:
        print("left out:", reason)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_table(columns, areas, options.out / "calibration.png")
    document = {
        "views": options.views,
        "sets": len(true),
        "left_out": failed,
        "scores": columns,
        "mean": {name: table.mean(0).tolist() for name, table in tables.items()},
        "auc": areas,
    }
    for suffix, content in (("md", text), ("json", json.dumps(document, indent=1))):
        with atomic_write(options.out / f"calibration.{suffix}") as temporary:
            temporary.write_text(content)


if __name__ == "__main__":
    main()
