"""How good is a lift, part by part?  From true renders of toys, with no network in the way, and from generated views.

    python benchmarks/lift_quality.py --out out/lift                 # a second process may do --true 0 or --prompts 0

Every figure is of the exported GLB, read back and drawn in the renderer's light at eight sides that no view shows.

True: 4, 8 or 16 renders of a held-out toy at 64 pixels are lifted, and compared with the toy: PSNR over the picture and
over the pixels that both cover, intersection over union of the outlines, Chamfer distance, F-score and consistency of
normals, all in place.  Generated: the same prompts and seeds for every row; "own" compares with eight more views that
the model drew in the same run and that no fit saw, over the pixels of the picture; "right sides" is how many of the
eight the judge takes for the right kind.  Means with 95 % intervals.  Start it again and it goes on where it stopped;
true.md, true.png, generated.md and generated.png are written at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from toybox_subjects import BACKGROUND, SIZE, UNSEEN, held_out_toys, world_of

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.toybox import Asset
from viewfold.errors import ViewfoldError
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import Judge, load_judge
from viewfold.evaluation.likeness import compare_pictures, compare_surfaces, psnr_db
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.lifting.paint import PaintSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.presets import HIGH, STANDARD
from viewfold.lifting.stages import LiftSettings
from viewfold.lifting.stages import lift as lift_views
from viewfold.pipeline.generation import orbit
from viewfold.scene.light import Light
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write, read_json, write_json
from viewfold.views import Views

RUN = 12
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

KNOWN = replace(STANDARD, paint=PaintSettings(light=Light()))
UNPOLISHED = replace(KNOWN, polish=PolishSettings(steps=0))
DISTILLED = replace(KNOWN, distil=HIGH.distil)

TRUE: dict[str, tuple[int, LiftSettings]] = {
    "4 views": (4, KNOWN),
    "8 views": (8, KNOWN),
    "16 views": (16, KNOWN),
    "16 views, not polished": (16, UNPOLISHED),
    "16 views, 60 steps of distillation": (16, DISTILLED),
}
GENERATED: dict[str, tuple[int, LiftSettings]] = {
    "4 views, 60 steps, not polished": (4, replace(UNPOLISHED, distil=HIGH.distil)),
    "draft: 8 views, not polished": (8, UNPOLISHED),
    "standard: 16 views": (16, KNOWN),
    "high: 16 views, 60 steps": (16, DISTILLED),
}
"""The first is what a lift was before it was views first, but for its paint."""

UNITS = {
    "psnr_db": 2, "both_psnr_db": 2, "outline_iou": 4, "chamfer": 4, "f_score": 3, "normal_consistency": 3,
    "own_psnr_db": 2, "right_sides": 2, "two_sided": 2, "rerender_psnr_db": 2, "watertight": 2, "one_piece": 2,
    "cpu_s": 1,
}  # fmt: skip
"""Figures in the order of the table, and their digits."""


def true_cameras(n_views: int) -> Cameras:
    """Return cameras around an object, at 15 degrees for four views, at 5 and 30 in turn for more."""
    heights = [15.0] if n_views == 4 else [5.0, 30.0]
    return Cameras.orbit(n_views, elevation_deg=[heights[i % len(heights)] for i in range(n_views)])


def lift_one(
    model: Any, prompt: str, views: Views, settings: LiftSettings, path: Path
) -> tuple[dict[str, float], Any, Any]:
    """Lift, save and read back; return figures of the lift itself, the mesh of the file, and its pictures."""
    started = time.process_time()
    asset = lift_views(model, prompt, views=views, settings=settings)
    spent = time.process_time() - started
    asset.save(path, turntable=False)
    mesh = load_mesh(path)
    figures = {
        "rerender_psnr_db": asset.report["rerender_psnr_db"],
        "watertight": float(asset.report["watertight"]),
        "one_piece": float(asset.report["components"] == 1),
        "cpu_s": spent,
    }
    return figures, mesh, rasterize(mesh, UNSEEN, size=SIZE)


def lift_true(model: Any, toy: Asset, n_views: int, settings: LiftSettings, path: Path) -> dict[str, float]:
    """Return the figures of a lift of a toy's own renders."""
    mesh, cameras = toy.mesh(), true_cameras(n_views)
    rgb = rasterize(mesh, cameras, size=SIZE).over(BACKGROUND)
    views = Views(rgb=rgb, cameras=cameras)
    figures, made, drawn = lift_one(model, toy.captions[0], views, settings, path)
    likeness = compare_pictures(drawn, rasterize(mesh, UNSEEN, size=SIZE), ground=BACKGROUND)
    _keep(path, drawn.over(BACKGROUND), toy.captions[0])
    return {**asdict(likeness), **asdict(compare_surfaces(made, mesh)), **figures}


