"""How long the two verbs take from the shell to files, and how much memory: whole processes, imports included.

    python benchmarks/speed.py [--runs 3]

Budgets on two cores without a GPU: generate 12 s; lift 10 s as a draft, 45 s as it is, 120 s at the highest quality,
and 2 GiB each, whatever the number of views.  `lift --mesh` textures the mug that the row before it made.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "a red mug"
BUDGETS: dict[tuple[str, ...], tuple[float, float | None]] = {
    ("generate",): (12.0, None),
    ("lift", "--quality", "draft"): (10.0, 2048.0),
    ("lift", "--views", "4"): (45.0, 2048.0),
    ("lift",): (45.0, 2048.0),
    ("lift", "--quality", "high"): (120.0, 2048.0),
    ("lift", "--mesh"): (45.0, 2048.0),
}


def run_verb(verb: tuple[str, ...], out: Path) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak memory (MiB) of one fresh `viewfold VERB`."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "viewfold.cli", verb[0], PROMPT, *verb[1:], "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"viewfold {' '.join(verb)} failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Run each verb a few times and print medians beside the budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(f"{os.cpu_count()} cores; median of {runs}; budget in brackets\n")
    print("| command | wall s | CPU s | peak MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for verb, (seconds, memory) in BUDGETS.items():
            mesh, out = Path(folder) / "mug.glb", Path(folder) / ("new.glb" if "--mesh" in verb else "mug.glb")
            out = out if verb[0] == "lift" else Path(folder) / "mug"
            call = (*verb, str(mesh)) if "--mesh" in verb else verb
            wall, cpu, peak = (
                statistics.median(column) for column in zip(*(run_verb(call, out) for _ in range(runs)), strict=True)
            )
            limit = f" ({memory:.0f})" if memory else ""
            name = " ".join([verb[0], f'"{PROMPT}"', *verb[1:]])
            print(f"| `viewfold {name}` | {wall:.1f} ({seconds:.0f}) | {cpu:.1f} | {peak:.0f}{limit} |")


if __name__ == "__main__":
    main()
