"""Colours of surface points read off views: which views see a point, what each is worth, and what they say together.

A point is seen where it is no deeper than the mesh itself, drawn from the same camera, and it counts less

    w = cosine^2 x (pixels per length)^2 x steadiness x worth

the more the surface turns away, the fewer pixels a length has, the nearer an outline is (`steadiness`: of the mesh,
where a pixel mixes two surfaces; `worth`: of the picture, where it mixes the object and its ground).  Knows points and
pictures; textures and light are somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d, normalize

from viewfold.camera import Cameras
from viewfold.lifting.observation import Observed
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.texture import fill_unpainted

FACING = 2
"""Power of the cosine between the normal and the direction to the camera."""

GRAZING = 0.15
"""A smaller cosine sees nothing: less than 9 degrees above the surface."""

BIAS = 0.006
"""A point may lie this much deeper than the mesh, in world units, beside what half a sample's slope allows."""

JUMP = 0.02
"""Depths of neighbouring samples bend by more than this, in world units, where one surface ends before another."""

SAMPLES, FEWEST, MOST = 4, 256, 1024
"""The mesh is drawn with this many samples a pixel and axis, and this many in all along each side."""

MARGINS = (0.5, 1.0, 1.5)
"""Distances from a jump, in pixels of the views; a third of the steadiness is lost within each."""

FAINT = 0.02
"""What is left of the weight of a pixel in the margin: better than nothing, if no other view is there."""

TOLERANCE = 0.1
"""Colours that differ from what all say by more than this (Euclidean, sRGB) count less than half."""

