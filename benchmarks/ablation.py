"""What each part of the paper's method buys: objects from a blob, no views given, with one part left out at a time.

    python benchmarks/ablation.py [--toys 6] [--out out/ablation]

Every row is `presets.MVDREAM_REDUCED` on the shipped model, with the same prompts, seeds and steps, but for its one
change.  The GLB is read back and drawn from eight sides; "right_sides" is how many of them the judge, seeing each
alone, takes for the right kind.  The toys are such whose front and back differ, so "two_sided" counts what the paper
calls the Janus problem: an object whose back repeats its front has 0, one whose sides differ by half of what the true
toy's do has 1 (`evaluation.fidelity.shows_two_sides`).  "2D prior" is the same network in its 2D mode, each view by
itself and without a camera.  Parts of a lift that begins with views are left out in `benchmarks/lift_quality.py`.

Start it again and it goes on where it stopped; ablation.md and ablation.png (a row each, failures included) are written
at the end.  About two CPU minutes for each toy and row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lift_quality import measure, table
from torch import Tensor
from toybox_subjects import BACKGROUND, SIZE, UNSEEN, held_out_toys, world_of

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.toybox import Asset
from viewfold.evaluation.fidelity import TWO_SIDED, measure_opposites, shows_two_sides
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.report import Entry, captioned_sheet
from viewfold.lifting.presets import MVDREAM_NEGATIVE, MVDREAM_REDUCED
from viewfold.lifting.score import Reconstruction
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.stages import lift
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write
from viewfold.views import Views

RUN = 13
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

BASE = MVDREAM_REDUCED.distil

ROWS: dict[str, DistilSettings] = {
    "whole": BASE,
    "noise not annealed": replace(BASE, noise_at_start=(0.02, 0.98), noise_at_end=(0.02, 0.98)),
    "contrast not rescaled": replace(BASE, score=Reconstruction(rescale=0.0)),
    "MVDream's negative prompt": replace(BASE, negative=MVDREAM_NEGATIVE),
    "one view a step": replace(BASE, views=1),
    "2D prior": BASE,
}


@dataclass(frozen=True)
class FlatPrior:
    """A multi-view prior in its 2D mode: each view a picture of its own, without a camera."""

    prior: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Any, cameras: Cameras | None) -> Tensor:
        """Return the noise in x_t, as `lifting.prior.Prior` says, the cameras left unread."""
        n = x.shape[1]
        flat = self.prior.predict_noise(
            x.flatten(0, 1)[:, None], t.repeat_interleave(n), condition.repeat_interleave(n), None
        )
        return flat[:, 0].unflatten(0, (-1, n))


def two_sided_toys(count: int, judge: Judge) -> list[Asset]:
    """Return held-out toys whose front and back differ, kinds in turn."""
    toys = held_out_toys(6 * count, seed=RUN, world=world_of(judge))
    return [toy for toy in toys if measure_opposites(_pictures(toy)) >= TWO_SIDED][:count]


def _pictures(toy: Asset) -> Tensor:
    return rasterize(toy.mesh(), UNSEEN, size=SIZE, light=None).over(BACKGROUND)


def lift_one(model: Any, judge: Judge, toy: Asset, row: str, path: Path, *, seed: int) -> dict[str, float]:
    """Return what a lift from a blob became."""
    prior: Any = FlatPrior(model) if row == "2D prior" else model
    started = time.process_time()
    asset = lift(prior, toy.captions[0], settings=replace(MVDREAM_REDUCED, distil=ROWS[row]), seed=seed)
    asset.save(path, turntable=False)
    spent = time.process_time() - started
    drawn = rasterize(load_mesh(path), UNSEEN, size=SIZE, light=None).over(BACKGROUND)
    Views(rgb=drawn, cameras=UNSEEN, prompt=toy.captions[0]).save(path.with_suffix(""), turntable=False)
    right = sum(kind == toy.kind for kind in judge.read(drawn).kind_of_each)
    two_sided = shows_two_sides(drawn, _pictures(toy))
    return {"right_sides": float(right), "two_sided": float(bool(two_sided)), "cpu_s": spent}


def sheet(toys: Sequence[Asset], out: Path) -> None:
    """Draw every object, a line of eight sides each."""
    entries = []
    for index, toy in enumerate(toys):
        for number, row in enumerate(ROWS):
            folder = out / "objects" / f"{index:03d}_{number}"
            rgb = Views.load(folder).rgb if folder.is_dir() else torch.full((len(UNSEEN), 3, SIZE, SIZE), BACKGROUND)
            entries.append(Entry(rgb=rgb, lines=((f"{toy.captions[0]}: {row}", None),)))
    captioned_sheet(entries, columns=1).save(out / "ablation.png")


def main() -> None:
    """Lift every toy in each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, (judge, _) = vf.load("toybox", device="cpu"), load_judge()
    toys = two_sided_toys(options.toys, judge)

    def one(row: str, index: int, path: Path) -> dict[str, float]:
        return lift_one(model, judge, toys[index], row, path, seed=index)

    text = table(measure("objects", toys, list(ROWS), one, options.out))
    with atomic_write(options.out / "ablation.md") as temporary:
        temporary.write_text(text + "\n")
    sheet(toys, options.out)
    print(text)


if __name__ == "__main__":
    main()
