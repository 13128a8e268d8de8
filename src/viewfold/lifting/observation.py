"""The first stage of a lift: find the object in each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.foreground import Foreground, find_foreground
from viewfold.views import Views

LensSource = Literal["cameras", "silhouettes", "pictures"]
"""Where the field of view is known from: the views' cameras, or a search (lifting/lens.py)."""


@dataclass(frozen=True, kw_only=True)
class ObserveSettings:
    """What is estimated from the views before the fit."""

    lens: LensSource | str = "cameras"
    """Where the field of view comes from.  It is searched for views of a model that was trained at several and is told
    of none: by the silhouettes, or better and more slowly by the pictures, of which that takes eight."""

    def __post_init__(self) -> None:
        if self.lens not in get_args(LensSource):
            raise InputError(f"`lens` must be one of {', '.join(get_args(LensSource))}; got {self.lens!r}.")


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


def observe(views: Views) -> Observed:
    """Find the object in each view; where the views are.

    Raises:
        FitError: a view shows no object on a plain ground.
    """
    return Observed(views=views, foreground=find_foreground(views))
