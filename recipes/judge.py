"""Make the judge: render toys, train the small classifier of kind and colours on them, measure it, write its weights.

    python recipes/judge.py --out src/viewfold/models/judge [--assets 3600] [--steps 4500] [--cache out/judge]

Each toy is drawn twice: main and accent as bare light (red and green channel), and the small details alone. A picture
in any two colours is then a sum, so every batch shows every toy in new colours. Combinations that are held out
(docs/data.md) never occur in training and are what the judge is measured on. About fifteen CPU minutes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample

from viewfold.camera import Cameras
from viewfold.data.toybox import COLORS, Asset, World, is_held_out, sample_asset
from viewfold.evaluation.judge import Judge, JudgeConfig, load_judge, save_judge
from viewfold.scene.rasterize import rasterize
from viewfold.training.optimizer import Optimizer
from viewfold.training.settings import LoopSettings, learning_rate

TRAIN_SEED = 50_000_000
"""Toys from here on are the judge's own; the generator is trained on seeds below."""

TEST_SEED = 60_000_000
BACKGROUND = 0.5
SIZE = 64
VIEWS = 4
ELEVATION_DEG = (-5.0, 35.0)
N_VIEWS_ODDS = torch.tensor([0.35, 0.3, 0.15, 0.2])
"""How often the judge is shown 1, 2, 3 and 4 views in training."""

LR = 3e-3
"""Peak rate: reached after a tenth of the steps, zero at the end."""

HALF = 0.5
"""Bare light is drawn at half strength, so that highlights (1.06 of the albedo) are not cut."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Pictures taken apart: rgb = light[0] * main + light[1] * accent + details + (1 - alpha) * background."""

    stack: UInt8[Tensor, "b v 6 h w"]
    """Light on main, light on accent (at half strength), details in red, green, blue, and alpha; 255 is 1."""

    kind: Int[Tensor, "b"]


def draw_layers(asset: Asset, cameras: Cameras) -> UInt8[Tensor, "v 6 h w"]:
    """Draw what depends on the main colour, on the accent's, and on neither."""
    mesh = asset.mesh()
    black = (0.0, 0.0, 0.0)
    bare, details = [], []
    for material in mesh.materials:
        color = tuple(material.color)
        is_main, is_accent = color == COLORS[asset.main], color == COLORS[asset.accent]
        bare.append(replace(material, color=(HALF * is_main, HALF * is_accent, 0.0)))
        details.append(replace(material, color=black if is_main or is_accent else color))
    drawn = rasterize(replace(mesh, materials=tuple(bare)), cameras, size=SIZE)
    light = drawn.rgb[:, :2] - drawn.rgb[:, 2:]  # blue holds what shines whatever the colour, and `rest` holds it too
    rest = rasterize(replace(mesh, materials=tuple(details)), cameras, size=SIZE).rgb
    return (torch.cat([light, rest, drawn.alpha], dim=1).clamp(0, 1) * 255).round().byte()


