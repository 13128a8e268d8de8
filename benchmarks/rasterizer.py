"""Views a CPU-second of our rasteriser against moderngl's, with and without depth and normals.

    python benchmarks/rasterizer.py [--assets FOLDER] [--count 40] [--sizes 128 256] [--runs 3]

Nothing but drawing counts: meshes are in memory, nothing is written (whole runs are in `rendering.py`).  One thread
each, the two in turn in one process, so that their ratio means something on a busy machine.  Without --assets it makes
toys.  moderngl refuses what is translucent; such assets are left out for both, and counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rendering import ENVIRONMENT, VIEWS, prepare

if TYPE_CHECKING:
    from viewfold.data.engines import Engine, RenderSettings, Subject


def main() -> None:
    """Print a table of views a CPU-second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, help="a folder of GLB, OBJ or PLY files instead of toys")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--runs", type=int, default=3, help="the median counts")
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    import torch

    from viewfold.data.engines import RenderSettings, Subject
    from viewfold.errors import MissingExtraError

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        subjects = [Subject.of(path) for path in prepare(given.assets, given.count, Path(folder) / "assets")]
    try:
        drawable = [subject for subject in subjects if is_drawn_by_both(subject)]
    except MissingExtraError as error:
        print(f"Ours alone: {error}")
        drawable = None
    kept = subjects if drawable is None else drawable
    print(f"{len(kept)} assets of {VIEWS} views; {len(subjects) - len(kept)} left out")
    print("| px | depth and normals | builtin | moderngl | builtin / moderngl |\n|---|---|---|---|---|")
    for size in given.sizes:
        for more in (True, False):
            settings = RenderSettings(size=size, depth=more, normals=more)
            ours, theirs = compare(kept, settings, given.runs, alone=drawable is None)
            ratio = "-" if theirs is None else f"{ours / theirs:.2f}"
            other = "-" if theirs is None else f"{theirs:.1f}"
            print(f"| {size} | {'yes' if more else 'no'} | {ours:.1f} | {other} | {ratio} |", flush=True)


def is_drawn_by_both(subject: Subject) -> bool:
    """Tell whether moderngl draws an asset.

    Raises:
        MissingExtraError: it is not installed.
    """
    from viewfold.data.engines import RenderSettings, open_engine
    from viewfold.errors import AssetError

    settings = RenderSettings(size=8, engine="moderngl")
    engine = open_engine(settings, threads=1)
    try:
        engine.draw(subject, settings.cameras(subject.uid), settings)
    except AssetError:
        return False
    finally:
        engine.close()
    return True


def compare(
    subjects: Sequence[Subject], settings: RenderSettings, runs: int, *, alone: bool
) -> tuple[float, float | None]:
    """Return the views a CPU-second of both, the median of some runs in turn; `alone` leaves moderngl out."""
    from viewfold.data.engines import open_engine

    both = [settings] if alone else [settings, replace(settings, engine="moderngl")]
    engines = [open_engine(each, threads=1) for each in both]
    found: list[list[float]] = [[] for _ in engines]
    for _ in range(runs):
        for engine, each, speeds in zip(engines, both, found, strict=True):
            speeds.append(draw_all(engine, subjects, each))
    for engine in engines:
        engine.close()
    medians = [statistics.median(speeds) for speeds in found]
    return medians[0], None if alone else medians[1]


def draw_all(engine: Engine, subjects: Sequence[Subject], settings: RenderSettings) -> float:
    """Return the views a CPU-second of one engine."""
    cameras = [settings.cameras(subject.uid) for subject in subjects]
    engine.draw(subjects[0], cameras[0], settings)
    before = time.process_time()
    for subject, some in zip(subjects, cameras, strict=True):
        engine.draw(subject, some, settings)
    return len(subjects) * VIEWS / (time.process_time() - before)


if __name__ == "__main__":
    main()
