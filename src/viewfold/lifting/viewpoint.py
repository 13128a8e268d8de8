"""Where the prior looks from in a step of distillation: cameras spread evenly around the object, drawn at random.

Knows cameras, and neither pictures nor representations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DrawnLens:
    """A field of view and a distance that are drawn anew for each object of a batch, one for all its views."""

    fov_deg: tuple[float, float] = (15.0, 60.0)
    """Range of the field of view in degrees, uniform (MVDream-threestudio: `fovy_range`)."""

    distance: tuple[float, float] = (0.8, 1.0)
    """Range of the distance, uniform, in units of 0.5 / tan(fov / 2): 1 is where the object's sphere, seen without
    perspective, would just fill the frame, and our own framing is 1.25 (MVDream-threestudio:
    `camera_distance_range`, in units of 1 / tan(fov / 2), in a scene twice as large)."""

    def __post_init__(self) -> None:
        if not 0 < self.fov_deg[0] <= self.fov_deg[1] < 180:
            raise InputError(f"`fov_deg` must be a range within 0 to 180; got {self.fov_deg}.")
        if not 0 < self.distance[0] <= self.distance[1] < math.inf:
            raise InputError(f"`distance` must be a range above 0; got {self.distance}.")

    def draw(self, generator: torch.Generator | None = None) -> tuple[float, float]:
        """Return a field of view in degrees, and a distance in world units."""
        at_fov, at_distance = torch.rand(2, generator=generator).tolist()
        fov_deg = _between(self.fov_deg, at_fov)
        return fov_deg, _between(self.distance, at_distance) * _unit(fov_deg)

    @property
    def nearest(self) -> tuple[float, float]:
        """The lens that shows the object largest."""
        return self.fov_deg[1], self.distance[0] * _unit(self.fov_deg[1])


def draw_cameras(
    n_objects: int,
    *,
    n_views: int,
    elevation_deg: tuple[float, float],
    by_area: float = 0.0,
    lens: DrawnLens | tuple[float, float],
    generator: torch.Generator | None = None,
) -> Cameras:
    """Spread cameras around each object of a batch, from a random azimuth, at one random height and distance.

        by degrees   elevation = low + (high - low) u
        by area      elevation = asin(sin low + (sin high - sin low) u)

    MVDream's first azimuth lies within the first quarter, which is the same cameras in another order.  Its draw by area
    takes degrees for area and so ends at asin(1/3) = 19.5 degrees instead of 30; ours does not.

    Args:
        n_views: of each object.
        elevation_deg: range of the height above the horizon.
        by_area: share of the batches, 0 to 1, whose heights are spread evenly over the sphere's area instead of over
            degrees (MVDream-threestudio: 0.5).
        lens: what draws field of view and distance, or both, in degrees and world units.
        generator: of everything random, on the CPU.

    Returns:
        `n_objects * n_views` cameras on the CPU, those of an object one after the other.
    """
    even = by_area > 0 and float(torch.rand((), generator=generator)) < by_area
    sets = []
    for _ in range(n_objects):
        azimuth, height = torch.rand(2, generator=generator).tolist()
        fov_deg, distance = lens.draw(generator) if isinstance(lens, DrawnLens) else lens
        orbit = Cameras.orbit(
            n_views,
            elevation_deg=_by_area(elevation_deg, height) if even else _between(elevation_deg, height),
            azimuth_deg=360 * azimuth,
            fov_deg=fov_deg,
            distance=distance,
        )
        sets.append(orbit)
    return Cameras.cat(sets)


def _unit(fov_deg: float) -> float:
    return OBJECT_RADIUS / math.tan(math.radians(fov_deg) / 2)


def _by_area(degrees: tuple[float, float], share: float) -> float:
    low, high = (math.sin(math.radians(end)) for end in degrees)
    return math.degrees(math.asin(_between((low, high), share)))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share
