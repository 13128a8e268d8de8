"""Any cameras: a spiral of eight, written as a nerfstudio dataset of a toy that we render ourselves. Needs no model."""

import torch

from viewfold import Cameras, Views
from viewfold.data.toybox import sample_asset
from viewfold.scene.rasterize import rasterize

spiral = Cameras.at(elevation_deg=torch.linspace(0, 60, 8), azimuth_deg=torch.linspace(0, 315, 8))
asset = sample_asset(7)
rendering = rasterize(asset.mesh().fit_sphere(), spiral, size=128)

views = Views(rgb=rendering.over(1.0), alpha=rendering.alpha, cameras=spiral, prompt=asset.captions[0])
print(f"{views.save('out/examples/spiral')}/contact.png: {asset.captions[0]}")
print("what the network would be told of the first camera:", [round(x, 3) for x in spiral.code()[0].tolist()])