ROUNDS = 4
"""Rounds of reweighting."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """What views show at points."""

    color: Float[Tensor, "v p 3"]
    """sRGB."""

    weight: Float[Tensor, "v p"]
    """0 where a view does not see the point; about 1 where it looks at it squarely."""

    to_eye: Float[Tensor, "v p 3"]
    """Unit, from the points to the cameras."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookout:
    """Views of a mesh, with what each of their pixels is worth."""

    pictures: Float[Tensor, "v 3 h w"]
    """The object's own colour, continued beyond its outline."""

    worth: Float[Tensor, "v 1 h w"]
    depth: Float[Tensor, "v 1 r r"]
    """Of the mesh; 0 where it is not."""

    steadiness: Float[Tensor, "v 1 r r"]
    cameras: Cameras

    @classmethod
    def of(cls, observed: Observed, mesh: Mesh) -> Lookout:
        """Draw the mesh from the views' cameras; all of it lies where the mesh does."""
        device = mesh.vertices.device
        views, foreground = observed.views.to(device), observed.foreground
        cameras, size = views.cameras, views.rgb.shape[-1]
        n_samples = max(FEWEST, min(MOST, SAMPLES * size))
        depth = rasterize(mesh, cameras, size=n_samples, supersample=1, light=None).depth
        alpha, certainty = foreground.alpha.to(device), foreground.certainty.to(device)
        pictures = _own_color(observed.opaque().to(device), alpha, foreground.background.to(device))
        inside = -max_pool2d(-alpha, 3, stride=1, padding=1)
        steadiness = _steadiness(depth, pixel=n_samples / size)
        return cls(pictures=pictures, worth=certainty * inside, depth=depth, steadiness=steadiness, cameras=cameras)

    def look(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Sightings:
        """Return what each view shows at points of the surface with these unit normals."""
        at, depth = self.cameras.project(points)
        grid = torch.stack([at[..., 0], -at[..., 1]], dim=-1)[:, None]
        to_eye = normalize(self.cameras.position[:, None] - points, dim=-1)
        cosine = (to_eye * normals).sum(-1)
        length = 2 * depth * (self.cameras.fov_deg.deg2rad() / 2).tan()[:, None]  # across the picture, at this depth
        slope = (1 - cosine.square()).clamp_min(0).sqrt() / cosine.clamp_min(GRAZING)
        nearest = _read(self.depth, grid, mode="nearest")
        hidden = depth > nearest + BIAS + slope * length / self.depth.shape[-1]
        seen = ~hidden & (nearest > 0) & (cosine > GRAZING) & (depth > 0)
        sure = _read(self.steadiness, grid) * _read(self.worth, grid)
        weight = seen * cosine.clamp_min(0).pow(FACING) * length.clamp_min(1e-6).pow(-2) * (FAINT + (1 - FAINT) * sure)
        color = grid_sample(self.pictures, grid, align_corners=False, padding_mode="border")[:, :, 0].transpose(1, 2)
        return Sightings(color=color, weight=weight, to_eye=to_eye)


def agree(color: Float[Tensor, "v p 3"], weight: Float[Tensor, "v p"]) -> Float[Tensor, "p 3"]:
    """Return what all views say of each point; views that say something else count less, in whatever order they come.

    It begins with the weighted median of each channel m, and then ROUNDS times (Geman and McClure 1987)

        m <- sum_v u_v c_v / sum_v u_v,   u_v = w_v / (1 + |c_v - m|^2 / TOLERANCE^2)^2

    A point that nobody sees is 0.
    """
    mean = _median(color, weight)
    for _ in range(ROUNDS):
        distance = (color - mean).square().sum(-1)
        robust = weight / (1 + distance / TOLERANCE**2).square()
        mean = (robust[..., None] * color).sum(0) / robust.sum(0).clamp_min(1e-12)[:, None]
    return mean


def _median(color: Float[Tensor, "v p 3"], weight: Float[Tensor, "v p"]) -> Float[Tensor, "p 3"]:
    """Return the weighted median of each channel: the least value that half of the weight does not exceed."""
    value, order = color.sort(dim=0)
    share = weight[..., None].expand_as(color).gather(0, order).cumsum(0)
    first = (share < share[-1:] / 2).sum(0, keepdim=True).clamp_max(len(color) - 1)
    return value.gather(0, first)[0]


def _own_color(
    rgb: Float[Tensor, "v 3 h w"], alpha: Float[Tensor, "v 1 h w"], background: Float[Tensor, "v 3"]
) -> Float[Tensor, "v 3 h w"]:
    """Return pictures without their ground: straight colour, and outside the object that of its nearest pixel."""
    straight = (rgb - (1 - alpha) * background[:, :, None, None]) / alpha.clamp_min(0.5)
    filled = [
        fill_unpainted(picture.permute(1, 2, 0), coverage[0] > 0.5).permute(2, 0, 1)
        for picture, coverage in zip(straight.clamp(0, 1), alpha, strict=True)
    ]
    return torch.stack(filled)


def _steadiness(depth: Float[Tensor, "v 1 r r"], *, pixel: float) -> Float[Tensor, "v 1 r r"]:
    """Return 1 where no jump of the depth is near, and less within `MARGINS` of one.

    A jump is a second difference of more than `JUMP`, across or down; where the mesh is not, depth is 0.
    """
    across, down = (
        torch.nn.functional.pad(depth.diff(n=2, dim=axis).abs(), pad, value=0.0)
        for axis, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1)))
    )
    edge = (torch.maximum(across, down) > JUMP).float()
    near = [_spread(edge, max(1, round(margin * pixel))) for margin in MARGINS]
    return 1 - sum(near[1:], start=near[0]) / len(near)


def _spread(mask: Float[Tensor, "v 1 r r"], radius: int) -> Float[Tensor, "v 1 r r"]:
    """Return the mask widened by `radius` samples, a square: one axis after the other."""
    wide = max_pool2d(mask, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return max_pool2d(wide, (2 * radius + 1, 1), stride=1, padding=(radius, 0))


def _read(values: Float[Tensor, "v 1 h w"], grid: Float[Tensor, "v 1 p 2"], mode: str = "bilinear") -> Tensor:
    return grid_sample(values, grid, mode=mode, align_corners=False)[:, 0, 0]
