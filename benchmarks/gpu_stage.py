"""One stage of `gpu.py`, in a process of its own: python benchmarks/gpu_stage.py STAGE '{"out": ..., "device": ...}'

    tests          tests/test_device_real.py on the device
    generate       four views with guidance: float32, bfloat16, compiled
    step           a training step, the batch doubled until the memory is full; then with gradient checkpointing
    personalize    a step of learning a subject by a LoRA
    distillation   render, encode, network, backward
    train          the shipped model for some minutes: held-out error before and after, weights in shards

Networks are of the released size (SD 2.1, 867.57 M parameters in the UNet) with random weights; with `tiny` they are
those of tests/fakes.py, so that all of this runs on a CPU in seconds.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_row import ROOT, Rows

PROMPT, GUIDANCE = "a red mug", 7.5


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `gpu.py` tells a stage."""

    out: Path
    work: Path
    data: Path
    model: str
    device: str
    tiny: bool
    minutes: float | None
    limit_s: float
    most: int
    repeats: int
    rows: Rows
    started: float

    @property
    def left_s(self) -> float:
        """Seconds until the stage is ended."""
        return self.limit_s - (time.perf_counter() - self.started)

    def sync(self) -> None:
        """Wait for the device."""
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def clean(self) -> None:
        """Give the device's memory back and forget its peak."""
        import torch

        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return the wall seconds of a call, the device's work included."""
        self.sync()
        started = time.perf_counter()
        call()
        self.sync()
        return time.perf_counter() - started

    def networks(self) -> dict[str, Any]:
        """Return the networks, the tokenizer and the scheduler, made on the device in float32."""
        import torch

        if self.tiny:
            import fakes  # pyright: ignore[reportMissingImports]

            made = fakes.tiny_model().components
            return {n: part.to(self.device) if isinstance(part, torch.nn.Module) else part for n, part in made.items()}
        from full_size import make_networks, make_tokenizer

        from viewfold.model.presets import toybox_scheduler

        with torch.device(self.device):
            made = make_networks()
        return {**made, "tokenizer": make_tokenizer(), "scheduler": toybox_scheduler()}

    def unet(self) -> Any:
        """Return the network alone."""
        import torch

        if self.tiny:
            import fakes  # pyright: ignore[reportMissingImports]

            return fakes.tiny_unet().to(self.device)
        from viewfold.model.presets import MVDREAM_SD21

        with torch.device(self.device):
            return MVDREAM_SD21.build()

    def pipeline(self) -> Any:
        """Return a whole frozen model."""
        from viewfold.pipeline import MultiViewPipeline

        parts = self.networks()
        for name in ("unet", "vae", "text_encoder"):
            parts[name].eval().requires_grad_(False)
        return MultiViewPipeline(**parts)

    def half_precision(self) -> tuple[tuple[str, Any], ...]:
        """Return the types to measure, float32 first."""
        import torch

        return ("float32", torch.float32), ("bfloat16", torch.bfloat16)


def convert(model: Any, dtype: Any) -> None:
    """Bring a model's networks to a type."""
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of layers to keep in float32, of which there are none
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(dtype)


def run_tests(bench: Bench) -> None:
    """Run the tests that need the device, a row each."""
    report = bench.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "--tb=short",
               f"--junitxml={report}", "tests/test_device_real.py",
               *(["-k", "generate"] if bench.tiny else [])]  # fmt: skip
    environment = {**os.environ, "VIEWFOLD_TEST_DEVICE": bench.device, "HF_HUB_OFFLINE": "1"}
    with bench.rows.case("tests", "the whole file") as figures:
        done = subprocess.run(command, cwd=ROOT, env=environment)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
        for test in cases:
            wrong = [child for child in test if child.tag in ("failure", "error")]
            left_out = [str(child.get("message")) for child in test if child.tag == "skipped"]
            reason = " ".join(str(wrong[0].get("message")).split())[:300] if wrong else ""
            bench.rows.write("tests", str(test.get("name")), seconds=float(test.get("time", 0)), error=reason,
                             figures={"skipped": left_out[0]} if left_out else {})  # fmt: skip
        figures["tests"] = len(cases)
        if done.returncode:
            raise RuntimeError(f"pytest ended with {done.returncode}; see its output")


def run_generate(bench: Bench) -> None:
    """Time guided sampling: float32, bfloat16, compiled."""
    import torch

    model, flops = None, 0
    for name, dtype in (*bench.half_precision(), ("bfloat16, compiled", torch.bfloat16)):
        bench.clean()
        with bench.rows.case("generate", name) as figures:
            if model is None:
                model = bench.pipeline()
                model.set_progress_bar_config(disable=True)
            convert(model, dtype)
            if "compiled" in name:
                model.unet.compile(dynamic=False, backend="eager" if bench.tiny else "inductor")
            figures["first_step_s"] = bench.seconds(functools.partial(sample, model, steps=1))
            flops = flops or count_flops(functools.partial(sample, model, steps=1))
            figures |= time_sampling(bench, model, dtype, flops)


