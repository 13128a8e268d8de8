"""How assets are photographed: size, cameras, light and engine; what meta.json keeps of it.

Below the engines and `data.render`.  One seed gives an asset the same cameras and the same lamp in every engine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.errors import InputError
from viewfold.scene.framing import Frame
from viewfold.scene.light import Light

LightKind = Literal["fixed", "random", "none"]
"""The same for all, drawn for each asset from the seed and its name, or the albedo as it is."""

EngineName = Literal["builtin", "blender", "moderngl"]
"""Our rasteriser, Cycles in a process of its own, or OpenGL."""


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """What Blender's path tracer is told beyond size, cameras and light."""

    samples: int = 32
    """Paths per pixel."""

    denoise: bool = True
    """Clean the colours with Intel's Open Image Denoise."""

    device: Literal["cpu", "gpu"] = "cpu"
    """A GPU is any of OptiX, CUDA, HIP, oneAPI and Metal that Blender finds; without one the run is refused."""

    bounces: int = 4
    """Reflections that a path is followed through."""

    hdri: str | None = None
    """A picture of surroundings (.hdr, .exr) in place of sky and lamp, or a folder of them, one drawn per asset; with
    light "random" it is turned about the vertical, too."""

    def __post_init__(self) -> None:
        for name, least, most in (("samples", 1, 65536), ("bounces", 0, 1024)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"`{name}` must lie between {least} and {most}; got {getattr(self, name)}.")
        if self.device not in ("cpu", "gpu"):
            raise InputError(f"`device` must be cpu or gpu; got {self.device!r}.")


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """How assets are photographed; the defaults are the shipped model's."""

    size: int = 64
    """Pixels across and down."""

    supersample: int = 2
    """Samples per pixel along each axis; Blender has `cycles.samples` instead."""

    orbits: int = 2
    """Circles of views per object, each with its own elevation, starting azimuth, field of view and distance."""

    views: int = 4
    """Views per circle, evenly spaced."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the height above the horizon, uniform per circle."""

    random_azimuth: bool = True
    """Start each circle at a random azimuth; otherwise at the front."""

    fov_deg: tuple[float, float] = (40.0, 40.0)
    """Range of the field of view, uniform per circle."""

    distance: tuple[float, float] | None = None
    """Range of the distance in units of 0.5 / tan(fov / 2), uniform per circle; None frames the object."""

    seed: int = 0
    """Cameras and light of an object depend on this and on its name alone."""

    frame: Frame = "sphere"
    """What the object is scaled to fit into."""

    light: LightKind = "fixed"
    """Where the light comes from."""

    depth: bool = False
    """Write the distance of each pixel, too."""

    normals: bool = False
    """Write the direction of each pixel's surface, too."""

    engine: EngineName = "builtin"
    """What draws."""

    cycles: Cycles | None = None
    """For Blender alone, which without it has `Cycles()`."""

    def __post_init__(self) -> None:
        for name, most in (("size", 4096), ("supersample", 16), ("orbits", 1024), ("views", 256)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"`{name}` must lie between 1 and {most}; got {getattr(self, name)}.")
        for name, least, most in (("elevation_deg", -89.9, 89.9), ("fov_deg", 1, 170), ("distance", 0.1, 100)):
            low, high = getattr(self, name) or (least, most)
            if not least <= low <= high <= most:
                raise InputError(f"`{name}` must be a rising range within {least} to {most}; got {low} to {high}.")
        for name, kind in (("frame", Frame), ("light", LightKind), ("engine", EngineName)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"`{name}` must be {', '.join(get_args(kind))}; got {getattr(self, name)!r}.")
        if self.engine == "blender":
            object.__setattr__(self, "cycles", self.cycles or Cycles())
            if self.cycles is not None and self.cycles.hdri is not None and self.light == "none":
                raise InputError("`hdri` must go with light; got none. Leave out one of them.")
        elif self.cycles is not None:
            raise InputError(f"`cycles` must go with `engine` blender; got {self.engine}. Leave it out.")

    def cameras(self, uid: str) -> Cameras:
        """Return the cameras of one object, circle by circle."""
        random = _random(f"{self.seed}|{uid}")
        circles = []
        for _ in range(self.orbits):
            elevation, fov = random.uniform(*self.elevation_deg), random.uniform(*self.fov_deg)
            azimuth = random.uniform(0, 360) if self.random_azimuth else 0.0
            distance = None
            if self.distance is not None:
                distance = random.uniform(*self.distance) * OBJECT_RADIUS / np.tan(np.deg2rad(fov) / 2)
            circles.append(
                Cameras.orbit(self.views, elevation_deg=elevation, azimuth_deg=azimuth, fov_deg=fov, distance=distance)
            )
        return Cameras.cat(circles)

    def light_of(self, uid: str) -> Light | None:
        """Return the sky and the lamp of one object; None draws its albedo.

        A random lamp stands at any azimuth, 15 to 75 degrees high; what faces it is as bright as in the fixed light,
        within a fifth.
        """
        if self.light != "random":
            return Light() if self.light == "fixed" else None
        random = _random(f"{self.seed}|{uid}|light")
        azimuth, elevation = random.uniform(0, 2 * math.pi), math.radians(random.uniform(15, 75))
        across = math.cos(elevation)
        return Light(
            sky=random.uniform(0.65, 0.9),
            ground=random.uniform(0.4, 0.65),
            key=random.uniform(0.15, 0.45),
            direction=(across * math.sin(azimuth), -across * math.cos(azimuth), math.sin(elevation)),
        )

    def surroundings_of(self, uid: str, choices: int) -> tuple[int, float]:
        """Return which of the `choices` HDRIs an object stands in, and by how many degrees it is turned."""
        random = _random(f"{self.seed}|{uid}|hdri")
        chosen, turn = int(random.integers(choices)), random.uniform(0, 360)
        return chosen, turn if self.light == "random" else 0.0

    def record(self) -> dict[str, Any]:
        """Return all of it as meta.json has it."""
        return json.loads(json.dumps(asdict(self)))

    def check_same(self, recorded: Mapping[str, Any], where: str) -> None:
        """Refuse settings that differ from those that something was rendered with.

        What was rendered before a setting existed was rendered with its default.

        Raises:
            InputError: it names each that differs.
        """
        ours, theirs = _flat(self.record()), _flat({**RenderSettings().record(), **recorded})
        differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
        if differing:
            what = ", ".join(f"`{name}` {_word(theirs.get(name))}, not {_word(ours.get(name))}" for name in differing)
            raise InputError(f"`out` must hold renders of these settings; {where} has {what}. Name another folder.")


PAPER = RenderSettings(
    size=256,
    views=32,
    random_azimuth=False,
    fov_deg=(15.0, 60.0),
    elevation_deg=(0.0, 30.0),
    distance=(0.9, 1.1),
    frame="cube",
    light="random",
)
"""MVDream's data: the object in a unit cube, 32 uniform azimuths from 0, twice per object, field of view U[15, 60],
elevation U[0, 30], distance U[0.9, 1.1] x 0.5 / tan(fov / 2), random light (arXiv 2308.16512, appendix).  Its distances
crop the corners of wide objects."""


def _random(words: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big"))


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by name, those of Cycles beside the others."""
    return {**{name: value for name, value in record.items() if name != "cycles"}, **(record.get("cycles") or {})}


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
