"""Lenses of other people's cameras, and pictures taken through them drawn again as our pinhole cameras would see them.

Beside `transforms`, which reads them.  Pixel coordinates are COLMAP's and nerfstudio's: (0, 0) is the corner of the
first pixel, (0.5, 0.5) its centre.  Rays are (x right, y down, 1 ahead), as OpenCV has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

WIDEST = math.tan(math.radians(60))
"""A pinhole picture shows at most 120 degrees; what a fisheye saw beyond is left out."""

_EXACT = 1e-6
"""Share of the picture's width by which a lens may miss ours and still be taken for it."""


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A camera's inner geometry, OpenCV's model or its fisheye model, in pixels of a picture of `width` x `height`.

    With r^2 = x^2 + y^2, "radial" gives

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2),   y' likewise with p1 and p2 exchanged

    and "fisheye", with theta = atan(r), (x', y') = (x, y) theta (1 + k1 theta^2 + ... + k4 theta^8) / r.
    The pixel is (fl_x x' + cx, fl_y y' + cy).
    """

    width: int
    height: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    model: Literal["radial", "fisheye"] = "radial"
    k: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    p: tuple[float, float] = (0.0, 0.0)

    @property
    def is_ours(self) -> bool:
        """Whether the picture can be taken as it is: square, one focal length, axis in the middle, no distortion."""
        off = max(abs(self.fl_x - self.fl_y), abs(self.cx - self.width / 2), abs(self.cy - self.height / 2))
        plain = self.model == "radial" and not any((*self.k, *self.p))
        return plain and self.width == self.height and off <= _EXACT * self.width

    @property
    def fov_deg(self) -> float:
        """The field of view across, of a lens that `is_ours`."""
        return math.degrees(2 * math.atan(0.5 * self.width / self.fl_x))

    @property
    def framed(self) -> float:
        """The tangent of half the field of view across the shorter side, distortion left aside."""
        return min(self.width / self.fl_x, self.height / self.fl_y) / 2

    def of_size(self, width: int, height: int) -> Lens:
        """Return the lens in pixels of the same picture, enlarged or reduced."""
        x, y = width / self.width, height / self.height
        return replace(
            self, width=width, height=height,
            fl_x=self.fl_x * x, fl_y=self.fl_y * y, cx=self.cx * x, cy=self.cy * y,
        )  # fmt: skip

    def project(self, rays: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Return the pixels of rays (x, y, 1)."""
        x, y = rays[..., 0], rays[..., 1]
        r2 = x * x + y * y
        if self.model == "fisheye":
            r = np.sqrt(r2)
            theta = np.arctan(r)
            factor = np.where(r > 1e-9, _bent(theta, self.k) / np.maximum(r, 1e-9), 1.0)
            bent = x * factor, y * factor
        else:
            k1, k2, k3, _ = self.k
            (p1, p2), factor = self.p, 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            bent = (
                x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            )
        return np.stack([self.fl_x * bent[0] + self.cx, self.fl_y * bent[1] + self.cy], axis=-1)

    def reach(self) -> float:
        """Return the tangent of the angle from the axis up to which the model is one to one; beyond, it folds back."""
        if self.model == "fisheye":
            angles = np.linspace(0, math.atan(2 * WIDEST), 4096)
            return float(np.tan(_rising(angles, _bent(angles, self.k))))
        radii = np.linspace(0, 2 * WIDEST, 4096)
        k1, k2, k3, _ = self.k
        return _rising(radii, radii * (1 + radii**2 * (k1 + radii**2 * (k2 + radii**2 * k3))))

    def half_width(self) -> float:
        """Return the tangent of half the field of view of a square pinhole picture that shows all that this one does.

        What lies further out than `reach` is not among it.
        """
        rim = np.concatenate([_edge(self.width, self.height), _edge(self.height, self.width)[:, ::-1]])
        rays = self.unproject(rim)
        return float(min(np.abs(rays).max(), WIDEST, max(self.reach(), 1e-3)))

    def unproject(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return the rays (x, y) of pixels, by Newton's method; those beyond `reach` end there."""
        target = (pixels - [self.cx, self.cy]) / [self.fl_x, self.fl_y]
        reach, step = self.reach(), 1e-6
        rays = _within(target, reach)
        for _ in range(50):
            miss = self._bend(rays) - target
            across = (self._bend(rays + [step, 0]) - self._bend(rays - [step, 0])) / (2 * step)
            down = (self._bend(rays + [0, step]) - self._bend(rays - [0, step])) / (2 * step)
            det = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
            det = np.where(np.abs(det) < 1e-9, 1e-9, det)
            by = np.stack([miss[:, 0] * down[:, 1] - miss[:, 1] * down[:, 0],
                           miss[:, 1] * across[:, 0] - miss[:, 0] * across[:, 1]], axis=-1) / det[:, None]  # fmt: skip
            rays = _within(rays - np.clip(by, -0.3, 0.3), reach)
        return rays

    def _bend(self, rays: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return (self.project(rays) - [self.cx, self.cy]) / [self.fl_x, self.fl_y]


def square_up(picture: Float[Tensor, "c h w"], lens: Lens, *, half: float, size: int) -> Float[Tensor, "c size size"]:
    """Draw a picture again as a square pinhole camera in its place sees it, with its axis in the middle.

    Args:
        half: tangent of half the field of view of the new picture.
        size: its pixels across and down.

    Where the lens saw nothing an alpha is zero; a picture without alpha goes on there as it ends at its edge, so that a
    plain ground stays plain.
    """
    middle = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(middle * half, middle * half)
    at = lens.project(_within(np.stack([x, y], axis=-1).reshape(-1, 2), lens.reach())).reshape(size, size, 2)
    grid = torch.from_numpy(at / [lens.width, lens.height] * 2 - 1).float()[None]
    if len(picture) == 3:
        return _sampled(picture, grid, "border").clamp(0, 1)
    premultiplied = torch.cat([picture[:3] * picture[3:], picture[3:]])
    found = _sampled(premultiplied, grid, "zeros").clamp(0, 1)
    inside = (np.hypot(x, y) <= lens.reach() * (1 + 1e-9)).astype(np.float32)
    return torch.cat([(found[:3] / found[3:].clamp_min(1e-6)).clamp(0, 1), found[3:] * torch.from_numpy(inside)])


def _sampled(picture: Tensor, grid: Tensor, padding: str) -> Tensor:
    return torch.nn.functional.grid_sample(picture[None], grid, align_corners=False, padding_mode=padding)[0]


def _bent(theta: np.ndarray, k: tuple[float, float, float, float]) -> np.ndarray:
    t2 = theta * theta
    return theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))


def _rising(at: np.ndarray, values: np.ndarray) -> float:
    """Return the place up to which values rise, which is never beyond what a picture shows."""
    falls = np.flatnonzero(np.diff(values) <= 0)
    return float(at[falls[0]] if len(falls) else at[-1])


def _within(rays: Float[np.ndarray, "n 2"], reach: float) -> Float[np.ndarray, "n 2"]:
    radius = np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-12)
    return rays * np.minimum(1.0, reach / radius)


def _edge(along: int, across: int) -> Float[np.ndarray, "n 2"]:
    """Return points on the two sides of a picture that run along its first axis."""
    places = np.linspace(0, along, 65)
    return np.concatenate([np.stack([places, np.full(65, float(side))], axis=-1) for side in (0, across)])
