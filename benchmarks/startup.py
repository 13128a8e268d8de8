"""How long until the package, its help and its first pictures are there; the best of several fresh processes.

    python benchmarks/startup.py [--trials 5]

Budgets: `import viewfold` 0.3 s, `viewfold --help` 0.5 s.  Beside them, what torch and diffusers take here, and what
`viewfold generate` takes with the garbage collector resting while libraries load (cli/start.py) and without.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

GENERATE = "import sys; from viewfold.cli import command; sys.argv[1:] = ['generate', 'a red mug', '--out', {0!r}]; {1}"
RUN = "command.main()"
COLLECTING = (
    "import contextlib; from viewfold.cli import progress; progress.collect_again = lambda: None; "
    "command.resting_collector = lambda **_: contextlib.nullcontext(); " + RUN
)


def cases(out: str) -> dict[str, list[str]]:
    """Return the arguments of the interpreter for each row."""
    return {
        "python -c pass": ["-c", "pass"],
        "import viewfold": ["-c", "import viewfold"],
        "viewfold --help": ["-m", "viewfold.cli", "--help"],
        "viewfold lift --help": ["-m", "viewfold.cli", "lift", "--help"],
        "import torch": ["-c", "import torch"],
        "import torch._dynamo": ["-c", "import torch._dynamo"],
        "diffusers: UNet, VAE": ["-c", "from diffusers import UNet2DConditionModel, AutoencoderKL"],
        "viewfold.pipeline": ["-c", "import viewfold.pipeline"],
        "viewfold generate": ["-c", GENERATE.format(out, RUN)],
        "  collector at work": ["-c", GENERATE.format(out, COLLECTING)],
    }


def best_seconds(arguments: list[str], *, trials: int) -> tuple[float, float]:
    """Return the shortest wall-clock time and CPU time of a fresh interpreter with these arguments."""
    wall, cpu = [], []
    for _ in range(trials):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - started)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(wall), min(cpu)


def main() -> None:
    """Print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in cases(os.path.join(folder, "mug")).items():
            wall, cpu = best_seconds(arguments, trials=trials)
            print(f"{name:<22}{wall:6.2f} s  {cpu:6.2f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
