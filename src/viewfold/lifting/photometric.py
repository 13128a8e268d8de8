"""The photometric loss: the squared difference between a representation's renders and the views.

Pictures are compared over random grounds, which makes a fog in the ground's colour useless; coverage is compared with
the silhouettes.  What makes no fog is compared over the views' own grounds.  Asks a representation for renders, and for
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.camera import Cameras
from viewfold.lifting.observation import Observed
from viewfold.scene.rendering import Drawable


@dataclass(frozen=True, kw_only=True, eq=False)
class Photometric:
    """Pictures, coverage and cameras at one size, ready to be compared with renders."""

    rgb: Float[Tensor, "v 3 h w"]
    """Opaque, over `background`."""

    alpha: Float[Tensor, "v 1 h w"]
    certainty: Float[Tensor, "v 1 h w"]
    background: Float[Tensor, "v 3"]
    cameras: Cameras

    alpha_weight: float = 1.0
    """Weight of the squared difference between coverage and silhouette, beside 1 for colour."""

    alpha_known: bool = False
    """Whether coverage came with the pictures, and so is exact, or was guessed from their colours."""

    @classmethod
    def of(cls, observed: Observed, *, alpha_weight: float = 1.0) -> Photometric:
        """Take the views as they are."""
        return cls(
            rgb=observed.opaque(),
            alpha=observed.foreground.alpha,
            certainty=observed.foreground.certainty,
            background=observed.foreground.background,
            cameras=observed.views.cameras,
            alpha_weight=alpha_weight,
            alpha_known=observed.views.alpha is not None,
        )

    @property
    def size(self) -> int:
        """Pixels along each side."""
        return self.rgb.shape[-1]

    def shrunk(self, size: int) -> Photometric:
        """Return the same at `size` pixels a side, by averaging."""
        if size == self.size:
            return self
        small = {
            name: interpolate(getattr(self, name), size=(size, size), mode="area")
            for name in ("rgb", "alpha", "certainty")
        }
        return replace(self, **small)

    def some(self, count: int, *, generator: torch.Generator | None = None) -> Photometric:
        """Return `count` of the views, drawn at random without replacement; all of them if there are no more."""
        n_views = len(self.rgb)
        if n_views <= count:
            return self
        chosen = torch.randperm(n_views, generator=generator)[:count].to(self.rgb.device)
        names = ("rgb", "alpha", "certainty", "background", "cameras")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def loss(self, representation: Drawable, *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean squared error of colour, over a random ground g per view, and of coverage.

            target = rgb + (1 - alpha) (g - background)              the picture, moved to the ground g
            loss   = mean c |rendered over g - target|^2 + alpha_weight mean c (rendered alpha - alpha)^2

        with c the certainty of each pixel.
        """
        rendered = representation.render(self.cameras, size=self.size, generator=generator)
        ground = torch.rand(len(self.rgb), 3, 1, 1, generator=generator).to(self.rgb)
        expected = self.rgb + (1 - self.alpha) * (ground - self.background[:, :, None, None])
        color = (self.certainty * (rendered.over(ground) - expected).square()).mean()
        coverage = (self.certainty * (rendered.alpha - self.alpha).square()).mean()
        return color + self.alpha_weight * coverage

    def opaque_loss(self, opaque: Drawable) -> Float[Tensor, ""]:
        """Return the mean squared error of colour over the views' own grounds: for what is opaque, and makes no fog.

            loss = mean c |rendered over background - rgb|^2,   and, where coverage is known,
                   + alpha_weight mean c (rendered alpha - alpha)^2

        A guessed coverage is not asked: it misses the parts of an object that have the ground's colour.
        """
        rendered = opaque.render(self.cameras, size=self.size)
        seen = rendered.over(self.background[:, :, None, None])
        loss = (self.certainty * (seen - self.rgb).square()).mean()
        if not self.alpha_known:
            return loss
        return loss + self.alpha_weight * (self.certainty * (rendered.alpha - self.alpha).square()).mean()
