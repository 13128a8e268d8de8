"""What does choosing the best of N drawings buy?  Held-out prompts, chosen by agreement, looked at by the judge.

    python benchmarks/tries.py [--prompts 36] [--most 8]

Each prompt is drawn from `--most` seeds; of the first 1, 2, 4, ... the set is kept that `generate --tries` would keep
(evaluation/record.py).  Printed for each N: what they were chosen by, the worst view's, the share of sets whose kind
and both colours the judge sees, of views that are taken for the right kind, each seen alone, and how alike the views
look to it; means with 95 % intervals over prompts.  The judge's figures are what the choice did not look at.  Two
seconds a set.
"""

from __future__ import annotations

import argparse
import time

import torch
from toybox_subjects import GENERATED, expect, held_out_toys, world_of

import viewfold as vf
from viewfold.evaluation.consistency import measure_consistency
from viewfold.evaluation.fidelity import assess
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.record import score_views
from viewfold.evaluation.report import markdown_table

RUN = 23
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

FIGURES = ("score", "worst view", "all three right", "right kind, views alone", "look-alike views")


def main() -> None:
    """Draw, choose and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=36)
    parser.add_argument("--most", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = load_judge()[0]
    toys = held_out_toys(options.prompts, seed=RUN, world=world_of(judge))
    model, started = vf.load("toybox", device="cpu"), time.time()
    drawn: list[list[tuple[float, ...]]] = []
    for done, toy in enumerate(toys, start=1):
        drawn.append([])
        for seed in range(options.most):
            views = vf.generate(model, toy.captions[0], cameras=GENERATED, seed=seed, origin=None)
            seen = assess(judge, views.rgb, views.cameras, expected=expect(toy))
            drawn[-1].append(
                (
                    score_views(views),
                    measure_consistency(views.rgb, views.cameras).worst_view,
                    float(seen.right_kind and seen.right_main and seen.right_accent),
                    seen.right_sides / len(views),
                    seen.verdict.agreement,
                )
            )
        left = (time.time() - started) / done * (len(toys) - done)
        print(f"{done}/{len(toys)}, about {left:.0f} s left", flush=True)
    rows, n = [], 1
    while n <= options.most:
        kept = [max(sets[:n], key=lambda figures: figures[0]) for sets in drawn]
        cells = [mean([figures[column] for figures in kept]) for column in range(len(FIGURES))]
        rows.append([str(n), *(f"{f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for f in cells)])
        n *= 2
    print(markdown_table(["best of", *FIGURES], rows))


if __name__ == "__main__":
    main()
