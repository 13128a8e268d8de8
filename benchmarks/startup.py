"""How long until the package and its help are there, the best of several fresh processes.

    python benchmarks/startup.py

Budgets: `import viewfold` 0.3 s, `viewfold --help` 0.5 s.  Beside them, what torch and diffusers take here.
"""

import subprocess
import sys
import time

TRIALS = 5

CASES = {
    "python -c pass": ["-c", "pass"],
    "import viewfold": ["-c", "import viewfold"],
    "viewfold --help": ["-m", "viewfold.cli", "--help"],
    "viewfold lift --help": ["-m", "viewfold.cli", "lift", "--help"],
    "import torch": ["-c", "import torch"],
    "import diffusers": ["-c", "import diffusers"],
    "viewfold.pipeline": ["-c", "import viewfold.pipeline"],
}


def best_seconds(arguments: list[str], *, trials: int) -> float:
    """Return the shortest wall-clock time of a fresh interpreter with these arguments."""
    times = []
    for _ in range(trials):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a line per case."""
    for name, arguments in CASES.items():
        print(f"{name:<22}{best_seconds(arguments, trials=TRIALS):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
