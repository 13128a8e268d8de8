"""`lift` takes any prior: here one without a network, which believes that every latent is grey. Needs no model.

It shows what a prior answers (viewfold.lifting.prior).  Distillation pulls the object towards what the prior believes,
so the toy turns greyer the more steps it takes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from viewfold import Cameras, LiftSettings, Views
from viewfold.data.toybox import sample_asset
from viewfold.lifting.stages import DistilSettings, lift
from viewfold.scene.rasterize import rasterize


class GreyPrior:
    """Latents are the pictures themselves, shrunk to 8 x 8; the clean ones are believed to be 0."""

    device = torch.device("cpu")
    image_size = 64
    alphas_cumprod = torch.linspace(0.999, 0.001, 1000)

    def condition(self, prompts: Sequence[str]) -> Sequence[str]:
        return prompts  # anything: it comes back to `predict_noise` as it is

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:  # nothing to draw from
        return torch.nn.functional.adaptive_avg_pool2d(images, 8) * 2 - 1

    def predict_noise(self, x: Tensor, t: Tensor, condition: Sequence[str], cameras: Cameras | None) -> Tensor:
        return x / (1 - self.alphas_cumprod[t]).sqrt()[:, None, None, None, None]


cameras = Cameras.orbit(4)
rendering = rasterize(sample_asset(3).mesh().fit_sphere(), cameras, size=64)
views = Views(rgb=rendering.over(0.5), cameras=cameras)

settings = LiftSettings(distil=DistilSettings(steps=10))
asset = lift(GreyPrior(), "a grey toy", views=views, settings=settings)
print(asset.save("out/examples/grey.glb"), asset.report["seconds"])
