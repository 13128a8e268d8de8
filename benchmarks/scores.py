"""Which score distils best?  All six on the shipped model, on the same toys, for the same CPU time.

    python benchmarks/scores.py --start fit  --prompts 4 --seconds 13      # about seven CPU minutes
    python benchmarks/scores.py --start blob --prompts 3 --seconds 22      # about seven

`fit` begins with a field fitted to four true renders of a held-out toy, and says what distillation makes of the sides
that no view showed.  `blob` begins with a grey ball and sees no views (`presets.MVDREAM_REDUCED`).

Steps of each score: `--seconds` over what a step of it cost in the run before.  Eight sides that no view was taken from
are drawn of the field and compared with the true toy's; the judge says for each whether it shows the right kind.
"start" is where all begin.  "pictures" (from a fit) is the same loop with a score that is zero, ASD without shift or
guidance: what the pictures of every third step and the field's own regularisation do alone.  Prints a table;
scores-START.png shows the sides.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from toybox_subjects import BACKGROUND, SIZE, UNSEEN, expect, held_out_toys, true_views, world_of

import viewfold as vf
from viewfold.data.toybox import Asset
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.likeness import psnr_db
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import Fitted, fit
from viewfold.lifting.observation import observe
from viewfold.lifting.presets import MVDREAM_REDUCED
from viewfold.lifting.prior import Prior
from viewfold.lifting.score import ASD, SCORES, Score
from viewfold.lifting.start import FromBlob, begin_blob
from viewfold.store import atomic_write

FROM_FIT = DistilSettings()
"""The lift's own: low noise, guidance 3, every third step held to the pictures."""

FROM_BLOB = MVDREAM_REDUCED.distil
"""MVDream's, for the shipped model: high noise first, guidance 10, no pictures; as many steps as the time allows."""

TRIAL_STEPS = 8
"""Of the run that says what a step costs."""


PICTURES = ASD(shift=0.0)
"""At guidance 1 the difference of two equal predictions."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of one toy with one score."""

    name: str
    steps: int
    cpu_s: float
    psnr_db: float
    right_sides: int
    rollbacks: int
    entry: Entry


class Bench:
    """The model, the judge and where every run begins."""

    def __init__(self, start: str, seed: int) -> None:
        self.start, self.seed = start, seed
        self.model: Prior = vf.load("toybox", device="cpu")
        self.judge: Judge = load_judge()[0]
        self.scores: dict[str, Score] = {"pictures": PICTURES} if start == "fit" else {}
        self.scores |= {score.kind: score for score in SCORES}

    def begin(self, toy: Asset) -> Fitted:
        """Return the fit of four true renders, or the blob."""
        if self.start == "fit":
            return fit(observe(true_views(toy)), generator=torch.Generator().manual_seed(self.seed))
        return begin_blob(FromBlob(), representation=MVDREAM_REDUCED.representation, device=self.model.device)

    def settings(self, score: Score, steps: int) -> DistilSettings:
        """Return the same settings for every score."""
        base = FROM_FIT if self.start == "fit" else replace(FROM_BLOB, anneal_steps=round(0.8 * steps))
        return replace(base, score=score, steps=steps, guidance=1.0 if score is PICTURES else base.guidance)

    def run(self, fitted: Fitted, toy: Asset, score: Score, steps: int) -> tuple[float, int]:
        """Distil in place; return CPU seconds and rollbacks."""
        before, generator = time.process_time(), torch.Generator().manual_seed(self.seed)
        settings = self.settings(score, steps)
        refined = distil(fitted, self.model, expect(toy).prompt, settings=settings, generator=generator)
        return time.process_time() - before, refined.rollbacks

    def look(self, fitted: Fitted, toy: Asset, name: str, *, steps: int, cpu_s: float, rollbacks: int) -> Found:
        """Draw the unseen sides and measure them."""
        with torch.no_grad():
            drawn = fitted.representation.render(UNSEEN, size=SIZE, quality=2.0).over(BACKGROUND)
        wanted, likeness = expect(toy), psnr_db(drawn, true_views(toy, UNSEEN).rgb)
        right = sum(kind == wanted.kind for kind in self.judge.read(drawn).kind_of_each)
        line = f"{name}: {right}/8 sides, {likeness:.1f} dB, {steps} steps"
        entry = Entry(rgb=drawn, lines=((wanted.prompt, None), (line, None)))
        return Found(
            name=name, steps=steps, cpu_s=cpu_s, psnr_db=likeness, right_sides=right, rollbacks=rollbacks, entry=entry
        )


def compare(bench: Bench, toys: list[Asset], seconds: float) -> list[list[Found]]:
    """Return what came of each toy: its start, then every score."""
    first = bench.begin(toys[0])
    kept, cost = first.representation.snapshot(), {}
    bench.run(first, toys[0], SCORES[0], 2)  # warms up
    for name, score in bench.scores.items():
        first.representation.restore(kept)
        cost[name] = bench.run(first, toys[0], score, TRIAL_STEPS)[0] / TRIAL_STEPS
        print(f"{name}: {cost[name]:.2f} CPU s a step", flush=True)
    found = []
    for toy in toys:
        fitted = bench.begin(toy)
        kept = fitted.representation.snapshot()
        row = [bench.look(fitted, toy, "start", steps=0, cpu_s=0.0, rollbacks=0)]
        for name, score in bench.scores.items():
            fitted.representation.restore(kept)
            steps = max(1, round(seconds / cost[name]))
            cpu_s, rollbacks = bench.run(fitted, toy, score, steps)
            cost[name] = cpu_s / steps
            row.append(bench.look(fitted, toy, name, steps=steps, cpu_s=cpu_s, rollbacks=rollbacks))
            print(
                row[-1].entry.lines[1][0], f"{cpu_s:.1f} CPU s, {rollbacks} rollbacks", expect(toy).prompt, flush=True
            )
        found.append(row)
    return found


def table(found: list[list[Found]]) -> str:
    """Return a row for each score: means over the toys, and the paired change from the start with its interval."""
    rows = []
    for column in zip(*found, strict=True):
        change = [each.psnr_db - row[0].psnr_db for each, row in zip(column, found, strict=True)]
        around = mean(change) if len(change) > 1 and column[0].steps else None
        rows.append(
            [
                column[0].name,
                f"{sum(each.steps for each in column) / len(column):.0f}",
                f"{sum(each.cpu_s for each in column) / len(column):.1f}",
                f"{sum(each.right_sides for each in column)} of {8 * len(column)}",
                f"{sum(each.psnr_db for each in column) / len(column):.2f}",
                "-" if around is None else f"{around.value:+.2f} ({around.low:+.2f} to {around.high:+.2f})",
            ]
        )
    return markdown_table(["score", "steps", "CPU s", "right kind at unseen sides", "PSNR, dB", "change, dB"], rows)


def main() -> None:
    """Run, print the table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", choices=["fit", "blob"], default="fit")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="CPU seconds of each distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/scores"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.start, options.seed)
    toys = held_out_toys(options.prompts, seed=options.seed, world=world_of(bench.judge))
    found = compare(bench, toys, options.seconds)
    print(f"\n{table(found)}\n\n{time.process_time():.0f} CPU s in all, torch {torch.__version__}, one thread")
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.out / f"scores-{options.start}.png") as temporary:
        captioned_sheet([each.entry for row in found for each in row], columns=2).save(temporary, optimize=True)


if __name__ == "__main__":
    main()
