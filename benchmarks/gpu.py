"""Everything that only a GPU can tell, in one run: tests, speeds of the released size, and the shipped model trained.

    benchmarks/gpu.sh                              all of it, under 8 minutes on one H100
    benchmarks/gpu.sh --minutes 20                 with so many minutes of training
    benchmarks/gpu.sh --stages generate step       some of it
    benchmarks/gpu.sh --tiny                       the same on tiny networks, on a CPU too, in about a minute
    benchmarks/gpu.sh --rows out/gpu/rows.jsonl    print the table of a run again
    benchmarks/gpu.sh --pack                       fill the folders of wheels and data (`gpu_pack.py`)

Each stage is a process of its own with a limit of its own (`gpu_stage.py`); each figure is a line of OUT/rows.jsonl as
soon as it is measured.  So a run that is cut off leaves what it has, and a stage that fails stops no other; the exit
code is 1 if anything failed, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_row import Rows, facts, read, table

HERE = Path(__file__).resolve().parent
LIMITS_S = {"tests": 80, "generate": 150, "step": 80, "personalize": 40, "distillation": 45, "train": 360}
"""Seconds after which a stage is ended; on an H100 each should need about half."""
BUDGET_S = 465
"""Seconds for all stages; training takes what the others leave of it."""
AROUND_TRAINING_S = 120
"""Beyond the minutes of training that were asked for: imports, data, held-out errors, shards."""
GRACE_S = 10
"""Between asking a stage to end and ending it."""


class Stopped(Exception):  # noqa: N818 - no error
    """Somebody asked for the end."""


def stop(number: int, frame: Any) -> None:
    """Raise, so that the stage that runs is ended and the table printed."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


def run_stage(stage: str, told: dict[str, Any], rows: Rows, limit_s: float) -> bool:
    """Run a stage in a process group of its own; return whether all of it worked."""
    print(f"== {stage}, at most {limit_s:.0f} s", flush=True)
    before, started = len(read(rows.path)), time.perf_counter()
    command = [sys.executable, str(HERE / "gpu_stage.py"), stage, json.dumps({**told, "limit_s": limit_s})]
    process = subprocess.Popen(command, start_new_session=True)
    error = ""
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        code, error = 1, f"ended at its limit of {limit_s:.0f} s"
    finally:
        end(process)
    failed = any(not row["ok"] for row in read(rows.path)[before:])
    if not error and code and not failed:
        error = f"ended with code {code} before it could say why; see its output"
    if error:
        rows.write(stage, "the stage", seconds=time.perf_counter() - started, figures={}, error=error)
    return not code


def end(process: subprocess.Popen[bytes]) -> None:
    """End a stage and all that it started, first politely."""
    for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)


def limit_of(stage: str, options: argparse.Namespace, spent_s: float) -> float:
    """Return how long a stage may take when so much of the budget is spent."""
    if options.limit:
        return options.limit
    if options.device == "cpu" and not options.tiny:
        return 3600.0
    if stage == "train":
        asked = options.minutes
        return 60 * asked + AROUND_TRAINING_S if asked else max(BUDGET_S - spent_s, 90.0)
    return float(LIMITS_S[stage])


def run(options: argparse.Namespace) -> int:
    """Run the stages one after the other and return the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.jsonl", facts(options.device, tiny=options.tiny, data=options.data))
    rows.path.unlink(missing_ok=True)
    started, code = time.perf_counter(), 0
    signal.signal(signal.SIGTERM, stop)
    try:
        with tempfile.TemporaryDirectory() as work:
            data, model = options.data.resolve(), options.model
            if options.tiny:
                data, model = make_tiny(Path(work))
            told = {"out": str(options.out.resolve()), "data": str(data), "model": model, "facts": rows.facts,
                    "device": options.device, "tiny": options.tiny, "minutes": options.minutes,
                    "most": 2 if options.tiny else options.most, "repeats": options.repeats}  # fmt: skip
            for stage in options.stages:
                limit_s = limit_of(stage, options, time.perf_counter() - started)
                if not run_stage(stage, {**told, "work": f"{work}/{stage}"}, rows, limit_s):
                    code = 1
    except (Stopped, KeyboardInterrupt):
        print("stopped: what was measured so far is kept", flush=True)
        code = 143
    print(f"\n{table(read(rows.path))}\n\n{rows.path}, {time.perf_counter() - started:.0f} s in all", flush=True)
    return code


def make_tiny(work: Path) -> tuple[Path, str]:
    """Write a tiny model and tiny shards; return their folders."""
    sys.path.append(str(HERE.parent / "tests"))
    from fakes import tiny_model  # pyright: ignore[reportMissingImports]
    from tiny_shards import write_shards  # pyright: ignore[reportMissingImports]

    from viewfold.model.weights_hash import hash_tensors

    model = tiny_model(work / "model")
    encoder = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
    for name in ("objects", "held-out"):
        write_shards(work / "data" / name, encoder=encoder)
    return work / "data", str(work / "model")


def main(arguments: list[str] | None = None) -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    minutes = os.environ.get("MINUTES")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "out/gpu"))
    parser.add_argument("--stages", nargs="+", choices=list(LIMITS_S), default=list(LIMITS_S))
    parser.add_argument("--minutes", type=float, default=float(minutes) if minutes else None, help="of training")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="shards that gpu_pack.py wrote")
    parser.add_argument("--model", default="toybox", help="the model to train further")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--most", type=int, default=256, help="objects of the largest batch to try")
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats after the first; 0 times the first")
    parser.add_argument("--limit", type=float, help="seconds a stage, instead of its own limit")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=Path, help="print the table of these rows and end")
    options = parser.parse_args(arguments)
    if options.rows:
        print(table(read(options.rows)))
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
