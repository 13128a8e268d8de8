"""A step of distillation and its parts, with and without frozen networks, and with the network in bfloat16.

    python benchmarks/distillation.py [--rounds 5] [--device cpu] [--size toybox | full] [--pixels 256]

`toybox` is the shipped model; `full` has the SD 2.1 shape (UNet 868 M parameters, VAE 84 M, 4 GiB in float32) with
random weights, so that its fields go nowhere; `--pixels` makes its pictures smaller, for a machine with little time.
Every setting takes its turn in every round, so that a busy machine is busy for all; figures are medians of CPU seconds
(on a GPU: of wall seconds), and ratios to the first row of the same round:

    render     a grid from four cameras          encode    pictures to latents, VAE
    network    the noise of [with; without] text    backward  from the loss to the grid, and Adam

`trainable` is what a load gave before networks were frozen: weights require gradients, so the VAE's are computed too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import viewfold as vf
from viewfold.lifting.score import reconstruction_loss
from viewfold.model.condition import Condition
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.representation import Representation

N_VIEWS, RESOLUTION, SAMPLES = 4, 64, 48
PARTS: tuple[str, ...] = ("render", "encode", "network", "backward")
SETTINGS = {
    "trainable, float32": (True, False),
    "frozen, float32": (False, False),
    "trainable, network bfloat16": (True, True),
    "frozen, network bfloat16": (False, True),
}
"""Name -> (weights require gradients, `DistilSettings.precision` is "bfloat16")."""


class Timer:
    """Adds up the seconds of named parts, each when the device is done with it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = self._now()
        yield
        self.seconds[name] += self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()


class Timed:
    """A prior that times the calls of another one."""

    def __init__(self, prior: Any, timer: Timer) -> None:
        self.prior, self.timer = prior, timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def encode(self, images: Tensor) -> Tensor:
        """Time `encode`."""
        with self.timer.part("encode"):
            return self.prior.encode(images)

    def predict_noise(self, *inputs: Any) -> Tensor:
        """Time `predict_noise`."""
        with self.timer.part("network"):
            return self.prior.predict_noise(*inputs)


def step(
    model: Any, representation: Representation, condition: Condition, *, pixels: int, bfloat16: bool
) -> dict[str, float]:
    """Take one step of distillation as `distil` does, and return the seconds of its parts."""
    device, timer = representation.device, Timer(representation.device)
    prior: Any = Timed(model, timer)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(representation.groups(1e-4))
    cameras = vf.Cameras.orbit(N_VIEWS).to(device)
    representation.refresh()
    with timer.part("render"):
        pictures = representation.render(cameras, size=pixels, generator=generator).over(0.5)
    latents = prior.encode(pictures)[None]
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        loss = reconstruction_loss(
            latents,
            prior=prior,
            condition=condition,
            cameras=cameras,
            t=torch.tensor([400], device=device),
            noise=torch.randn(latents.shape, generator=generator).to(latents),
            guidance=3.0,
        )
    with timer.part("backward"):
        loss.backward()
        optimizer.step()
    return timer.seconds


def load(size: str, device: str) -> Any:
    """Return the shipped model, or one of the SD 2.1 shape with random weights and no text network."""
    if size == "toybox":
        return vf.load("toybox", device=device, dtype=torch.float32)
    from diffusers import AutoencoderKL, DDIMScheduler
    from full_size import fill

    from viewfold.model.presets import MVDREAM_SD21
    from viewfold.pipeline import MultiViewPipeline

    levels: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    shipped = vf.load("toybox", device="cpu")
    with torch.device("meta"):
        unet, vae = MVDREAM_SD21.build(), AutoencoderKL(latent_channels=4, layers_per_block=2, **levels)
    parts = {"tokenizer": shipped.tokenizer, "text_encoder": shipped.text_encoder, "scheduler": DDIMScheduler()}
    return MultiViewPipeline(unet=fill(unet), vae=fill(vae), **parts).to(device)


def main() -> None:
    """Take turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=["toybox", "full"], default="toybox")
    parser.add_argument("--pixels", type=int, default=None, help="default: the model's own")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    model = load(options.size, options.device)
    pixels = options.pixels or model.image_size
    (_, _, condition, _) = model.unet.example_inputs(2, vf.Cameras.orbit(N_VIEWS))
    condition = (condition if options.size == "full" else model.condition(["a red mug", ""])).to(options.device)
    representation = GridField(resolution=RESOLUTION, settings=GridSettings(samples=SAMPLES)).to(options.device)

    def timed(trainable: bool, bfloat16: bool) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            for part in (model.unet, model.vae):
                part.requires_grad_(trainable)
                part.zero_grad(set_to_none=True)
            return step(model, representation, condition, pixels=pixels, bfloat16=bfloat16)

        return run

    runs = {name: timed(*setting) for name, setting in SETTINGS.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number:  # the first round warms up
                found[name].append(seconds)
    first = next(iter(found.values()))
    unit = "CPU s" if options.device == "cpu" else "s"
    print(f"{options.size}, {pixels} px, {N_VIEWS} views, torch {torch.__version__}, {options.device}; ", end="")
    print(f"{unit}, median of {options.rounds} rounds\n")
    print(f"| setting | step | of the first | {' | '.join(PARTS)} |\n" + "|---" * (3 + len(PARTS)) + "|")
    for name, steps in found.items():
        whole = [sum(each.values()) for each in steps]
        ratio = statistics.median(mine / sum(base.values()) for mine, base in zip(whole, first, strict=True))
        row = [f"{statistics.median(each[part] for each in steps):.3f}" for part in PARTS]
        print(f"| {name} | {statistics.median(whole):.3f} | {ratio:.2f} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
