"""Views with known damage, to find out what a score can see: ours, or your own.

    draw (cameras -> true pictures), a look-alike, another object -> {name: damaged views}

A score is worth what it tells apart: `area_under_curve` of its values on true views and on each kind of damage.
Learned scores of geometry have been found to rate noise and repeated views as consistent (arXiv 2605.18754);
docs/evaluation.md has what ours make of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh

NOISE = 0.05
"""Standard deviation of the noise, of colours in [0, 1]."""

STRAY_DEG = 15.0
"""How far a front that is drawn on every side strays from the front."""

UNIT = 64
"""Shifts are counted in pixels of pictures of this size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """An object whose truth is known, and two others."""

    draw: Callable[[Cameras], Float[Tensor, "v 3 h w"]]
    """Draws the object, sRGB in [0, 1] on a plain ground."""

    other: Callable[[Cameras], Float[Tensor, "v 3 h w"]]
    """Draws something else."""

    alike: Callable[[Cameras], Float[Tensor, "v 3 h w"]] | None = None
    """Draws another object of the same kind and colours, if there is one."""

    janus: Callable[[Cameras], Float[Tensor, "v 3 h w"]] | None = None
    """Draws the object with its front on every side (`with_fronts`): what is called Janus, and agrees with itself."""

    cameras: Cameras
    """The views, three or more."""

    seed: int = 0
    """Decides which view is damaged, and every random number."""


def damaged(subject: Subject) -> dict[str, Float[Tensor, "v 3 h w"]]:
    """Return true views, and the same with each kind of damage, by its name.

    Raises:
        InputError: fewer than three cameras.
    """
    cameras = subject.cameras
    n = len(cameras)
    if n < 3:
        raise InputError(f"`cameras` must be three or more; got {n}.")
    true, other = subject.draw(cameras), subject.other(cameras)
    generator = torch.Generator().manual_seed(subject.seed)
    view, beside = subject.seed % n, (subject.seed + 1) % n
    unit = true.shape[-1] / UNIT

    def noise(strength: float) -> Tensor:
        return strength * torch.randn(true.shape, generator=generator).to(true)

    def replaced(picture: Tensor) -> Tensor:
        return torch.stack([picture if i == view else old for i, old in enumerate(true)])

    patched = true[view].clone()
    low, high = true.shape[-1] // 3, 2 * true.shape[-1] // 3
    patched[:, low:high, low:high] = other[view][:, low:high, low:high]
    exchanged = true.clone()
    exchanged[[view, beside]] = true[[beside, view]]
    front = true[:1].expand_as(true)
    found = {
        "true": true,
        "true, blurred": avg_pool2d(true, 3, stride=1, padding=1, count_include_pad=False),
        "noise in every view": (true + noise(NOISE)).clamp(0, 1),
        "one view of another object": replaced(other[view]),
        "one view in other colours": replaced(true[view][[1, 2, 0]]),
        "one view half of another object's": replaced((true[view] + other[view]) / 2),
        "a patch of another object in one view": replaced(patched),
        "one view mirrored": replaced(true[view].flip(-1)),
        "one view turned by 30 degrees": replaced(subject.draw(turned(cameras, azimuth_deg=30.0))[view]),
        "one view turned by 15 degrees": replaced(subject.draw(turned(cameras, azimuth_deg=15.0))[view]),
        "one view is its neighbour": replaced(true[beside]),
        "two neighbours exchanged": exchanged,
        "the front on every side": front.clone(),
        "the front on every side, with noise": (front + noise(NOISE)).clamp(0, 1),
        "the front on every side, turned a little": subject.draw(_strayed(cameras, generator)),
        "every view half of another object's": (true + other) / 2,
    }
    for pixels in (1, 2, 4, 8):
        shift = round(pixels * unit)
        found[f"one view moved by {pixels}/{UNIT}"] = replaced(true[view].roll(shift, dims=-1))
    if subject.alike is not None:
        alike = subject.alike(cameras)
        half = torch.arange(n, device=true.device).remainder(2).bool()[:, None, None, None]
        found["one view of a look-alike"] = replaced(alike[view])
        found["every other view of a look-alike"] = torch.where(half, alike, true)
    if subject.janus is not None:
        found["an object with a front on every side"] = subject.janus(cameras)
    return found


def turned(cameras: Cameras, *, azimuth_deg: float) -> Cameras:
    """Return cameras moved about the vertical axis through the origin."""
    turn = _about_z(azimuth_deg).to(cameras.world_from_camera)
    return replace(cameras, world_from_camera=turn @ cameras.world_from_camera)


def _strayed(cameras: Cameras, generator: torch.Generator) -> Cameras:
    """Return as many cameras near the first one."""
    stray = (2 * torch.rand(len(cameras), generator=generator) - 1) * STRAY_DEG
    each = [turned(cameras[0], azimuth_deg=float(angle)).world_from_camera for angle in stray]
    return replace(cameras, world_from_camera=torch.cat(each))


def with_fronts(mesh: Mesh, *, n: int = 4) -> Mesh:
    """Return `n` copies of a mesh in one another, each turned on about the vertical axis: its front is on every side.

    Args:
        mesh: around the origin, z up.
    """
    return Mesh.cat([mesh.transform(_about_z(360.0 * k / n).to(mesh.vertices)) for k in range(n)])


def _about_z(angle_deg: float) -> Float[Tensor, "4 4"]:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def area_under_curve(true: Float[Tensor, "t"], damaged: Float[Tensor, "d"]) -> float:
    """Return how often a true score lies above a damaged one, 0 to 1; ties count half: 0.5 is a coin, 1 is perfect."""
    gap = true[:, None] - damaged[None]
    return float((gap > 0).double().mean() + 0.5 * (gap == 0).double().mean())
