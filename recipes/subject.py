"""Pictures of a thing to learn, as a person would have cut them out: python recipes/subject.py FOLDER

A mug of colours that the shipped model was not trained on together, from four sides, 256 px, transparent around it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, is_held_out
from viewfold.picture import to_pil
from viewfold.scene.rasterize import rasterize

MUG = Asset(kind="mug", colors=(("body", "lime"), ("handle", "green")), seed=80_000_000)
FROM = Cameras.at(azimuth_deg=[20.0, 100.0, 200.0, 290.0], elevation_deg=[5.0, 20.0, 10.0, 15.0])

if __name__ == "__main__":
    assert is_held_out(MUG.kind, MUG.main, MUG.accent)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    drawn = rasterize(MUG.mesh(), FROM, size=256)
    straight = (drawn.rgb / drawn.alpha.clamp_min(1e-6)).clamp(0, 1)
    for number, rgba in enumerate(torch.cat([straight, drawn.alpha], dim=1)):
        to_pil(rgba).save(folder / f"{number}.png")
