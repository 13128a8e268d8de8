"""The stages of `gpu.py` that train: a step of the released size, one of a subject, the shipped model for minutes."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import time
from dataclasses import replace
from typing import Any

from gpu_stage import Bench

HELD_OUT_DRAWS, HELD_OUT_OBJECTS = 4, 64
AROUND_TRAINING_S = 75
"""Of the last stage: imports, data, captions, two held-out errors, the shards."""


def run_step(bench: Bench) -> None:
    """Time a training step: AdamW, float32 weights and averages, bfloat16 autocast; batches as large as fit."""
    import torch

    from viewfold.device import matmul_flops

    best: list[float] = []  # measured once, after the first step
    flops_an_object = 0.0
    trainer = None
    for checkpointing in (False, True):
        name, n, fitted = "checkpointed" if checkpointing else "AdamW", 1, 0
        while n <= bench.most:
            bench.clean()
            full = False
            with bench.rows.case("step", f"{name}, {n} x 4 views") as figures:
                trainer = trainer or _Trainer(bench)
                trainer.network.gradient_checkpointing = checkpointing
                if checkpointing:
                    trainer.network.enable_gradient_checkpointing()
                try:
                    figures |= trainer.measure(n)
                except RuntimeError as error:
                    full = fitted > 0 and "out of memory" in str(error)
                    if not full:
                        raise
                    figures |= {"out_of_memory": True, "largest": fitted}
                else:
                    flops_an_object = flops_an_object or trainer.run.flops / n
                    best = best or [matmul_flops(bench.device, torch.bfloat16)]
                    reached = flops_an_object * n / figures["step_s"]
                    figures |= {"tflop": flops_an_object * n / 1e12, "tflops": reached / 1e12,
                                "matmul_tflops": best[0] / 1e12, "utilisation": reached / best[0]}  # fmt: skip
                    fitted = n
            if full or fitted < n or 4 * figures["step_s"] * (bench.repeats + 1) > bench.left_s:
                break
            n *= 2
        if bench.device == "cpu" and not bench.tiny:
            return  # minutes a step: once is enough


class _Trainer:
    """A run of `viewfold.training` whose batches are random and of any size."""

    def __init__(self, bench: Bench) -> None:
        import torch
        from torch import Tensor

        from viewfold.camera import Cameras
        from viewfold.data.batches import Batch
        from viewfold.model.presets import toybox_scheduler
        from viewfold.training.objective import ObjectiveSettings, diffusion_loss
        from viewfold.training.ranks import Ranks
        from viewfold.training.run import Run
        from viewfold.training.settings import LoopSettings

        self.bench, self.objects, self.steps = bench, 1, 0
        self.network = unet = bench.unet().requires_grad_(True).train()
        alphas = toybox_scheduler().alphas_cumprod.to(bench.device)
        orbit = Cameras.orbit(4)

        def draw(step: int, generator: torch.Generator) -> Batch:
            n = self.objects
            shape = unet.example_inputs(n, orbit)[0].shape
            latents = torch.randn(shape, generator=generator)
            return Batch(latents=latents, captions=[""] * n, cameras=orbit.per_object(n, 4))

        def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            condition = unet.example_inputs(len(batch.captions), orbit)[2].to(bench.device)
            settings = ObjectiveSettings(share_2d=0.0)
            return {"loss": diffusion_loss(unet, batch.latents, condition, batch.cameras, alphas_cumprod=alphas,
                                           settings=settings, generator=generator)}  # fmt: skip

        settings = LoopSettings(optimizer="adamw", lr=1e-5, warmup=0, precision="bf16", read_ahead=0)
        self.run = Run(unet, draw, loss, bench.work / "step", settings, Ranks(), samples=1, record={})

    def measure(self, objects: int) -> dict[str, Any]:
        """Return the median step of a batch; the first one allocates, and is alone with `repeats` 0."""
        from viewfold.device import peak_memory_mib

        self.objects, spent, cpu = objects, [], []
        batches = self.run.reading(self.steps)
        self.network.zero_grad(set_to_none=True)
        for _ in range(1 + self.bench.repeats):
            before = time.process_time()
            spent.append(self.bench.seconds(lambda: self.run.step(self.steps, batches)))
            cpu.append(time.process_time() - before)
            self.steps += 1
        step_s = statistics.median(spent[1:] or spent)
        return {
            "step_s": step_s,
            "cpu_s": statistics.median(cpu[1:] or cpu),  # on a CPU the same whoever else is there
            "objects_per_s": objects / step_s,
            "peak_mib": peak_memory_mib(self.bench.device),
        }


def run_personalize(bench: Bench) -> None:
    """Time a step of learning a subject by a LoRA, as `viewfold personalize` does by default."""
    import torch

    from viewfold.camera import Cameras
    from viewfold.model.presets import toybox_scheduler
    from viewfold.training.dreambooth import learn_subject
    from viewfold.training.subject import HELD_BACK, Posed, PriorSamples, Subject, SubjectSettings

    with bench.rows.case("personalize", "LoRA of rank 8, 4 pictures, 4 posed views, 4 of the prior") as figures:
        bench.clean()
        unet, cameras = bench.unet(), Cameras.orbit(4)
        draw = torch.Generator().manual_seed(0)
        latents = torch.randn(1 + HELD_BACK, *unet.example_inputs(1, cameras)[0].shape[1:], generator=draw)
        reader: Any = _NoWords(unet)
        subject = Subject(text="a zorb mug", pictures=latents[0], posed=Posed(latents=latents[0], cameras=cameras))
        prior = PriorSamples(prompts=["a mug"] * len(latents), latents=latents, cameras=cameras)
        settings = SubjectSettings(forgetting=None)
        loop = replace(settings.loop, steps=1 + bench.repeats, check_steps=1 + bench.repeats, precision="bf16")
        ends = []
        learned = learn_subject(
            unet, reader, toybox_scheduler().alphas_cumprod, bench.work / "subject", subject=subject,
            prior=prior, settings=replace(settings, loop=loop),
            progress=lambda *_: ends.append(time.perf_counter()),
        )  # fmt: skip
        spent = [after - before for before, after in itertools.pairwise(ends)]
        report = learned.trained.report
        assert learned.low_rank is not None
        figures |= {"step_s": statistics.median(spent) if spent else report["seconds"],
                    "tflop": report["flops_a_step"] / 1e12, "peak_mib": report["peak_memory_mib"],
                    "parameters": sum(p.numel() for p in learned.low_rank.parameters())}  # fmt: skip


class _NoWords:
    """A reader whose every prompt is the network's example of a condition: reading is no part of a step."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def encode(self, prompts: Any) -> Any:
        from viewfold.camera import Cameras

        return self.network.example_inputs(len(prompts), Cameras.orbit(4))[2]


