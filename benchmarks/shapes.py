"""Are the shapes right where pictures hardly show it?  Mugs with a cavity, chairs whose four legs are whole: a count.

    python benchmarks/shapes.py [--seeds 10] [--out out/shapes]

Lifts "a ... mug" and "a ... chair" of ten seeds each, from views that the model draws and from sixteen true renders of
the held-out toy of that prompt.  A mug has a cavity if a plumb line through its mouth falls at least half as far as in
the true toy before it meets anything (generated: half as far as in a toy that is full of coffee, 0.09 of its height); a
chair has whole legs if it is cut in exactly four pieces at each of three heights between floor and seat.  The same is
measured of the true toys, which shows what the measure is worth.
Writes shapes.md and a sheet of the mugs from above and the chairs from below, failures included.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from lift_quality import KNOWN, true_cameras
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from toybox_subjects import BACKGROUND, SIZE

import viewfold as vf
from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, World, sample_asset
from viewfold.errors import ViewfoldError
from viewfold.evaluation.interval import share
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.lifting.stages import lift as lift_views
from viewfold.make import lift
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write
from viewfold.views import Views

FIRST_SEED = 94_000_000
"""Toys from here on are seen by nothing else."""

FULL = 0.18
"""Of a mug's height: how deep the cavity of a toy is that is full of coffee; an empty one has 0.9."""

HEIGHTS = (0.08, 0.15, 0.22)
"""Of a chair's height: where its legs are cut; the seat is at 0.35 to 0.5."""

CRUMB = 0.3
"""Of the median outline: one that is shorter is no leg."""


def cavity_depth(mesh: Mesh) -> float:
    """Return how far below its rim a mug is met from above, near the axis of its body, as a share of its height.

    The axis is the middle of the rim, which is all corners within a tenth of the height from the top; nine plumb lines
    fall within a third of the rim's radius, and their median counts.
    """
    corners = np.asarray(mesh.vertices)
    low, high = corners[:, 2].min(), corners[:, 2].max()
    rim = corners[corners[:, 2] > high - 0.1 * (high - low), :2]
    middle = (rim.min(0) + rim.max(0)) / 2
    radius = float(np.median(np.linalg.norm(rim - middle, axis=1)))
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    around = middle + 0.33 * radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    tops = [met_from_above(corners[np.asarray(mesh.faces)], point, floor=low) for point in [middle, *around]]
    return float((high - np.median(tops)) / (high - low))


def met_from_above(triangles: np.ndarray, point: np.ndarray, *, floor: float) -> float:
    """Return the height at which a plumb line over "x y" first meets any of "f 3 3" triangles."""
    a, b, c = (triangles[:, i, :2] - point for i in range(3))
    areas = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1)
    inside = ((areas >= 0).all(1) | (areas <= 0).all(1)) & (abs(areas.sum(1)) > 1e-12)
    if not inside.any():
        return floor
    shares = areas[inside] / areas[inside].sum(1, keepdims=True)
    return float((shares * triangles[inside, :, 2]).sum(1).max())


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def leg_counts(mesh: Mesh) -> list[int]:
    """Return how many outlines a chair is cut in at each of the heights; crumbs are not counted."""
    made = trimesh.Trimesh(np.asarray(mesh.vertices), np.asarray(mesh.faces), process=False)
    made.merge_vertices(merge_tex=True, merge_norm=True)
    low, high = made.bounds[:, 2]
    counts = []
    for height in HEIGHTS:
        cut = np.asarray(trimesh.intersections.mesh_plane(made, [0, 0, 1], [0, 0, low + height * (high - low)]))
        ends, which = np.unique(cut.reshape(-1, 3).round(6), axis=0, return_inverse=True)
        start, end = which.reshape(-1, 2).T
        graph = coo_matrix((np.ones(len(start)), (start, end)), shape=(len(ends), len(ends)))
        _, piece = connected_components(graph, directed=False)
        lengths = np.bincount(piece[start], np.linalg.norm(cut[:, 1] - cut[:, 0], axis=1))
        counts.append(int((lengths >= CRUMB * np.median(lengths)).sum()) if len(lengths) else 0)
    return counts


def toys(kind: str, count: int, world: World) -> list[Asset]:
    """Return held-out toys of one kind."""
    found, number = [], FIRST_SEED
    while len(found) < count:
        toy, number = sample_asset(number, held_out=True, world=world), number + 1
        if toy.kind == kind:
            found.append(toy)
    return found


def right(kind: str, mesh: Mesh, *, depth: float) -> tuple[bool, str]:
    """Return whether a shape is right, a mug that is half as deep as `depth`, and the figure."""
    if kind == "mug":
        found = cavity_depth(mesh)
        return found >= depth / 2, f"{found:.2f}"
    counts = leg_counts(mesh)
    return all(n == 4 for n in counts), ", ".join(map(str, counts))


def look(kind: str, mesh: Mesh) -> torch.Tensor:
    """Return four pictures of a mug from above, or of a chair from below."""
    cameras = Cameras.orbit(4, elevation_deg=50.0 if kind == "mug" else -20.0, azimuth_deg=20.0)
    return rasterize(mesh, cameras, size=SIZE).over(BACKGROUND)


def make(model: Any, toy: Asset, source: str, seed: int) -> Any:
    """Lift a toy's prompt, or its own renders."""
    if source == "generated":
        return lift(model, toy.captions[0], seed=seed)
    cameras = true_cameras(16)
    rgb = rasterize(toy.mesh(), cameras, size=SIZE).over(BACKGROUND)
    return lift_views(model, toy.captions[0], views=Views(rgb=rgb, cameras=cameras), settings=KNOWN)


def main() -> None:
    """Lift, cut, count and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", default=["mug", "chair"], choices=["mug", "chair"])
    parser.add_argument("--sources", nargs="+", default=["true", "generated"], choices=["true", "generated"])
    parser.add_argument("--out", type=Path, default=Path("out/shapes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model = vf.load("toybox", device="cpu")
    rows, entries = [], []
    for kind in options.kinds:
        subjects = toys(kind, options.seeds, World(finishes=("matt",)))
        truth = [right(kind, toy.mesh(), depth=FULL) for toy in subjects]
        rows.append(
            [kind, "the toys themselves", share([good for good, _ in truth]).percent(), "; ".join(f for _, f in truth)]
        )
        for source in options.sources:
            found: list[tuple[bool, str]] = []
            for seed, toy in enumerate(subjects):
                path, started = options.out / f"{kind}_{source}_{seed}.glb", time.process_time()
                try:
                    make(model, toy, source, seed).save(path, turntable=False)
                    mesh = load_mesh(path)
                    depth = cavity_depth(toy.mesh()) if source == "true" else FULL
                    found.append(right(kind, mesh, depth=depth))
                    entries.append(
                        Entry(rgb=look(kind, mesh), lines=((f"{source}, {seed}: {found[-1][1]}", found[-1][0]),))
                    )
                except ViewfoldError as error:
                    found.append((False, str(error)))
                spent = time.process_time() - started
                print(f"{toy.captions[0]}, {source}, seed {seed}: {found[-1]} {spent:.0f} CPU s", flush=True)
            rows.append([kind, source, share([good for good, _ in found]).percent(), "; ".join(f for _, f in found)])
    text = markdown_table(["kind", "views", "right", "figures"], rows)
    with atomic_write(options.out / "shapes.md") as temporary:
        temporary.write_text(text + "\n")
    captioned_sheet(entries, columns=4).save(options.out / "shapes.png")
    print(text)


if __name__ == "__main__":
    main()
