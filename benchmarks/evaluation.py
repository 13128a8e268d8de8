"""What `viewfold evaluate` costs: time a set, memory for many sets, and what two workers buy.

    python benchmarks/evaluation.py [--sets 40] [--many 1000] [--ray]

Sets of four views of 256 px, true renders of toys.  Times are of the whole command, in a process of its own, workers'
starts included, on a machine that does nothing else; the peak is that of the process that measures, of 64 px.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from viewfold.camera import Cameras
from viewfold.data.toybox import sample_asset
from viewfold.evaluation.report import markdown_table
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)
FIRST_SEED = 91_000_000


def make(folder: Path, *, sets: int, size: int, distinct: int = 8) -> None:
    """Write `sets` folders of views; beyond `distinct` toys they are copies."""
    for index in range(min(sets, distinct)):
        rgb = rasterize(sample_asset(FIRST_SEED + index).mesh(), CAMERAS, size=size).over(0.5)
        Views(rgb=rgb, cameras=CAMERAS, prompt=f"toy {index}").save(folder / f"{index:05d}", turntable=False)
    for index in range(distinct, sets):
        shutil.copytree(folder / f"{index % distinct:05d}", folder / f"{index:05d}")


def run(folder: Path, *words: str) -> tuple[float, str]:
    """Return the seconds that the command took, and what it printed."""
    command = [sys.executable, "-m", "viewfold.cli", "evaluate", str(folder), "--json", *words]
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return time.perf_counter() - start, done.stdout


def peak_mib(folder: Path) -> float:
    """Return the peak memory of the command, MiB."""
    code = (
        "import resource, sys; from viewfold.cli import main; main(['evaluate', sys.argv[1], '--json']); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stderr.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--many", type=int, default=1000, help="for the memory; 0 leaves it out")
    parser.add_argument("--ray", action="store_true", help="also on a Ray cluster of this machine")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        few = Path(temporary) / "few"
        make(few, sets=options.sets, size=256)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        alone, said = run(few)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        rows.append(["one process", f"{alone:.1f} s", "1", f"{spent / options.sets:.2f} CPU s a set, start included"])
        for name, words in [("two processes", ("--workers", "2"))] + [("Ray", ("--cluster", "auto"))] * options.ray:
            took, answer = run(few, *words)
            assert answer == said, "other workers, other figures"
            rows.append([name, f"{took:.1f} s", f"{alone / took:.2f}", "the same figures in the same order"])
        print(markdown_table([f"{options.sets} sets of 4 views of 256 px", "time", "as fast", ""], rows))
        if options.many:
            peaks = {}
            for count in (options.many // 10, options.many):
                folder = Path(temporary) / f"many-{count}"
                make(folder, sets=count, size=64)
                peaks[count] = peak_mib(folder)
            print("peak: " + ", ".join(f"{count} sets {peak:.0f} MiB" for count, peak in peaks.items()))


if __name__ == "__main__":
    main()
