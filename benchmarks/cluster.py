"""What a second worker of a Ray cluster is worth: the same assets rendered with one and with two processors.

    python benchmarks/cluster.py [--count 60] [--size 128] [--rounds 2]

Each run starts a head of its own on this machine, joins it, and is timed from the first asset that is handed out to the
last picture; the start of Ray and of its workers is shown apart.  Twice the speed is an efficiency of 100 %.  Needs
`pip install 'viewfold[cluster]'`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from viewfold.evaluation.report import markdown_table


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    from viewfold.data.assets import write_assets

    with tempfile.TemporaryDirectory() as folder:
        write_assets(Path(folder) / "assets", count=options.count)
        found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for number in range(options.rounds):
            for processors, times in found.items():
                times.append(run(Path(folder), processors, options.size, f"{number}-{processors}"))
    start, work = ({n: statistics.median(t[k] for t in times) for n, times in found.items()} for k in (0, 1))
    rows = [
        [str(n), f"{start[n]:.1f}", f"{work[n]:.1f}", f"{options.count / work[n]:.2f}", f"{work[1] / work[n] / n:.0%}"]
        for n in found
    ]
    print(markdown_table(["processors", "start, s", "work, s", "assets/s", "efficiency"], rows))


def run(folder: Path, processors: int, size: int, name: str) -> tuple[float, float]:
    """Return the seconds that the cluster took to start, and those that the work took."""
    from viewfold.cluster import Cluster
    from viewfold.data.render import RenderSettings, render_assets

    def ray(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *arguments], check=True, capture_output=True)

    began = time.perf_counter()
    ray(
        "start",
        "--head",
        f"--num-cpus={processors}",
        "--include-dashboard=false",
        "--port=6399",
        "--node-ip-address=127.0.0.1",
    )
    try:
        with Cluster("127.0.0.1:6399", shared=folder / name) as pool:
            warm = [pool.submit(time.sleep, 1.0) for _ in range(processors)]
            for each in warm:
                each.result()
            ready = time.perf_counter()
            report = render_assets(folder / "assets", folder / name, settings=RenderSettings(size=size), pool=pool)
            done = time.perf_counter()
    finally:
        ray("stop", "--force")
    assert not report.failed, report.failed
    return ready - began, done - ready


if __name__ == "__main__":
    main()
