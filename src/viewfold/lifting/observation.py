"""The first stage of a lift: find the object in each view and, where asked, estimate the cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from viewfold.lifting.foreground import Foreground, find_foreground
from viewfold.lifting.lens import estimate_cameras
from viewfold.views import Views


@dataclass(frozen=True, kw_only=True)
class ObserveSettings:
    """What is estimated from the views before the fit."""

    estimate_cameras: bool = False
    """Search a shared field of view by the silhouettes; for models that were trained at several."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Views of one object, and which of their pixels are the object."""

    views: Views
    """The pictures, with the cameras that everything after this uses."""

    foreground: Foreground

    def opaque(self) -> Float[Tensor, "v 3 h w"]:
        """Return the pictures over the ground that was found."""
        return self.views.over(self.foreground.background)

    @property
    def ground(self) -> Float[Tensor, "3"]:
        """The mean colour of the views' grounds: what pictures of the object alone are laid over."""
        return self.foreground.background.mean(dim=0)

    @property
    def lens(self) -> tuple[float, float]:
        """The mean field of view in degrees, and the mean distance from the object's centre."""
        cameras = self.views.cameras
        return float(cameras.fov_deg.mean()), float(cameras.position.norm(dim=-1).mean())


def observe(views: Views, *, settings: ObserveSettings | None = None) -> Observed:
    """Find the object in each view, and the lens if that is asked for; where the views are.

    Raises:
        FitError: a view shows no object on a plain ground.
    """
    settings = settings or ObserveSettings()
    foreground = find_foreground(views)
    if settings.estimate_cameras:
        views = replace(views, cameras=estimate_cameras(views, foreground))
    return Observed(views=views, foreground=foreground)
