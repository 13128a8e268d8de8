"""A 3D file of a prompt: python examples/02_lift.py "a red mug". Opens in Blender, Unity or a browser."""

import sys

import viewfold as vf

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red mug"

model = vf.load("toybox")
asset = vf.lift(model, prompt, seed=0)
path = asset.save("out/examples/asset.glb")

print(f"{path}: {asset.report['faces']} faces, re-renders at {asset.report['rerender_psnr_db']} dB")
