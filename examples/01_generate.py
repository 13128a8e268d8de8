"""Views of a prompt, with the shipped model: python examples/01_generate.py "a red mug"."""

import sys

import viewfold as vf

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red mug"

model = vf.load("toybox")
views = vf.generate(model, prompt, cameras=vf.Cameras.orbit(4, elevation_deg=15), seed=0)
folder = views.save("out/examples/views")

print(f"{folder}/contact.png shows {len(views)} views of {prompt}")
