"""A texture for a mesh that exists, against the true toy: its shape is given, its colours are asked for by its caption.

    python benchmarks/retexture.py [--prompts 12] [--out out/retexture]

Each held-out toy loses its colours and is textured by `make.retexture`, as `viewfold lift --mesh` does, from grey in
one round and in two.  Drawn from eight sides that no view was drawn from, in the renderer's light, beside the true toy:
PSNR over the pixels that both cover, and how many sides the judge takes for the right kind.  "grey" is the shape as it
was given.  Writes a contact sheet, failures included; prints CPU seconds, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from toybox_subjects import BACKGROUND, SIZE, UNSEEN, held_out_toys, world_of

import viewfold as vf
from viewfold.evaluation.interval import mean
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.likeness import compare_pictures
from viewfold.evaluation.report import Entry, captioned_sheet, markdown_table
from viewfold.lifting.retexture import RetextureSettings
from viewfold.make import retexture
from viewfold.scene.material import Material
from viewfold.scene.rasterize import rasterize

RUN = 21
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""

ROUNDS = {"one round": (0.95,), "two rounds (the default)": (0.95, 0.8), "three rounds": (0.95, 0.8, 0.6)}


def main() -> None:
    """Texture, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("out/retexture"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model, (judge, _) = vf.load("toybox", device="cpu"), load_judge()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("grey", *ROUNDS)}
    entries = []
    for toy in held_out_toys(options.prompts, seed=RUN, world=world_of(judge)):
        mesh, prompt = toy.mesh(), toy.captions[0]
        true = rasterize(mesh, UNSEEN, size=SIZE)
        pictures = [true.over(BACKGROUND)[:4]]
        grey = replace(mesh, vertex_color=None, face_material=None, materials=(Material(color=(0.5, 0.5, 0.5)),))
        for name in found:
            started = time.process_time()
            made = grey
            if name in ROUNDS:
                made = retexture(model, prompt, grey, settings=RetextureSettings(strengths=ROUNDS[name])).mesh
            spent = time.process_time() - started
            drawn = rasterize(made, UNSEEN, size=SIZE)
            right = sum(kind == toy.kind for kind in judge.read(drawn.over(BACKGROUND)).kind_of_each)
            found[name].append((compare_pictures(drawn, true).both_psnr_db, float(right), spent))
            if name.startswith("two"):
                pictures.append(drawn.over(BACKGROUND)[:4])
        entries.append(Entry(rgb=torch.cat(pictures), lines=((prompt, None),)))
        print(prompt, *(f"{name} {rows[-1][0]:.1f} dB" for name, rows in found.items()), sep=", ", flush=True)
    rows = []
    for name, figures in found.items():
        psnr, right, spent = (mean([figure[column] for figure in figures]) for column in range(3))
        rows.append(
            [name, f"{psnr.value:.1f} ({psnr.low:.1f} to {psnr.high:.1f})", f"{right.value:.1f}", f"{spent.value:.1f}"]
        )
    print(markdown_table(["", "PSNR, dB (95 % interval)", "right kind, of 8 sides", "CPU s"], rows))
    captioned_sheet(entries, columns=2).save(options.out / "contact.png")


if __name__ == "__main__":
    main()
