"""Training of the shipped network: objects a second, on one process and on two, beside a bare PyTorch loop.

    python benchmarks/training.py --objects runs/toybox/objects [--against OTHER_CHECKOUT/src] [--rounds 3]

Each figure is that of a whole `viewfold train` (float32 weights, bfloat16 compute, Muon), read off its log.jsonl after
the first steps; the bare loop is the same network, batch and optimiser with nothing around them: no averages, no log,
no checkpoints.  The ways take turns, and ratios are those of a round: a machine that slows down slows all of them.
`--against` adds the same command with another source tree: before and after in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from viewfold.evaluation.report import markdown_table

SKIP = 3
"""First steps that are not counted: they allocate, and the first one counts operations."""


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="shards with latents of --model")
    parser.add_argument("--model", default="toybox")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="src/ of another checkout, which takes turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"bare PyTorch loop": lambda: bare(options), "one process": lambda: trained(options, 1),
            "two processes": lambda: trained(options, 2)}  # fmt: skip
    if options.against:
        ways["one process, the other source"] = lambda: trained(options, 1, source=options.against)
        ways["two processes, the other source"] = lambda: trained(options, 2, source=options.against)
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, measure in ways.items():
            figures[name].append(measure())
            print(f"round {number + 1}: {name}: {figures[name][-1]:.1f} objects/s", file=sys.stderr)
    one = figures["one process"]
    rows = []
    for name, values in figures.items():
        ratios = [value / base for value, base in zip(values, one, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, f"{statistics.median(values):.1f}", spread])
    print(markdown_table(["", "objects/s, median", "of one process"], rows))


def trained(options: argparse.Namespace, processes: int, *, source: Path | None = None) -> float:
    """Return the objects a second of a whole command on so many processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = {"model": options.model, "steps": options.steps, "batch": options.batch, "device": "cpu", "out": out}
        flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, *launcher, "-m", "viewfold.cli", "train", str(options.objects), *flags]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    spent = lines[-1]["seconds"] - lines[SKIP - 1]["seconds"]
    return processes * options.batch * (len(lines) - SKIP) / spent


def bare(options: argparse.Namespace) -> float:
    """Return the objects a second of forward, backward and a step of the optimiser, and nothing else."""
    from viewfold.data.batches import LatentSet
    from viewfold.pipeline import load
    from viewfold.training.objective import ObjectiveSettings, diffusion_loss
    from viewfold.training.optimizer import Optimizer

    model = load(options.model, device="cpu", dtype=torch.float32)
    unet, latents = model.unet.requires_grad_(True).train(), LatentSet(options.objects)
    optimizer = Optimizer(unet, "muon", beta2=0.99, weight_decay=0.01)
    settings = ObjectiveSettings(prediction=model.scheduler.config["prediction_type"])
    generator = torch.Generator().manual_seed(0)
    batch = latents.draw(options.batch, generator, views=4)
    condition = model.condition(batch.captions)
    started = time.perf_counter()
    for step in range(options.steps):
        if step == SKIP:
            started = time.perf_counter()
        unet.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = diffusion_loss(
                unet, batch.latents, condition, batch.cameras, alphas_cumprod=model.alphas_cumprod, settings=settings,
                generator=generator,
            )  # fmt: skip
        loss.backward()
        optimizer.step(1e-5)
    return options.batch * (options.steps - SKIP) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
