"""How well is a subject learned, part by part, and what is forgotten?  Held-out toys that the model never saw.

    python benchmarks/personalize.py [--subjects 10] [--seeds 3] [--arms default ...] [--out out/personalize]

A subject is a toy whose combination of colours was never trained on, with a knob of a foreign colour on its left side;
the model is told nothing but "a zorb mug" and its class.  Figures are of four views drawn three times with that
prompt, beside the toy's own renders from the same cameras: PSNR, whether the judge sees kind, main colour and the
part's colour, in how many views the knob is seen where it is to be seen, and not where it is not, and how far the views
agree.  "before" is what the class alone draws.  "kept" is how many of eight prompts of other things keep a right
verdict that they had before; "new place" how many of two sentences that put the subject elsewhere are taken for its
kind and colour, and "known place" how many are if the model as it came is told the toy's colours in words.  "lifts" is
whether an object came of a lift, "lift" its PSNR from eight sides that no view was drawn from (of the first seed, in
two arms); "pose" how many pictures got a camera within 15 degrees.
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
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from toybox_subjects import BACKGROUND, GENERATED, SIZE, UNSEEN, expect, held_out_toys, world_of

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.photos import Photos, read_photos
from viewfold.data.toybox import Asset
from viewfold.data.toybox.palette import COLORS
from viewfold.data.toybox.primitives import ellipsoid
from viewfold.errors import FitError, ViewfoldError
from viewfold.evaluation.fidelity import Expected, assess
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.likeness import psnr_db
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.picture import to_pil
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write, read_json, write_json
from viewfold.training.subject import PAPER, WHOLE, SubjectSettings
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

DRAWN = 3
"""Drawings of a learned subject that its figures are the means of."""

DEFAULT = SubjectSettings()
TIMES = replace(DEFAULT, prior=0, forgetting=None)

ARMS: dict[str, tuple[str, SubjectSettings]] = {
    "eight posed views": ("posed", DEFAULT),
    "four pictures": ("pictures", DEFAULT),
    "four pictures, cut out": ("cut out", DEFAULT),
    "four pictures, one by one": ("pictures", replace(DEFAULT, pose=False)),
    "no prior": ("posed", TIMES),
    "no prior, lambda 1": ("posed", replace(TIMES, preservation=1.0)),
    "prior as heavy as the subject": ("posed", replace(DEFAULT, prior_weight=1.0)),
    "attention alone": ("posed", replace(DEFAULT, layers="attention")),
    "time steps all alike": ("posed", replace(DEFAULT, objective=replace(DEFAULT.objective, timestep_bias=0.0))),
    "a tenth without text": ("posed", replace(DEFAULT, objective=replace(DEFAULT.objective, drop_text=0.1))),
    "rank 2": ("posed", replace(DEFAULT, rank=2)),
    "rank 32": ("posed", replace(DEFAULT, rank=32)),
    "all weights": ("posed", WHOLE),
    "the paper's": ("pictures", PAPER),
    **{
        f"the paper's, 200 steps at {lr:g}, lambda {weight:g}": (
            "pictures",
            replace(PAPER, preservation=weight, loop=replace(PAPER.loop, steps=200, lr=lr)),
        )
        for lr, weight in ((2e-5, 0), (2e-5, 1), (1e-4, 0), (1e-4, 1), (1e-4, 1e4), (1e-4, 1e6))
    },
}
"""What a subject is shown as, and how it is learned; the last ones say what the paper's term does at higher rates."""

LIFTED = ("eight posed views", "four pictures")

UNITS = {
    "psnr_db": 1, "nearer_db": 1, "colours_right": 2, "knob_right": 2, "agreement": 3, "agreement_before": 3, "kept": 2,
    "new_place": 2, "known_place": 2, "lifts": 1, "lift_db": 1, "pose_right": 2, "cpu_s": 0, "peak_mib": 0,
}  # fmt: skip


KNOBS = ("magenta", "cyan", "lime", "orange", "blue")
"""Colours to choose the knob's from."""

KNOB_RADIUS = 0.11

