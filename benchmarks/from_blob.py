"""The paper's method on the shipped model: objects from a blob, no views given, looked at by the judge.

    python benchmarks/from_blob.py [--seeds 1] [--prompts "a red mug" ...] [--whole] [--out out/from_blob]

Each prompt is lifted by `presets.MVDREAM_REDUCED` through the same call as any other, its GLB read back and drawn from
eight sides at elevations of 5 and 25 degrees.  It counts as right if the judge takes at least five of them, each seen
alone, for the kind that the prompt's last word names; what it says of the blob itself is printed first.  `--whole` adds
the parts that the shipped model does not need: backgrounds, light, the orientation loss, two objects a batch at half the
size.  Writes a contact sheet, failures included, and prints CPU seconds, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from toybox_subjects import BACKGROUND, SIZE, UNSEEN

import viewfold as vf
from viewfold.diffusion.schedule import Anneal
from viewfold.errors import FitError
from viewfold.evaluation.fidelity import RECOGNISED_SHARE
from viewfold.evaluation.interval import share
from viewfold.evaluation.judge import Verdict, load_judge
from viewfold.evaluation.report import Entry, captioned_sheet
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.phase import Phase
from viewfold.lifting.presets import MVDREAM_REDUCED
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.shading import Shading
from viewfold.lifting.stages import LiftSettings
from viewfold.lifting.start import FromBlob, begin_blob
from viewfold.make import lift
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize

PROMPTS = ("a red mug", "a blue chair", "a green rocket", "a yellow car")

ENOUGH = round(RECOGNISED_SHARE * len(UNSEEN))


def whole() -> LiftSettings:
    """Return the reduced preset with the parts of the method that it leaves out, weighed for a mean over latents."""
    base = MVDREAM_REDUCED.distil
    half = base.steps // 2
    parts = replace(
        base,
        phases=(Phase(size=32, objects=2), Phase(from_step=half)),
        backdrop=Backdrop(solid_share=0.5, shared="batch"),
        shading=Shading(albedo_steps=half),
        regularizer=Regularizer(orientation=Anneal(start=0.0005, end=0.05, steps=half)),
    )
    return replace(MVDREAM_REDUCED, distil=parts)


def look(verdict: Verdict, kind: str) -> str:
    """Return how many sides are of a kind, and what the others are taken for."""
    others = sorted({seen for seen in verdict.kind_of_each if seen != kind})
    right = sum(seen == kind for seen in verdict.kind_of_each)
    return f"{right} of {len(verdict.kind_of_each)}" + (f" ({', '.join(others)})" if others else "")


def main() -> None:
    """Lift, look and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=MVDREAM_REDUCED.distil.steps)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/from_blob"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model, (judge, _) = vf.load("toybox", device="cpu"), load_judge()
    settings = whole() if options.whole else MVDREAM_REDUCED
    ratio = options.steps / settings.distil.steps
    anneal = round((settings.distil.anneal_steps or settings.distil.steps) * ratio)
    settings = replace(settings, distil=replace(settings.distil, steps=options.steps, anneal_steps=anneal))
    assert isinstance(settings.start, FromBlob)
    began = begin_blob(settings.start, representation=settings.representation, device="cpu").representation
    blob = judge.read(began.render(UNSEEN, size=SIZE).over(BACKGROUND).detach())
    print(f"the blob alone is taken for: {', '.join(sorted(set(blob.kind_of_each)))}\n")
    print("| prompt | seed | sides of the file that are right | kind, colour of all sides | PSNR of the file | CPU s |")
    print("|---|---|---|---|---|---|")
    hits, entries = [], []
    for prompt in options.prompts:
        kind = prompt.split()[-1]
        for seed in range(options.seeds):
            started, path = time.process_time(), options.out / f"{kind}_{seed}.glb"
            try:
                asset = lift(model, prompt, seed=seed, settings=settings)
            except FitError as error:
                hits.append(False)
                print(f"| {prompt} | {seed} | none: {error} | | | {time.process_time() - started:.0f} |", flush=True)
                continue
            asset.save(path, turntable=False)
            spent = time.process_time() - started
            drawn = rasterize(load_mesh(path), UNSEEN, size=SIZE, light=None).over(BACKGROUND)
            verdict = judge.read(drawn)
            right = sum(seen == kind for seen in verdict.kind_of_each)
            hits.append(right >= ENOUGH)
            said = f"{verdict.kind}, {verdict.main}"
            psnr = asset.report["rerender_psnr_db"]
            print(f"| {prompt} | {seed} | {look(verdict, kind)} | {said} | {psnr} | {spent:.0f} |", flush=True)
            entries.append(Entry(rgb=drawn, lines=((f"{prompt}, seed {seed}", None), (look(verdict, kind), hits[-1]))))
    print(f"\nright at {ENOUGH} of {len(UNSEEN)} sides: {sum(hits)} of {len(hits)}, {share(hits).percent()}")
    captioned_sheet(entries, columns=1).save(options.out / "contact.png")


if __name__ == "__main__":
    main()
