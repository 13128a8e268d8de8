"""Views for an image-to-3D system that takes several pictures: the object cut out, named, with its cameras.

TRELLIS, TRELLIS.2 and Hunyuan3D-2mv, what they want and what was tried: docs/hand-off.md.
"""

import math
import sys
from pathlib import Path

import torch

import viewfold as vf
from viewfold.lifting.foreground import cut_out
from viewfold.picture import to_pil
from viewfold.store import write_json

SIDES = ("front", "left", "back", "right")
"""At azimuths 0, 90, 180 and 270: the left is the object's own, where its face points to the left of the picture."""

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red mug"

model = vf.load("toybox")
views = cut_out(vf.generate(model, prompt, cameras=vf.Cameras.orbit(4, elevation_deg=0), seed=0))
assert views.alpha is not None  # which cutting out has made

folder = Path("out/examples/hand-off")
folder.mkdir(parents=True, exist_ok=True)
cameras = views.transforms()  # nerfstudio's: OpenGL, z up, the object about the origin in a sphere of radius 0.5
for index, (side, frame) in enumerate(zip(SIDES, cameras["frames"], strict=True)):
    picture = torch.cat([views.rgb[index], views.alpha[index]])
    to_pil(picture).save(folder / f"{side}.png", **views.label.picture_options(".png", view=index))
    frame["file_path"] = f"{side}.png"
    frame["camera_angle_x"] = math.radians(views.cameras.fov_deg[index])  # what TRELLIS' own tools read
write_json(folder / "transforms.json", cameras)
write_json(folder / "run.json", {"prompt": prompt, **views.run})

print(f"{folder} holds {', '.join(f'{side}.png' for side in SIDES)} and their cameras, transforms.json")