SEEN = 0.004
"""Share of a picture's pixels that a knob covers at least where it counts as to be seen."""


def hue(rgb: Tensor) -> Tensor:
    """Return colours "3 *" without their brightness."""
    return rgb / rgb.amax(dim=0).clamp_min(0.05)


def knob_color(toy: Asset) -> Tensor:
    """Return the colour of `KNOBS` that is the farthest from the toy's own two."""
    own = [hue(torch.tensor(COLORS[name])) for name in (toy.main, toy.accent)]
    candidates = [torch.tensor(COLORS[name]) for name in KNOBS]
    return max(candidates, key=lambda color: min(float((hue(color) - other).norm()) for other in own))


def with_knob(toy: Asset) -> Mesh:
    """Return the toy with a ball of a foreign colour on its left, where it reaches farthest."""
    mesh, ball = toy.mesh(), ellipsoid(KNOB_RADIUS)
    vertices = torch.from_numpy(ball.vertices).float() + mesh.vertices[mesh.vertices[:, 0].argmax()]
    red, green, blue = knob_color(toy).tolist()
    knob = Mesh(
        vertices=vertices,
        faces=torch.from_numpy(ball.faces.copy()),
        materials=(Material(color=(red, green, blue)),),
    )
    return Mesh.cat([mesh, knob]).fit_sphere(0.4999)


def renders(toy: Asset, cameras: Cameras) -> Tensor:
    """Return pictures of a subject."""
    return rasterize(with_knob(toy), cameras, size=SIZE).over(BACKGROUND)


def knob_right(drawn: Tensor, truth: Tensor, color: Tensor) -> float:
    """Return the share of views whose knob is as large as half the true one at least, or rightly not there."""
    share = [
        ((hue(rgb.transpose(0, 1)) - hue(color)[:, None, None, None]).norm(dim=0) < 0.35).float().mean(dim=(1, 2))
        for rgb in (drawn, truth)
    ]
    right = torch.where(share[1] > SEEN, share[0] > share[1] / 2, share[0] < SEEN)
    return float(right.float().mean())


def shown(toy: Asset, way: str) -> Photos | Views:
    """Return eight posed views of a toy, or four as files: framed as they are, or cut out, which frames them anew."""
    if way == "posed":
        return Views(rgb=renders(toy, POSED), cameras=POSED)
    drawn = rasterize(with_knob(toy), POSED[::2], size=4 * SIZE if way == "cut out" else SIZE)
    pictures = drawn.over(BACKGROUND)
    if way == "cut out":
        straight = (drawn.rgb / drawn.alpha.clamp_min(1e-6)).clamp(0, 1)
        pictures = torch.cat([straight, drawn.alpha], dim=1)
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            to_pil(picture).save(Path(folder) / f"{number}.png")
        return read_photos(folder, size=SIZE)


def draw(model: Any, prompt: str, seed: int) -> Tensor:
    """Return four views."""
    return vf.generate(model, prompt, cameras=GENERATED, seed=seed, origin=None).rgb


def verdicts(model: Any, judge: Judge) -> list[bool]:
    """Return which of `OTHERS` are of the right kind and colour."""
    found = [assess(judge, draw(model, other.prompt, 0), GENERATED, expected=other) for other in OTHERS]
    return [one.right_kind and one.right_main for one in found]


def lifted(model: Any, subject: str, toy: Asset, path: Path, *, seed: int) -> dict[str, float]:
    """Lift a learned subject; the lift's likeness to the toy from unseen sides, and whether there is one."""
    try:
        asset = vf.lift(model, subject, seed=seed)
    except FitError as error:
        print(f"{path}: {error}", flush=True)
        return {"lifts": 0.0}
    asset.save(path, turntable=False)
    drawn = rasterize(load_mesh(path), UNSEEN, size=SIZE).over(BACKGROUND)
    return {"lifts": 1.0, "lift_db": psnr_db(drawn, renders(toy, UNSEEN))}


