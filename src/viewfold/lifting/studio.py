"""What the prior is shown in a step of distillation: cameras, light and background are drawn, and pictures taken.

Knows a representation's protocol, and neither the prior nor any loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.lifting.backdrop import draw_solid, paint_background
from viewfold.lifting.phase import phase_at
from viewfold.lifting.ration import Ration
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.shading import draw_lighting, shade
from viewfold.lifting.viewpoint import draw_cameras
from viewfold.scene.background import Background
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Representation


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """The pictures of one step."""

    pictures: Float[Tensor, "n 3 h w"]
    """Opaque, of "b v" objects and views; differentiable in the representation and the background."""

    rendered: Rendering
    """The object alone, in its light."""

    cameras: Cameras
    """Those of an object one after the other, on the representation's device."""

    n_objects: int


class Studio:
    """Takes the pictures of a distillation, and owns the background that is learned along."""

    def __init__(
        self,
        settings: DistilSettings,
        *,
        lens: tuple[float, float],
        ground: Float[Tensor, "3"],
        generator: torch.Generator | None = None,
        ration: Ration | None = None,
    ) -> None:
        """Set up.

        Args:
            settings: see `DistilSettings`.
            lens: field of view in degrees and distance, where `settings` draw none.
            ground: what is behind the object, where `settings` have nothing else; its device is the studio's.
            generator: of the background's first weights, if there is one.
            ration: of what is rendered at once; None begins a new one.
        """
        self.settings, self.ground, self.ration = settings, ground, ration or Ration()
        self.lens = settings.lens or lens
        learned = settings.backdrop is not None and settings.backdrop.learned
        self.background = Background(generator=generator).to(ground.device) if learned else None

    @property
    def nearest(self) -> tuple[float, float]:
        """The field of view and the distance that show the object largest."""
        return self.lens if isinstance(self.lens, tuple) else self.lens.nearest

    def shoot(
        self, representation: Representation, *, step: int, image_size: int, generator: torch.Generator | None = None
    ) -> Shot:
        """Draw cameras, light and background of a step, and take its pictures.

        Args:
            representation: where the ground is.
            step: counted from 0.
            image_size: of the pictures, where the phase does not say.
            generator: of everything random, on the CPU.
        """
        settings, phase = self.settings, phase_at(self.settings.phases, step)
        size, n_views = phase.size or image_size, settings.views
        drawn = draw_cameras(
            phase.objects,
            n_views=n_views,
            elevation_deg=settings.elevation_deg,
            by_area=settings.elevation_by_area,
            lens=self.lens,
            generator=generator,
        )
        lighting = None
        if settings.shading is not None:
            lighting = draw_lighting(settings.shading, drawn, step=step, n_views=n_views, generator=generator)
        cameras = drawn.to(representation.device)
        with_samples = lighting is not None or settings.regularizer.needs_samples(step)
        drawable = self.ration.of(representation)
        rendered = drawable.render(cameras, size=size, generator=generator, normals=with_samples)
        if lighting is not None:
            rendered = shade(rendered, lighting)
        behind = self._behind(cameras, n_objects=phase.objects, size=size, generator=generator)
        return Shot(pictures=rendered.over(behind), rendered=rendered, cameras=cameras, n_objects=phase.objects)

    def _behind(
        self, cameras: Cameras, *, n_objects: int, size: int, generator: torch.Generator | None
    ) -> Float[Tensor, "3"] | Float[Tensor, "n 3 i j"]:
        """Return a background: a random colour, the learned one, or the ground."""
        backdrop = self.settings.backdrop
        if backdrop is not None:
            solid = draw_solid(backdrop, n_objects=n_objects, n_views=self.settings.views, generator=generator)
            if solid is not None:
                return solid.to(self.ground)
        return self.ground if self.background is None else paint_background(self.background, cameras, size=size)
