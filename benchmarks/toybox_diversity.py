"""Are sixteen samples of one prompt sixteen objects, and new ones?  docs/quality.md says how each figure is measured.

    python benchmarks/toybox_diversity.py --out out/diversity

Held-out combinations, one a kind: the spread of the shapes of `--samples` seeds beside the spread of as many true toys,
and the share of samples that lie nearer to a toy that was trained on than 95 % of unseen true toys do.  Start it again
and it goes on where it stopped.  Writes results.json and a contact sheet per prompt.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toybox_quality import model_sampler
from toybox_subjects import FIRST_SEED, GENERATED, SIZE, held_out_toys, world_of

from viewfold.data.toybox import Asset, World, sample_asset
from viewfold.errors import ViewfoldError
from viewfold.evaluation.consistency import find_coverage
from viewfold.evaluation.diversity import CHANCE, find_near_copies, measure_spread
from viewfold.evaluation.interval import mean, share
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.report import markdown_table
from viewfold.picture import to_pil
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write
from viewfold.views import Views

TRAINED_SEEDS = 9000
"""recipes/toybox.sh makes the toys of the seeds below."""

LIBRARY, UNSEEN = 200, 100
"""Trained-on toys of a kind that samples are compared with, and unseen ones that say what chance gives."""


def outlines(toys: list[Asset]) -> Tensor:
    """Return the coverage "n v h w" of true renders, found by colour as it is found in samples."""
    return torch.stack([find_coverage(rasterize(t.mesh(), GENERATED, size=SIZE).over(0.5))[:, 0] for t in toys])


def trained_toys(kind: str, world: World) -> list[Asset]:
    """Return the first toys of a kind that the recipe trains on."""
    toys = (sample_asset(seed, world=world) for seed in range(TRAINED_SEEDS))
    return [toy for toy in toys if toy.kind == kind][:LIBRARY]


def unseen_toys(toy: Asset, count: int) -> list[Asset]:
    """Return toys of the same kind and colours whose shapes were never trained on."""
    return [Asset.of(toy.kind, toy.main, toy.accent, seed=FIRST_SEED + 900_000 + i) for i in range(count)]


def measure(toy: Asset, samples: Tensor, world: World) -> dict[str, Any]:
    """Return the figures of one prompt."""
    true = outlines(unseen_toys(toy, UNSEEN))
    copies = find_near_copies(samples, true, outlines(trained_toys(toy.kind, world)))
    return {
        "prompt": toy.captions[0],
        "spread": measure_spread(samples),
        "true_spread": measure_spread(true[: len(samples)]),
        "near_copies": copies,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toybox", help="a name or a folder")
    parser.add_argument("--out", type=Path, default=Path("out/diversity"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--steps", type=int, default=None, help="default: the model's own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        judge, _ = load_judge()
        world = world_of(judge)
        _, sample, notes = model_sampler(options.model, steps=options.steps, guidance=None, rescale=0.0)
        results = []
        for index, toy in enumerate(held_out_toys(options.prompts, seed=900, world=world)):
            drawn = []
            for seed in range(options.samples):
                folder = options.out / f"{index:02d}" / f"{seed:02d}"
                if not (folder / "run.json").is_file():
                    sample(toy.captions[0], GENERATED, seed).save(folder, turntable=False)
                drawn.append(Views.load(folder).rgb)
            with atomic_write(options.out / f"{index:02d}" / "contact.png") as temporary:
                to_pil(torch.cat([torch.cat(list(rgb), dim=2) for rgb in drawn], dim=1)).save(temporary)
            results.append(measure(toy, torch.stack([find_coverage(rgb)[:, 0] for rgb in drawn]), world))
            found = results[-1]
            print(
                f"{index + 1}/{options.prompts} {found['prompt']}: spread {found['spread']:.3f}, true "
                f"{found['true_spread']:.3f}, near-copies {sum(found['near_copies'])}/{options.samples}",
                flush=True,
            )
        relative = mean([r["spread"] / r["true_spread"] for r in results])
        copies = share([near for r in results for near in r["near_copies"]])
        rows = [
            ["spread of shapes, share of true toys'", relative.percent(), str(relative.n)],
            [f"near-copies of trained toys (chance: {100 * CHANCE:.0f} %)", copies.percent(), str(copies.n)],
        ]
        print(markdown_table(["one prompt, many seeds", "value (95 % interval)", "n"], rows))
        with atomic_write(options.out / "results.json") as temporary:
            figures = {"spread": asdict(relative), "near_copies": asdict(copies)}
            temporary.write_text(json.dumps({"notes": notes, "figures": figures, "prompts": results}, indent=1))
    except ViewfoldError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