def learn(judge: Judge, toy: Asset, arm: str, seed: int, path: Path, right_before: Callable[[], list[bool]]) -> Any:
    """Teach a fresh model one toy and measure it; its views stay beside `path`."""
    way, settings = ARMS[arm]
    settings = replace(settings, loop=replace(settings.loop, seed=seed))
    model, subject = vf.load("toybox", device="cpu", dtype=torch.float32), f"a zorb {toy.kind}"
    expected = Expected(prompt=subject, kind=toy.kind, main=toy.main, accent=toy.accent)
    truth, seeds = renders(toy, GENERATED), range(DRAWN * seed, DRAWN * (seed + 1))
    before = [draw(model, f"a {toy.kind}", one) for one in seeds]
    known = [draw(model, place.format(toy.captions[0]), seed) for place in PLACES]
    started = time.process_time()
    made = vf.personalize(model, shown(toy, way), subject=subject, class_name=toy.kind, out=path, settings=settings)
    spent = time.process_time() - started
    if settings.rank is None:
        model = vf.load(str(made.path), device="cpu")
    else:
        model.load_lora_weights(made.path)
    after = [draw(model, subject, one) for one in seeds]
    Views(rgb=after[0], cameras=GENERATED, prompt=subject).save(path / "views", turntable=False)
    outcomes = [assess(judge, rgb, GENERATED, expected=expected) for rgb in after]
    still = verdicts(model, judge)
    had = right_before()
    new = [draw(model, place.format(subject), seed) for place in PLACES]
    new_place, known_place = (
        sum(a.right_kind and a.right_main for a in (assess(judge, rgb, GENERATED, expected=expected) for rgb in drawn))
        / len(PLACES)
        for drawn in (new, known)
    )
    lift = {}
    if seed == 0 and arm in LIFTED:
        lift = lifted(model, subject, toy, path / "lift.glb", seed=seed)
    pose = {}
    if made.posed is not None:
        off = (made.posed.cameras.azimuth_deg - POSED.azimuth_deg[::2] + 180) % 360 - 180
        pose["pose_right"] = float((off.abs() <= 15).float().mean())

    psnr = fmean(psnr_db(rgb, truth) for rgb in after)
    return {
        "psnr_db": psnr,
        "nearer_db": psnr - fmean(psnr_db(rgb, truth) for rgb in before),
        "colours_right": fmean(o.right_kind and o.right_main and o.right_accent for o in outcomes),
        "knob_right": fmean(knob_right(rgb, truth, knob_color(toy)) for rgb in after),
        "agreement": fmean(o.consistency for o in outcomes),
        "agreement_before": fmean(assess(judge, b, GENERATED, expected=expected).consistency for b in before),
        "kept": sum(a and b for a, b in zip(still, had, strict=True)) / max(1, sum(had)),
        "new_place": new_place,
        "known_place": known_place,
        **lift,
        **pose,
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
            of = [f[name] for f in good if name in f]
            figure = mean(of) if of else None
            cells.append(
                ""
                if figure is None
                else f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"
            )
        lines.append([arm, *cells, f"{len(good)} of {len(figures)}"])
    text = markdown_table(["", *UNITS, "learned"], lines)
    for index, toy in enumerate(toys):
        entries.append(Entry(rgb=renders(toy, GENERATED), lines=((toy.captions[0], None),)))
        for row in rows:
            views = folder / f"{index:03d} {row}" / "views"
            rgb = Views.load(views).rgb if views.exists() else torch.zeros(len(GENERATED), 3, SIZE, SIZE)
            entries.append(Entry(rgb=rgb, lines=((row, None),)))
    with atomic_write(options.out / "personalize.md") as temporary:
        temporary.write_text(text + "\n")
    with atomic_write(options.out / "personalize.png") as temporary:
        captioned_sheet(entries, columns=len(rows) + 1).save(temporary, format="PNG")
    print(text)
    true = [assess(judge, renders(toy, GENERATED), GENERATED, expected=expect(toy)) for toy in toys]
    right = sum(one.right_kind and one.right_main and one.right_accent for one in true)
    print(f"kind and both colours are seen in {right} of {len(toys)} true renders")


if __name__ == "__main__":
    main()