def drawn_views(model: Any, prompt: str, n_views: int, seed: int) -> tuple[Views, Views]:
    """Return the views that a lift would draw, and eight more of the same run from the unseen sides."""
    anchors = vf.generate(model, prompt, seed=seed)
    others = replace(STANDARD.survey, views=n_views).others(orbit(model.defaults))
    around = UNSEEN if others is None else Cameras.cat([others, UNSEEN])
    run = vf.generate(model, prompt, seed=seed, given=anchors, cameras=around)
    n = len(run) - len(UNSEEN)
    return tuple(replace(run, rgb=run.rgb[s], cameras=run.cameras[s]) for s in (slice(n), slice(n, None)))  # type: ignore


def lift_generated(
    model: Any, judge: Judge, toy: Asset, n_views: int, settings: LiftSettings, path: Path, *, seed: int
) -> dict[str, float]:
    """Return the figures of a lift of generated views."""
    prompt = toy.captions[0]
    views, unseen = drawn_views(model, prompt, n_views, seed)
    figures, _, drawn = lift_one(model, prompt, views, settings, path)
    pictures = drawn.over(BACKGROUND)
    right = sum(kind == toy.kind for kind in judge.read(pictures).kind_of_each)
    _keep(path, pictures, prompt)
    likeness = compare_pictures(drawn, rasterize(toy.mesh(), UNSEEN, size=SIZE), ground=BACKGROUND)
    own = {"own_psnr_db": psnr_db(pictures, unseen.rgb), "right_sides": float(right)}
    return {"psnr_db": likeness.psnr_db, "outline_iou": likeness.outline_iou, **own, **figures}


def _keep(path: Path, pictures: torch.Tensor, prompt: str) -> None:
    Views(rgb=pictures, cameras=UNSEEN, prompt=prompt).save(path.with_suffix(""), turntable=False)


def measure(
    name: str, toys: Sequence[Asset], rows: Sequence[str], one: Callable[[str, int, Path], dict[str, float]], out: Path
) -> dict[str, list[dict[str, float]]]:
    """Measure all toys in each row, but for those that a file has already; failures are told and counted."""
    found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    total, done, started = len(toys) * len(rows), 0, time.time()
    for index, toy in enumerate(toys):
        for number, row in enumerate(rows):
            path = out / name / f"{index:03d}_{number}.glb"
            path.parent.mkdir(parents=True, exist_ok=True)
            record = path.with_suffix(".figures.json")
            if not record.exists():
                try:
                    figures = one(row, index, path)
                except ViewfoldError as error:
                    figures = {"failed": 1.0}
                    print(f"{row}, {toy.captions[0]}: {error}", flush=True)
                with atomic_write(record) as temporary:
                    write_json(temporary, {"row": row, "prompt": toy.captions[0], **figures})
            found[row].append(read_json(record))
            done += 1
            left = (time.time() - started) / done * (total - done)
            print(f"{name} {done}/{total}, about {left:.0f} s left: {row}, {toy.captions[0]}", flush=True)
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return means with 95 % intervals, a row for each way to lift."""
    names = [name for name in UNITS if any(name in figures for row in found.values() for figures in row)]
    rows = []
    for row, all_figures in found.items():
        good = [figures for figures in all_figures if "failed" not in figures]
        cells = []
        for name in names:
            figure = mean([figures[name] for figures in good])
            cells.append(
                f"{figure.value:.{UNITS[name]}f} ({figure.low:.{UNITS[name]}f} to {figure.high:.{UNITS[name]}f})"
            )
        rows.append([row, *cells, f"{len(good)} of {len(all_figures)}"])
    return markdown_table(["", *names, "lifted"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/lift_quality"))
    parser.add_argument("--true", type=int, default=20, help="toys whose own renders are lifted")
    parser.add_argument("--prompts", type=int, default=40, help="prompts whose generated views are lifted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge, model = load_judge()[0], vf.load("toybox", device="cpu")
    toys = held_out_toys(max(options.true, options.prompts), seed=RUN, world=world_of(judge))

    def from_truth(row: str, index: int, path: Path) -> dict[str, float]:
        return lift_true(model, toys[index], *TRUE[row], path)

    def from_prompt(row: str, index: int, path: Path) -> dict[str, float]:
        return lift_generated(model, judge, toys[index], *GENERATED[row], path, seed=RUN * 1000 + index)

    parts = {
        "true": (toys[: options.true], list(TRUE), from_truth),
        "generated": (toys[: options.prompts], list(GENERATED), from_prompt),
    }
    for name, (some, rows, one) in parts.items():
        if not some:
            continue
        found = measure(name, some, rows, one, options.out)
        print(f"\n{name}\n\n{table(found)}\n", flush=True)
        with atomic_write(options.out / f"{name}.md") as temporary:
            temporary.write_text(table(found) + "\n")
        entries = []
        for index, toy in enumerate(some):
            for number, row in enumerate(rows):
                folder = options.out / name / f"{index:03d}_{number}"
                if folder.exists():
                    entries.append(Entry(rgb=Views.load(folder).rgb, lines=((f"{row}: {toy.captions[0]}", None),)))
        with atomic_write(options.out / f"{name}.png") as temporary:
            captioned_sheet(entries, columns=len(rows)).save(temporary, format="PNG")


if __name__ == "__main__":
    main()
