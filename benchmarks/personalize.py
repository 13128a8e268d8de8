"""How well is a subject learned, part by part, and what is forgotten?  Held-out toys that the model never saw.

    python benchmarks/personalize.py [--subjects 10] [--seeds 3] [--arms default ...] [--out out/personalize]

A subject is a toy whose combination of colours was never trained on; the model is told nothing but "a zorb mug" and its
class.  Figures are of four views drawn with that prompt, beside the toy's own renders from the same cameras: PSNR,
whether the judge sees kind, main colour and the part's colour, and how far the views agree.  "before" is what the class
alone draws.  "kept" is how many of eight prompts of other things keep a right verdict that they had before; "new place"
how many of two sentences that put the subject elsewhere are taken for its kind and colour, seen from four sides.
Means with 95 % intervals.  Start it again and it goes on where it stopped; personalize.md and personalize.png (the
subject's views of each arm, failures included) are written at the end.  Needs the extra `lora`.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from toybox_subjects import GENERATED, held_out_toys, true_views, world_of

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.photos import Photos, read_photos
from viewfold.data.toybox import Asset
from viewfold.errors import ViewfoldError
from viewfold.evaluation.fidelity import Expected, assess
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.likeness import psnr_db
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.store import atomic_write, read_json, write_json
from viewfold.training.subject import PAPER, SubjectSettings
from viewfold.views import Views

RUN = 14
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

POSED = Cameras.orbit(8, elevation_deg=[5.0, 25.0] * 4, azimuth_deg=10.0)
"""From where a subject is shown."""

OTHERS = tuple(
    Expected(prompt=f"a {color} {kind}", kind=kind, main=color)
    for color, kind in (
        ("red", "car"), ("blue", "chair"), ("green", "tree"), ("white", "dog"),
        ("yellow", "duck"), ("pink", "teapot"), ("purple", "lamp"), ("cyan", "boat"),
    )
)  # fmt: skip
"""Things that must stay as they are.  Some are in the default prior as well: see "prior" left out."""

PLACES = ("{} on a blue table", "{} on the grass")

DEFAULT = SubjectSettings()
TIMES = replace(DEFAULT, prior=0, forgetting=None)

ARMS: dict[str, tuple[str, SubjectSettings]] = {
    "default": ("posed", DEFAULT),
    "no prior": ("posed", TIMES),
    "no prior, lambda 1": ("posed", replace(TIMES, preservation=1.0)),
    "rank 2": ("posed", replace(DEFAULT, rank=2)),
    "rank 32": ("posed", replace(DEFAULT, rank=32)),
    "all weights": ("posed", replace(DEFAULT, rank=None, loop=replace(DEFAULT.loop, lr=1.5e-4))),
    "four pictures, no cameras": ("pictures", DEFAULT),
    "the paper's": ("pictures", PAPER),
}
"""What a subject is shown as, and how it is learned."""

UNITS = {
    "psnr_db": 1, "nearer_db": 1, "colours_right": 2, "agreement": 3, "agreement_before": 3, "kept": 2, "new_place": 2,
    "cpu_s": 0, "peak_mib": 0,
}  # fmt: skip


def shown(toy: Asset, way: str) -> Photos | Views:
    """Return eight posed views of a toy, or four of them as files of pictures."""
    views = true_views(toy, POSED)
    if way == "posed":
        return views
    with tempfile.TemporaryDirectory() as folder:
        for number, rgb in enumerate(views.rgb[::2]):
            array = (rgb.permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(array).save(Path(folder) / f"{number}.png")
        return read_photos(folder, size=views.rgb.shape[-1])


def draw(model: Any, prompt: str, seed: int) -> Tensor:
    """Return four views."""
    return vf.generate(model, prompt, cameras=GENERATED, seed=seed, origin=None).rgb


def verdicts(model: Any, judge: Judge) -> list[bool]:
    """Return which of `OTHERS` are of the right kind and colour."""
    found = [assess(judge, draw(model, other.prompt, 0), GENERATED, expected=other) for other in OTHERS]
    return [one.right_kind and one.right_main for one in found]


def learn(judge: Judge, toy: Asset, arm: str, seed: int, path: Path, right_before: Callable[[], list[bool]]) -> Any:
    """Teach a fresh model one toy and measure it; its views stay beside `path`."""
    way, settings = ARMS[arm]
    settings = replace(settings, loop=replace(settings.loop, seed=seed))
    model, subject = vf.load("toybox", device="cpu", dtype=torch.float32), f"a zorb {toy.kind}"
    expected = Expected(prompt=subject, kind=toy.kind, main=toy.main, accent=toy.accent)
    truth = true_views(toy, GENERATED).rgb
    before = draw(model, f"a {toy.kind}", seed)
    started = time.process_time()
    made = vf.personalize(model, shown(toy, way), subject=subject, class_name=toy.kind, out=path, settings=settings)
    spent = time.process_time() - started
    if settings.rank is None:
        model = vf.load(str(made.path), device="cpu")
    else:
        model.load_lora_weights(made.path)
    after = draw(model, subject, seed)
    Views(rgb=after, cameras=GENERATED, prompt=subject).save(path / "views", turntable=False)
    outcome = assess(judge, after, GENERATED, expected=expected)
    still = verdicts(model, judge)
    had = right_before()
    places = [assess(judge, draw(model, p.format(subject), seed), GENERATED, expected=expected) for p in PLACES]
    return {
        "psnr_db": psnr_db(after, truth),
        "nearer_db": psnr_db(after, truth) - psnr_db(before, truth),
        "colours_right": float(outcome.right_kind and outcome.right_main and outcome.right_accent),
        "agreement": outcome.consistency,
        "agreement_before": assess(judge, before, GENERATED, expected=expected).consistency,
        "kept": sum(a and b for a, b in zip(still, had, strict=True)) / max(1, sum(had)),
        "new_place": sum(one.right_kind and one.right_main for one in places) / len(places),
        "cpu_s": spent,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Learn, draw, look and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("out/personalize"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = load_judge()[0]
    toys = held_out_toys(options.subjects, seed=RUN, world=world_of(judge))
    known: list[bool] = []

    def right_before() -> list[bool]:
        if not known:
            known.extend(verdicts(vf.load("toybox", device="cpu"), judge))
        return known

    rows = [f"{arm}, seed {seed}" for arm in options.arms for seed in range(options.seeds)]

    folder, started = options.out / "runs", time.time()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Any]] = {row: [] for row in rows}
    for done, (index, row) in enumerate(itertools.product(range(len(toys)), rows), start=1):
        arm, _, seed = row.rpartition(", seed ")
        path = folder / f"{index:03d} {row}"
        record = path.with_name(f"{path.name}.json")
        if not record.exists():
            try:
                figures = learn(judge, toys[index], arm, int(seed), path, right_before)
            except ViewfoldError as error:
                figures = {"failed": str(error)}
            with atomic_write(record) as temporary:
                write_json(temporary, {"prompt": toys[index].captions[0], **figures})
        found[row].append(read_json(record))
        left = (time.time() - started) / done * (len(toys) * len(rows) - done)
        print(f"{done}/{len(toys) * len(rows)}, about {left:.0f} s left: {row}, {found[row][-1]}", flush=True)
    lines, entries = [], []
    for arm in options.arms:
        figures = [f for row in rows if row.rpartition(", seed ")[0] == arm for f in found[row]]
        good = [f for f in figures if "failed" not in f]
        cells = []
        for name, digits in UNITS.items():
            figure = mean([f[name] for f in good])
            cells.append(f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})")
        lines.append([arm, *cells, f"{len(good)} of {len(figures)}"])
    text = markdown_table(["", *UNITS, "learned"], lines)
    for index, toy in enumerate(toys):
        entries.append(Entry(rgb=true_views(toy).rgb, lines=((toy.captions[0], None),)))
        for row in rows:
            views = folder / f"{index:03d} {row}" / "views"
            rgb = Views.load(views).rgb if views.exists() else torch.zeros_like(true_views(toy).rgb)
            entries.append(Entry(rgb=rgb, lines=((row, None),)))
    with atomic_write(options.out / "personalize.md") as temporary:
        temporary.write_text(text + "\n")
    with atomic_write(options.out / "personalize.png") as temporary:
        captioned_sheet(entries, columns=len(rows) + 1).save(temporary, format="PNG")
    print(text)


if __name__ == "__main__":
    main()
