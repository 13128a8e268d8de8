"""Views a CPU-second of each engine, drawing alone and as whole runs of `viewfold render`, and how alike they are.

    python benchmarks/rendering.py [--assets FOLDER] [--count 40] [--sizes 128 256] [--blender PYTHON] [--samples 16]

Without --assets it makes toys.  One thread each, all in one run, so that ratios mean something on a busy machine; CPU
seconds are those of all processes, Blender's included.  Whole runs start with Python's imports, which are shown apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}
VIEWS = 8


def main() -> None:
    """Print a table of views a CPU-second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, help="a folder of GLB, OBJ or PLY files instead of toys")
    parser.add_argument("--count", type=int, default=40, help="assets; Blender draws a tenth of them")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--blender", help="a Python that has bpy, or Blender")
    parser.add_argument("--samples", type=int, default=16, help="paths per pixel of Blender")
    parser.add_argument("--runs", type=int, default=3, help="the median counts; Blender has one")
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        assets = drawable(prepare(given.assets, given.count, Path(folder) / "assets"))
        print(
            f"{len(assets)} assets of {VIEWS} views; {start_up(Path(folder)):.1f} CPU-s to start (not in the figures)"
        )
        print("| px | engine | drawing | | whole run | | --webp fast | | PSNR |\n|---|---|---|---|---|---|---|---|---|")
        for size in given.sizes:
            compare(assets, size, Path(folder), given)


def prepare(source: Path | None, count: int, folder: Path) -> list[Path]:
    """Copy some assets with what lies beside them, or make toys."""
    from viewfold.data.assets import write_assets
    from viewfold.data.source import find_assets

    if source is None:
        write_assets(folder, count=count)
    else:
        shutil.copytree(source, folder)
        for path in find_assets(folder)[count:]:
            path.unlink()
    return find_assets(folder)


def drawable(assets: Sequence[Path]) -> list[Path]:
    """Return the assets that every engine draws; those with something translucent, which moderngl refuses, go."""
    from viewfold.data.engines import RenderSettings, Subject, open_engine
    from viewfold.errors import AssetError

    settings = RenderSettings(size=16, engine="moderngl")
    engine, found = open_engine(settings), []
    for path in assets:
        try:
            subject = Subject.of(path)
            engine.draw(subject, settings.cameras(subject.uid), settings)
            found.append(path)
        except AssetError as error:
            print(f"left out: {error}")
    engine.close()
    return found


def compare(assets: Sequence[Path], size: int, folder: Path, given: argparse.Namespace) -> None:
    """Print the rows of one size."""
    from viewfold.data.engines import Cycles, RenderSettings

    ours = RenderSettings(size=size)
    rows = [("builtin", ours, assets, given.runs)]
    rows.append(("moderngl", dataclasses.replace(ours, engine="moderngl"), assets, given.runs))
    if given.blender:
        cycles = Cycles(samples=given.samples)
        few = assets[: max(1, len(assets) // 10)]
        for name, some in (("blender", cycles), ("blender, noisy", dataclasses.replace(cycles, denoise=False))):
            rows.append((name, dataclasses.replace(ours, engine="blender", cycles=some), few, 1))
    first: list[float] = []
    for name, settings, some, runs in rows:
        drawn = statistics.median(draw_alone(some, settings, given.blender) for _ in range(runs))
        whole = [
            statistics.median(run_whole(some, settings, folder, given.blender, webp) for _ in range(runs))
            for webp in ("small", "fast")
        ]
        speeds = [drawn, *whole]
        first = first or speeds
        cells = [f"{speed:.1f} | {speed / least:.2f}x" for speed, least in zip(speeds, first, strict=True)]
        print(
            f"| {size} | {name} | {' | '.join(cells)} | {likeness(some, settings, ours, given.blender)} |", flush=True
        )


def draw_alone(assets: Sequence[Path], settings: object, blender: str | None) -> float:
    """Return the views a CPU-second of an engine that is running, on meshes that have been read."""
    import torch

    from viewfold.data.engines import RenderSettings, Subject, open_engine

    assert isinstance(settings, RenderSettings)
    torch.set_num_threads(1)
    subjects = [Subject.of(path) for path in assets]
    engine = open_engine(settings, blender=blender, threads=1)
    engine.draw(subjects[0], settings.cameras(subjects[0].uid), settings)
    before = cpu_seconds()
    for subject in subjects:
        engine.draw(subject, settings.cameras(subject.uid), settings)
    spent = cpu_seconds() - before
    engine.close()
    return len(assets) * VIEWS / spent


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that live (Linux)."""
    spent, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / ticks
    return spent


def run_whole(assets: Sequence[Path], settings: Any, folder: Path, blender: str | None, webp: str) -> float:
    """Return the views a CPU-second of a whole run, less what it takes to start."""
    some, out = folder / "some", folder / "out"
    for place in (some, out):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "assets", some)
    for path in list(some.rglob("*")):
        if path.stem not in {asset.stem for asset in assets} and path.suffix.lower() in (".glb", ".obj", ".ply"):
            path.unlink()
    command = [
        str(some),
        "--caption-from-name",
        "--out",
        str(out),
        "--size",
        str(settings.size),
        "--engine",
        settings.engine,
    ]
    cycles = settings.cycles
    if cycles is not None:
        command += ["--samples", str(cycles.samples), "--blender", str(blender)]
        command += [] if cycles.denoise else ["--no-denoise"]
    spent = cpu_of_run([*command, "--webp", webp])
    n_done = len(list(out.glob("*/meta.json")))
    return n_done * VIEWS / max(spent - start_up(folder), 1e-3)


def start_up(folder: Path, seen: dict[str, float] = {}) -> float:  # noqa: B006
    """Return the CPU seconds that a run takes which finds nothing to read: imports and the command line."""
    if not seen:
        empty = folder / "broken"
        empty.mkdir()
        (empty / "broken.glb").write_bytes(b"glTF" + bytes(40))
        times = [
            cpu_of_run([str(empty), "--caption-from-name", "--out", str(folder / "none")], check=False)
            for _ in range(3)
        ]
        seen["s"] = statistics.median(times)
    return seen["s"]


def cpu_of_run(arguments: Sequence[str], *, check: bool = True) -> float:
    """Run `viewfold render` and return its CPU seconds, those of its processes included."""
    command = [sys.executable, "-m", "viewfold.cli", "render", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if check and process.returncode not in (0, 3):  # 3: some assets could not be used
        sys.exit(f"`{' '.join(command)}` failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def likeness(assets: Sequence[Path], settings: object, ours: object, blender: str | None) -> str:
    """Return the PSNR over grey of an engine's pictures against the built-in ones, the mean and the least of assets."""
    import math

    from viewfold.data.engines import RenderSettings, Subject, open_engine

    assert isinstance(settings, RenderSettings) and isinstance(ours, RenderSettings)
    if settings.engine == "builtin":
        return "-"
    engine, reference, found = open_engine(settings, blender=blender, threads=1), open_engine(ours), []
    for path in assets[:10]:
        subject = Subject.of(path)
        pair = [e.draw(subject, ours.cameras(subject.uid), s).rgba for e, s in ((engine, settings), (reference, ours))]
        one, two = (rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:]) for rgba in pair)
        found.append(-10 * math.log10(float((one - two).square().mean()) + 1e-12))
    engine.close()
    return f"{statistics.mean(found):.0f} ({min(found):.0f})"


if __name__ == "__main__":
    main()
