"""What lets the network learn more in the same time?  Changes to the recipe, each for the same CPU time.

    python benchmarks/toybox_learner.py --objects runs/toybox/objects --pictures runs/toybox/flat --out out/learner

Every arm trains the network of --model (or one anew: the arms called "fresh") for `--minutes` of one core, the rate
falling to zero over the last third, and predicts held-out toys under fixed noise.  The error is that of the velocity,
weighted as in training, so that arms with other objectives can be compared.  Arms that have a result are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toybox_subjects import GENERATED, held_out_toys, true_views

from viewfold.data.toybox import World
from viewfold.diffusion.guidance import compose, decompose, velocity
from viewfold.errors import ViewfoldError
from viewfold.evaluation.report import markdown_table
from viewfold.model.condition import Condition
from viewfold.store import atomic_write, read_json
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings, loss_weight
from viewfold.training.settings import LoopSettings

TIMESTEPS = (60, 190, 320, 450, 580, 700, 820, 930, 995)
"""Levels of noise at which held-out toys are predicted, of 1000."""

COOLDOWN = 0.35
CALIBRATION_STEPS = 8
"""Tell how many steps fit into the minutes."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    fresh: bool = False
    settings: DiffusionSettings = field(
        default_factory=lambda: DiffusionSettings(batch=16, loop=LoopSettings(lr=8e-4, warmup=50, ema=0.99))
    )

    def but(self, *, batch: int | None = None, objective: dict[str, Any] | None = None, **loop: Any) -> Arm:
        """Return this arm with other settings."""
        settings = replace(
            self.settings,
            batch=batch or self.settings.batch,
            objective=replace(self.settings.objective, **(objective or {})),
            loop=replace(self.settings.loop, **loop),
        )
        return replace(self, settings=settings)


RECIPE, FRESH = Arm(), Arm(fresh=True).but(lr=1.5e-3)
ARMS = {
    "the recipe (Muon, rate 8e-4, 16 objects a step)": RECIPE,
    "AdamW": RECIPE.but(optimizer="adamw"),
    "AdamW, rate 2e-3": RECIPE.but(optimizer="adamw", lr=2e-3),
    "rate 4e-4": RECIPE.but(lr=4e-4),
    "rate 2e-3": RECIPE.but(lr=2e-3),
    "8 objects a step": RECIPE.but(batch=8),
    "15 % pictures": RECIPE.but(objective={"share_2d": 0.15}),
    "all steps weighted alike": RECIPE.but(objective={"snr_cap": None}),
    "fresh (rate 1.5e-3)": FRESH,
    "fresh, AdamW": FRESH.but(optimizer="adamw"),
    "fresh, predicts the noise": FRESH.but(objective={"prediction": "epsilon"}),
    "fresh, predicts the clean latents": FRESH.but(objective={"prediction": "sample"}),
}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Latents of toys, and what the network is told of them, whose combinations are never trained on."""

    latents: Tensor
    condition: Condition

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, count: int) -> HeldOut:
        """Render and encode `count` toys of the whole world."""
        toys = held_out_toys(count, seed=77, world=World())
        latents = torch.stack([model.encode(true_views(toy).rgb) for toy in toys])
        return cls(latents=latents, condition=model.text.encode([toy.captions[0] for toy in toys]))

    @torch.no_grad()
    def errors(self, unet: Any, alphas_cumprod: Tensor, prediction: str) -> list[float]:
        """Return the weighted squared error of the velocity at each of `TIMESTEPS`, mean over the toys."""
        generator, levels = torch.Generator().manual_seed(1), []
        for timestep in TIMESTEPS:
            errors = []
            for start in range(0, len(self.latents), 24):
                latents, condition = self.latents[start : start + 24], self.condition[start : start + 24]
                noise = torch.randn(latents.shape, generator=generator)
                timesteps = torch.full((len(latents),), timestep)
                alpha_bar = alphas_cumprod[timesteps]
                noisy = compose(latents, noise, alpha_bar)
                with torch.autocast("cpu", torch.bfloat16):
                    predicted = unet(noisy, timesteps, condition, GENERATED).float()
                parts = decompose(predicted, noisy, alpha_bar, prediction=prediction)
                found = velocity(parts.clean, parts.noise, alpha_bar)
                squares = (found - velocity(latents, noise, alpha_bar)).square().flatten(1).mean(1)
                errors.append(squares * loss_weight(alpha_bar, ObjectiveSettings()))
            levels.append(float(torch.cat(errors).mean()))
        return levels


def train(arm: Arm, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one arm and return its figures."""
    import viewfold as vf

    model = vf.load(options.model)
    held_out = HeldOut.of(model, options.toys)
    torch.manual_seed(0)
    unet = type(model.unet).from_config(model.unet.config)
    start = unet.state_dict() if arm.fresh else model.unet.float().state_dict()
    start = {key: value.clone() for key, value in start.items()}

    def run(steps: int) -> list[float]:
        unet.load_state_dict(start)
        loop = replace(arm.settings.loop, steps=steps, cooldown=int(COOLDOWN * steps), checkpoint_minutes=float("inf"))
        seconds: list[float] = []
        with tempfile.TemporaryDirectory() as out:  # an arm that was stopped starts anew: its time counts
            train_diffusion(
                unet, model.text, model.alphas_cumprod, out, objects=options.objects, pictures=options.pictures,
                settings=replace(arm.settings, loop=loop),
                progress=lambda *_: seconds.append(time.process_time()),
            )  # fmt: skip
        return seconds

    first = run(CALIBRATION_STEPS)
    steps = int(60 * options.minutes * (len(first) - 2) / (first[-1] - first[1]))
    print(f"{name}: {steps} steps", flush=True)
    seconds = run(steps)
    spent = seconds[-1] - seconds[0]
    errors = held_out.errors(unet, model.alphas_cumprod, arm.settings.objective.prediction)
    return {
        "steps": steps,
        "cpu_s": spent,
        "objects_per_s": (steps - 1) * arm.settings.batch / spent,
        "error": sum(errors) / len(errors),
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="shards with the latents of --model")
    parser.add_argument("--pictures", type=Path, required=True, help="shards with the latents of --model")
    parser.add_argument("--model", default="toybox", help="a name or a folder")
    parser.add_argument("--out", type=Path, default=Path("out/learner"))
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU time of each arm")
    parser.add_argument("--toys", type=int, default=144)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    try:
        for name in options.arms:
            path = options.out / name / "figures.json"
            if not path.is_file():
                figures = train(ARMS[name], name, options)
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(figures, indent=1))
            figures = read_json(path)
            rows.append([name, f"{figures['objects_per_s']:.1f}", str(figures["steps"]), f"{figures['error']:.4f}"])
            print(rows[-1], flush=True)
    except ViewfoldError as error:
        raise SystemExit(f"error: {error}") from None
    print(markdown_table([f"{options.minutes:g} CPU minutes", "objects/s", "steps", "held-out error"], rows))


if __name__ == "__main__":
    main()