def render_layers(count: int, cache: Path, world: World) -> Layers:
    """Draw `count` toys from random sides, or read them from the cache."""
    path = cache / f"layers_{count}_{len(world.kinds)}.pt"
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        return Layers(stack=saved["stack"], kind=saved["kind"])
    stack, kinds, start = [], [], time.time()
    for index in range(count):
        asset = sample_asset(TRAIN_SEED + index, world=world)
        generator = torch.Generator().manual_seed(index)
        low, high = ELEVATION_DEG
        elevation = low + (high - low) * torch.rand(VIEWS, generator=generator)
        azimuth = 360 * (torch.rand(1, generator=generator) + torch.arange(VIEWS) / VIEWS) + 45 * torch.rand(
            VIEWS, generator=generator
        )
        stack.append(draw_layers(asset, Cameras.at(elevation_deg=elevation, azimuth_deg=azimuth)))
        kinds.append(world.kinds.index(asset.kind))
        if index % 200 == 199:
            eta = (time.time() - start) / (index + 1) * (count - index - 1)
            print(f"drawn {index + 1}/{count}, {eta:.0f} s to go", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save({"stack": torch.stack(stack), "kind": torch.tensor(kinds)}, path)
    return Layers(stack=torch.stack(stack), kind=torch.tensor(kinds))


def allowed_colors(world: World) -> Float[Tensor, "k p"]:
    """Return per kind the weight of each pair main * n + accent: 1 if it may be trained on, else 0."""
    names = world.colors
    rows = [[float(a != b and not is_held_out(kind, a, b)) for a in names for b in names] for kind in world.kinds]
    return torch.tensor(rows)


def paint(
    stack: UInt8[Tensor, "b v 6 h w"], main: Int[Tensor, "b"], accent: Int[Tensor, "b"], palette: Float[Tensor, "n 3"]
) -> Float[Tensor, "b v 3 h w"]:
    """Put the layers together in the colours of these indices."""
    layers = stack.float() / 255
    colors = (palette[i][:, None, :, None, None] / HALF for i in (main, accent))
    lit = sum(layers[:, :, i : i + 1] * color for i, color in enumerate(colors))
    return (lit + layers[:, :, 2:5] + (1 - layers[:, :, 5:]) * BACKGROUND).clamp(0, 1)


def augment(pictures: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Make pictures as imperfect as generated ones: moved, scaled, mirrored, blurred, brighter, noisy."""
    n = len(pictures)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    scale = draw(0.9, 1.12).flatten()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = scale * draw(0.94, 1.06).flatten()
    theta[:, :, 2] = draw(-0.06, 0.06).view(n, 1) * torch.randn(n, 2, generator=generator).clamp(-1, 1)
    moved = grid_sample(pictures, affine_grid(theta, list(pictures.shape), align_corners=False), align_corners=False,
                        padding_mode="border")  # fmt: skip
    blurred = avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    soft = avg_pool2d(blurred, 3, stride=1, padding=1, count_include_pad=False)
    amount = draw(-0.6, 2.0)
    moved = moved + amount.clamp(0, 1) * (blurred - moved) + (amount - 1).clamp(0, 1) * (soft - blurred)
    coarse = torch.nn.functional.interpolate(torch.randn(n, 3, 8, 8, generator=generator), scale_factor=8.0)
    noise = draw(0, 0.03) * torch.randn(pictures.shape, generator=generator) + draw(0, 0.03) * coarse
    return ((moved - 0.5) * draw(0.88, 1.1) + 0.5 + draw(-0.04, 0.04) + noise).clamp(0, 1)


def train(
    layers: Layers, world: World, *, steps: int, batch: int, start_from: Judge | None = None, seed: int = 0
) -> Judge:
    """Train on pairs of random views in random colours: the pooled answer, and the answer of each view alone."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge = Judge(JudgeConfig(kinds=world.kinds, colors=world.colors))
    if start_from is not None:
        judge.load_state_dict(start_from.state_dict())
    judge.train().to(memory_format=torch.channels_last)
    optimizer = Optimizer(judge, "muon", beta2=0.99, weight_decay=0.02)
    schedule = LoopSettings(steps=steps, lr=LR, warmup=steps // 10, cooldown=steps - steps // 10)
    pairs, start, n_colors = allowed_colors(world), time.time(), len(world.colors)
    palette = torch.tensor([COLORS[name] for name in world.colors])
    average = torch.optim.swa_utils.AveragedModel(judge, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    for step in range(steps):
        index = torch.randint(len(layers.kind), (batch,), generator=generator)
        n_views = 1 + int(torch.multinomial(N_VIEWS_ODDS, 1, generator=generator))
        views = torch.rand(batch, VIEWS, generator=generator).argsort(dim=1)[:, :n_views]
        kind = layers.kind[index]
        pair = torch.multinomial(pairs[kind], 1, generator=generator)[:, 0]
        main, accent = pair // n_colors, pair % n_colors
        pictures = paint(layers.stack[index[:, None], views], main, accent, palette)
        pictures = augment(pictures.flatten(0, 1), generator).unflatten(0, pictures.shape[:2])
        with torch.autocast("cpu", torch.bfloat16):
            answers = judge(pictures)
        labels = (kind, main, accent)
        loss = sum(cross_entropy(a.float(), b) for a, b in zip(answers.pooled, labels, strict=True))
        loss = loss + 0.5 * cross_entropy(answers.each.float().flatten(0, 1), kind.repeat_interleave(n_views))
        judge.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step(learning_rate(step, schedule))
        average.update_parameters(judge)
        if step % 100 == 99:
            right = [float((a.argmax(-1) == b).float().mean()) for a, b in zip(answers.pooled, labels, strict=True)]
            eta = (time.time() - start) / (step + 1) * (steps - step - 1)
            print(f"step {step + 1} views {n_views} loss {loss.item():.3f} right {right} eta {eta:.0f} s", flush=True)
    return average.module.eval()


@torch.no_grad()
def measure(judge: Judge, world: World, *, count: int, held_out: bool, seed: int = TEST_SEED) -> dict[str, float]:
    """Return shares of right answers on toys never drawn before: four views at elevation 15, and one view."""
    right = torch.zeros(4)
    for index in range(count):
        asset = sample_asset(seed + index, held_out=held_out, world=world)
        cameras = Cameras.orbit(VIEWS, elevation_deg=15, azimuth_deg=(index * 37) % 90)
        verdict = judge.read(rasterize(asset.mesh(), cameras, size=SIZE).over(BACKGROUND))
        each = sum(kind == asset.kind for kind in verdict.kind_of_each) / VIEWS
        right += torch.tensor(
            [verdict.kind == asset.kind, verdict.main == asset.main, verdict.accent == asset.accent, each]
        )
    share = [round(x, 4) for x in (right / count).tolist()]
    return {**dict(zip(("kind", "main", "accent", "kind_one_view"), share, strict=True)), "assets": float(count)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/judge"))
    parser.add_argument("--assets", type=int, default=3600)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--start-from", type=Path, help="go on from this judge, in its own world, for another --steps")
    parser.add_argument("--seed", type=int, default=0, help="another one when going on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--test", type=int, default=400, help="toys per measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = None if options.start_from is None else load_judge(options.start_from)[0]
    world = World() if known is None else World(kinds=known.config.kinds, colors=known.config.colors)
    layers = render_layers(options.assets, options.cache, world)
    judge = train(layers, world, steps=options.steps, batch=options.batch, start_from=known, seed=options.seed)
    figures = {
        "held_out_combinations": measure(judge, world, count=options.test, held_out=True),
        "training_combinations": measure(judge, world, count=options.test, held_out=False),
    }
    print(figures)
    save_judge(judge, options.out, figures=figures)


if __name__ == "__main__":
    main()
