"""Which views a lift asks for: anchors from where the model draws best, and more around them.

Views decide more than anything that follows: a fit to 16 is several decibels better at sides that no view shows than a
fit to 4 (`benchmarks/lift_quality.py`).  Knows cameras; who draws the views is somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from viewfold.camera import Cameras
from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How many views, and from where.  What is None is the model's default."""

    views: int | None = None
    """Views in all, the anchors among them."""

    most: int = 64
    """Where `views` is the model's default: never more than this, to save time."""

    around: bool | None = None
    """Draw the anchors first, and the others around them; False draws all at once."""

    elevations_deg: tuple[float, ...] = (5.0, 30.0)
    """Heights of the others, in turn: two at least, so that a hollow is seen into and a top is seen."""

    def __post_init__(self) -> None:
        for name in ("views", "most"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= 64:
                raise InputError(f"`{name}` must lie between 1 and 64; got {value}.")
        if not self.elevations_deg or not all(-89 <= height <= 89 for height in self.elevations_deg):
            raise InputError(f"`elevations_deg` must be heights within -89 to 89; got {self.elevations_deg}.")

    def resolved(self, *, views: int, around: bool) -> Survey:
        """Return the survey with a model's defaults where it says nothing."""
        return replace(
            self,
            views=min(views, self.most) if self.views is None else self.views,
            around=around if self.around is None else self.around,
        )

    def others(self, anchors: Cameras) -> Cameras | None:
        """Return the cameras beside the anchors, spread evenly; None if the anchors are all.

        They begin half a step from azimuth 0 and have the anchors' mean field of view and distance.
        """
        count = (self.views or len(anchors)) - len(anchors)
        if count <= 0:
            return None
        heights = [self.elevations_deg[i % len(self.elevations_deg)] for i in range(count)]
        return Cameras.orbit(
            count,
            elevation_deg=heights,
            azimuth_deg=180 / count,
            fov_deg=float(anchors.fov_deg.mean()),
            distance=float(anchors.position.norm(dim=-1).mean()),
        )