def run_train(bench: Bench) -> None:
    """Train the shipped model further and ship what training changed, the network, in files under 15 MB."""
    from ship import ship  # pyright: ignore[reportMissingImports]

    from viewfold.cli.command import main

    given = 0.05 if bench.tiny else bench.minutes
    minutes = given or max((bench.limit_s - AROUND_TRAINING_S) / 60, 0.25)
    run = bench.work / "run"
    with bench.rows.case("train", "held-out error of the shipped model") as figures:
        figures["held_out"] = held_out_error(bench, bench.model)
    before = figures.get("held_out")
    with bench.rows.case("train", f"{minutes:.2g} minutes of training") as figures:
        pictures = bench.data / "pictures"
        settings = ["--steps", "3", "--batch", "2"] if bench.tiny else ["--steps", "1000000", "--batch", "128"]
        settings += ["--pictures", str(pictures)] if pictures.is_dir() else []
        code = main(
            ["train", str(bench.data / "objects"), "--model", bench.model, "--out", str(run), "--device", bench.device,
             "--held-out", str(bench.data / "held-out"), "--minutes", f"{minutes:.3f}", "--lr", "2e-4",
             "--warmup", "50", "--ema", "0.998", *settings]
        )  # fmt: skip
        if code:
            raise RuntimeError(f"viewfold train ended with {code}; see its output")
        report = json.loads((run / "run.json").read_text())
        wanted = "steps_made", "samples_per_s", "waiting_for_data", "utilisation", "peak_memory_mib"
        figures |= {name: report[name] for name in wanted if name in report}
        figures |= {"held_out_before": before, "held_out_after": held_out_error(bench, str(run / "model"))}
    with bench.rows.case("train", "weights in shards") as figures:
        shipped = bench.work / "shipped"
        ship(run / "model", shipped)
        target = bench.out / "model" / "unet"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(shipped / "unet", target)  # the rest is the shipped model's own, unchanged
        sizes = [path.stat().st_size for path in target.iterdir()]
        figures |= {"files": len(sizes), "mib": sum(sizes) / 2**20, "largest_mb": max(sizes) / 1e6}


def held_out_error(bench: Bench, name: str) -> float:
    """Return the training objective of a model on toys that are not trained on, under the same noise every time."""
    import torch

    from viewfold.data.batches import LatentSet
    from viewfold.pipeline import load
    from viewfold.training.objective import ObjectiveSettings, diffusion_loss

    model = load(name, device=bench.device, dtype=torch.float32)
    size = model.unet.config["sample_size"]
    held = LatentSet(bench.data / "held-out", shape=(model.unet.config["in_channels"], size, size), views=4)
    settings = ObjectiveSettings(prediction=model.scheduler.config["prediction_type"], share_2d=0.0)
    generator, errors = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(HELD_OUT_DRAWS):
            batch = held.draw(min(HELD_OUT_OBJECTS, len(held)), generator, views=4).to(bench.device)
            condition = model.condition(batch.captions)
            errors.append(float(diffusion_loss(model.unet, batch.latents, condition, batch.cameras,
                                               alphas_cumprod=model.alphas_cumprod, settings=settings,
                                               generator=generator)))  # fmt: skip
    return statistics.mean(errors)
