"""What the consistency score makes of views with known damage: does it fall, and does it tell them from true renders?

    python benchmarks/consistency_damage.py [--toys 60] [--out out/consistency_damage.json]

For each kind of damage: the mean of the score as a share of the true renders', and the probability that a true set of
views scores above a damaged one (AUC; 0.5 is a coin, 1 is perfect).  Two seconds a toy.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, sample_asset
from viewfold.evaluation.consistency import measure_consistency
from viewfold.evaluation.distinctness import measure_distinctness
from viewfold.evaluation.interval import ratio
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.report import markdown_table
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write

FIRST_SEED = 90_000_000
CAMERAS = Cameras.orbit(4, elevation_deg=15)
BETWEEN = Cameras.orbit(4, elevation_deg=15, azimuth_deg=45)
MEASURES = ("score", "outline", "color", "look-alike", "distinct")


def draw(asset: Asset, cameras: Cameras = CAMERAS) -> Tensor:
    return rasterize(asset.mesh(), cameras, size=64).over(0.5)


def damage(index: int) -> dict[str, Tensor]:
    """Return four views of a toy, true and damaged; the damaged view is another one from toy to toy."""
    asset = sample_asset(FIRST_SEED + index)
    twin = Asset.of(asset.kind, asset.main, asset.accent, seed=FIRST_SEED + 500_000 + index)
    true, alike = draw(asset), draw(twin)
    other, repainted = draw(sample_asset(FIRST_SEED + 700_000 + index)), true[:, [1, 2, 0]]
    view = index % 4

    def replaced(picture: Tensor) -> Tensor:
        return torch.stack([picture if i == view else old for i, old in enumerate(true)])

    return {
        "true renders": true,
        "true, slightly blurred": avg_pool2d(true, 3, stride=1, padding=1, count_include_pad=False),
        "one view of another toy": replaced(other[view]),
        "one view of a look-alike (same kind and colours)": replaced(alike[view]),
        "every other view of a look-alike": torch.stack([true[0], alike[1], true[2], alike[3]]),
        "one view in other colours": replaced(repainted[view]),
        "one view mirrored": replaced(true[view].flip(-1)),
        "one view turned by 45 degrees": replaced(draw(asset, BETWEEN)[view]),
        "two neighbours exchanged": true[[1, 0, 2, 3]],
        "the front four times": true[[0, 0, 0, 0]],
        "the front four times, each with noise of its own": (
            true[[0, 0, 0, 0]] + 0.03 * torch.randn(true.shape, generator=torch.Generator().manual_seed(index))
        ).clamp(0, 1),
        "one view is its neighbour": replaced(true[(view + 1) % 4]),
        "one view moved by 2 pixels": replaced(true[view].roll(2, dims=-1)),
        "one view moved by 4 pixels": replaced(true[view].roll(4, dims=-1)),
        "one view moved by 8 pixels": replaced(true[view].roll(8, dims=-1)),
    }


def area_under_curve(true: Tensor, damaged: Tensor) -> float:
    """Return how often a true score lies above a damaged one; ties count half."""
    gap = true[:, None] - damaged[None]
    return float((gap > 0).double().mean() + 0.5 * (gap == 0).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("out/consistency_damage.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge, _ = load_judge()
    scores: dict[str, list[tuple[float, ...]]] = {}
    start = time.time()
    for index in range(options.toys):
        for name, rgb in damage(index).items():
            found = measure_consistency(rgb, CAMERAS)
            distinct = measure_distinctness(rgb, CAMERAS)
            assert distinct is not None
            row = (found.score, found.outline, found.color, judge.read(rgb).agreement, distinct)
            scores.setdefault(name, []).append(row)
        if index % 10 == 9:
            left = (time.time() - start) / (index + 1) * (options.toys - index - 1)
            print(f"{index + 1}/{options.toys}, {left:.0f} s left", flush=True)
    tables = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in scores.items()}
    true = tables["true renders"]
    rows, record = [], {}
    for name, table in tables.items():
        share = ratio(table[:, 0].tolist(), true[:, 0].tolist())
        areas = [area_under_curve(true[:, i], table[:, i]) for i in range(len(MEASURES))]
        means = table.mean(0).tolist()
        rows.append([name, share.percent(), *[f"{m:.3f} / {a:.2f}" for m, a in zip(means, areas, strict=True)]])
        record[name] = {
            "share": share.value,
            "mean": dict(zip(MEASURES, means, strict=True)),
            "auc": dict(zip(MEASURES, areas, strict=True)),
        }
    print(markdown_table(["views", "score, share of true", *[f"{m}: mean / AUC" for m in MEASURES]], rows))
    with atomic_write(options.out) as temporary:
        temporary.write_text(json.dumps({"toys": options.toys, "damage": record}, indent=1))


if __name__ == "__main__":
    main()
