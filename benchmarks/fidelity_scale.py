"""What FID and KID of this encoder say of sets whose worth is known: renders, the shipped model, damage, noise.

    python benchmarks/fidelity_scale.py --out out/fidelity                     # 64 objects of 4 views a set, 3 minutes
    viewfold evaluate out/fidelity/model --real out/fidelity/true --encoder efficientnet-lite0

Writes the sets as folders of views and prints a table; a set that is there already is taken as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from toybox_subjects import GENERATED, expect, held_out_toys, true_views, world_of

import viewfold as vf
from viewfold.cli.fidelity import measure
from viewfold.data.toybox import Asset
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.pretrained import load_encoder
from viewfold.evaluation.report import markdown_table
from viewfold.views import Views

NOISE, SMALL = 0.1, 24
"""Deviation of the noise, and pixels that a blurred picture keeps of 64."""


def noisy(views: Views, seed: int) -> Views:
    """Return views with noise, the same for a seed."""
    drawn = torch.randn(views.rgb.shape, generator=torch.Generator().manual_seed(seed))
    return replace(views, rgb=(views.rgb + NOISE * drawn).clamp(0, 1))


def blurred(views: Views) -> Views:
    """Return views that were shrunk and enlarged again."""
    small = torch.nn.functional.interpolate(views.rgb, (SMALL, SMALL), mode="bilinear", antialias=True)
    return replace(views, rgb=torch.nn.functional.interpolate(small, views.rgb.shape[-2:], mode="bilinear"))


def write(folder: Path, made: Iterable[Callable[[], Views]]) -> None:
    """Save a set, unless it is there."""
    for index, make in enumerate(made):
        if not (place := folder / f"{index:03d}").exists():
            make().save(place, turntable=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objects", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    world, n = world_of(load_judge()[0]), options.objects
    others, toys = (held_out_toys(n, seed=seed, world=world) for seed in (0, 1))
    one_kind = held_out_toys(n, seed=2, world=replace(world, kinds=world.kinds[:1]))

    model = vf.load("toybox", device=options.device)

    def generate(toy: Asset, seed: int) -> Views:
        return vf.generate(model, expect(toy).prompt, cameras=GENERATED, seed=seed)

    def noise(toy: Asset, seed: int) -> Views:
        views, generator = true_views(toy), torch.Generator().manual_seed(seed)
        return replace(views, rgb=torch.rand(views.rgb.shape, generator=generator))

    numbered = list(enumerate(toys))
    sets: dict[str, tuple[str, Iterable[Callable[[], Views]]]] = {
        "other": ("renders of other held-out toys", (lambda t=t: true_views(t) for t in toys)),
        "model": ("the shipped model, prompts of those", (lambda t=t, i=i: generate(t, i) for i, t in numbered)),
        "blurred": (
            f"those renders, shrunk to {SMALL} px and back",
            (lambda t=t: blurred(true_views(t)) for t in toys),
        ),
        "noisy": (f"with noise of {NOISE}", (lambda t=t, i=i: noisy(true_views(t), i) for i, t in numbered)),
        "one_kind": (f"renders of one kind alone, {world.kinds[0]}", (lambda t=t: true_views(t) for t in one_kind)),
        "noise": ("nothing but noise", (lambda t=t, i=i: noise(t, i) for i, t in numbered)),
    }
    write(options.out / "true", (lambda t=t: true_views(t) for t in others))
    encoder, rows = load_encoder("efficientnet-lite0", device=options.device), []
    for name, (what, made) in sets.items():
        write(options.out / name, made)
        failed: list[tuple[str, str]] = []
        record = measure((options.out / name,), (options.out / "true",), encoder, failed)
        if failed:
            raise SystemExit(f"{failed[0][0]}: {failed[0][1]}")
        fid, kid, error, score = record["figures"].values()
        rows.append([f"`{name}`", what, f"{fid:.1f}", f"{1000 * kid:.2f} ± {1000 * error:.2f}", f"{score:.2f}"])
        print(f"{name}: {rows[-1][2:]}", flush=True)
    print(markdown_table(["Set", "What it is", "FID", "KID x 1000", "IS"], rows))


if __name__ == "__main__":
    main()