def sample(model: Any, *, steps: int) -> Any:
    """Return latents of four views after so many steps with guidance."""
    from viewfold.camera import Cameras

    latents = model(PROMPT, Cameras.orbit(4), steps=steps, guidance=GUIDANCE, output_type="latent")
    if not bool(latents.isfinite().all()):
        raise ArithmeticError("the latents are not finite")
    return latents


def count_flops(call: Callable[[], Any]) -> int:
    """Return the operations of a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def time_sampling(bench: Bench, model: Any, dtype: Any, flops: int) -> dict[str, Any]:
    """Return what a step with guidance costs, and the decoding of four views."""
    from viewfold.device import matmul_flops, peak_memory_mib

    steps = 2 if bench.tiny else 10
    latents = sample(model, steps=2)[0]
    step_s = bench.seconds(functools.partial(sample, model, steps=steps)) / steps
    model.decode(latents)
    return {
        "guided_step_s": step_s,
        "decode_4_views_s": bench.seconds(functools.partial(model.decode, latents)),
        "tflop_a_step": flops / 1e12,
        "utilisation": flops / step_s / matmul_flops(bench.device, dtype),
        "peak_mib": peak_memory_mib(bench.device),
    }


def run_distillation(bench: Bench) -> None:
    """Time the parts of a step of distillation at the model's picture size: four views, guidance, a 96^3 grid."""
    from viewfold.device import peak_memory_mib

    model = None
    for name, dtype in bench.half_precision():
        bench.clean()
        with bench.rows.case("distillation", name) as figures:
            model = model or bench.pipeline()
            convert(model, dtype)
            step = DistillationStep(model, bench)
            spent: dict[str, list[float]] = {}
            for repeat in range(1 + bench.repeats):
                for part in (step.render, step.encode, step.network, step.backward):
                    seconds = bench.seconds(part)
                    if repeat or not bench.repeats:  # the first one allocates
                        spent.setdefault(f"{part.__name__}_s", []).append(seconds)
            figures |= {part: statistics.median(seconds) for part, seconds in spent.items()}
            figures["step_s"] = sum(figures.values())
            figures["peak_mib"] = peak_memory_mib(bench.device)


class DistillationStep:
    """One step, its parts apart, as `viewfold.lifting.distillation` puts them together."""

    def __init__(self, model: Any, bench: Bench) -> None:
        import torch

        from viewfold.camera import Cameras
        from viewfold.scene.grid import GridField

        self.model = model
        self.drawn = GridField(resolution=24 if bench.tiny else 96).to(bench.device)
        self.cameras = Cameras.orbit(4, elevation_deg=15).to(bench.device)
        self.drawn.refresh()
        self.generator = torch.Generator().manual_seed(0)
        self.condition = model.condition([PROMPT, ""])
        self.level = torch.tensor([500], device=bench.device)
        self.pictures = self.latents = self.loss = torch.empty(0)

    def render(self) -> None:
        """Draw four views of the grid at the model's size."""
        self.pictures = self.drawn.render(self.cameras, size=self.model.image_size, generator=self.generator).over(0.5)

    def encode(self) -> None:
        """Bring the pictures to latents."""
        self.latents = self.model.encode(self.pictures)[None]

    def network(self) -> None:
        """Ask the network, with and without the prompt."""
        import torch

        from viewfold.lifting.score import reconstruction_loss

        noise = torch.randn(self.latents.shape, generator=self.generator).to(self.latents)
        self.loss = reconstruction_loss(self.latents, prior=self.model, condition=self.condition,
                                        cameras=self.cameras, t=self.level, noise=noise)  # fmt: skip

    def backward(self) -> None:
        """Bring the gradient through autoencoder and renderer to the grid."""
        self.drawn.zero_grad(set_to_none=True)
        self.loss.backward()


def main(stage: str, told: str) -> int:
    """Run a stage; 1 if any of its cases failed."""
    options = json.loads(told)
    folders = {name: Path(options.pop(name)) for name in ("out", "work", "data")}
    rows = Rows(folders["out"] / "rows.jsonl", options.pop("facts"))
    sys.path += [str(ROOT / name) for name in ("recipes", "tests")]
    folders["work"].mkdir(parents=True, exist_ok=True)
    from gpu_train import run_personalize, run_step, run_train

    stages = {
        "tests": run_tests,
        "generate": run_generate,
        "step": run_step,
        "personalize": run_personalize,
        "distillation": run_distillation,
        "train": run_train,
    }
    stages[stage](Bench(**folders, **options, rows=rows, started=time.perf_counter()))
    return int(rows.failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
