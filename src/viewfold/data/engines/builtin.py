"""The built-in engine: our rasteriser (`scene.rasterize`), which needs nothing but PyTorch."""

from __future__ import annotations

import torch
from torch.nn import functional

from viewfold import __version__
from viewfold.camera import Cameras
from viewfold.data.engines.settings import RenderSettings
from viewfold.data.engines.subject import Pictures, Subject
from viewfold.scene.rasterize import rasterize


class Builtin:
    """Draws in this process."""

    version = f"viewfold {__version__}"

    def draw(self, subject: Subject, cameras: Cameras, settings: RenderSettings) -> Pictures:
        """Return the pictures; see `Engine`."""
        light = settings.light_of(subject.uid)
        wants_shape = settings.depth or settings.normals
        drawn = rasterize(
            subject.mesh,
            cameras,
            size=settings.size,
            supersample=settings.supersample,
            light=light,
            shape=wants_shape,
        )
        straight = torch.cat([drawn.rgb / drawn.alpha.clamp(min=1e-6), drawn.alpha], dim=1).clamp_(0, 1)
        normal = functional.normalize(drawn.normal, dim=1) if wants_shape else drawn.normal
        return Pictures(rgba=straight, depth=drawn.depth, normal=normal)

    def close(self) -> None:
        """Nothing was started."""
