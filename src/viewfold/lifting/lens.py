"""Estimate an unknown field of view from silhouettes.

Knows coverage and cameras, no colours.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras, framing_distance
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.hull import visual_hull
from viewfold.views import Views


def estimate_cameras(
    views: Views,
    foreground: Foreground,
    *,
    fovs_deg: tuple[float, ...] = (15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0),
    resolution: int = 40,
) -> Cameras:
    """Return the views' cameras with the shared field of view whose visual hull best fills all silhouettes.

    The field of view is no input of the network: a model that was trained at several samples views of an unknown one.
    Silhouettes leave the scale free; the distance is the one that frames an object of radius 0.5, so that only the
    perspective is searched.
    """
    axis = torch.linspace(-0.6, 0.6, resolution, device=foreground.alpha.device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    best, best_score = views.cameras, -1.0
    for fov in fovs_deg:
        cameras = _with_fov(views.cameras, fov)
        hull = visual_hull(foreground.alpha, cameras, points)
        score = _explained(hull, foreground.alpha, cameras, points)
        if score > best_score:
            best, best_score = cameras, score
    return best


def _with_fov(cameras: Cameras, fov_deg: float) -> Cameras:
    pose = cameras.world_from_camera.clone()
    direction = torch.nn.functional.normalize(pose[:, :3, 3], dim=-1)
    pose[:, :3, 3] = direction * framing_distance(fov_deg)
    return replace(cameras, world_from_camera=pose, fov_deg=torch.full_like(cameras.fov_deg, fov_deg))


def _explained(
    hull: Float[Tensor, "p"], alpha: Float[Tensor, "v 1 h w"], cameras: Cameras, points: Float[Tensor, "p 3"]
) -> float:
    """Return the share of all silhouettes' area that the hull's points project to, at the hull's own coarseness."""
    cells = round(len(points) ** (1 / 3)) * 2 // 3
    coarse = torch.nn.functional.adaptive_avg_pool2d(alpha, cells) > 0.5
    uv, _ = cameras.project(points[hull > 0.5])
    column = ((uv[..., 0] + 1) / 2 * cells).long().clamp(0, cells - 1)
    row = ((1 - uv[..., 1]) / 2 * cells).long().clamp(0, cells - 1)
    hit = torch.zeros(len(cameras), cells * cells, dtype=torch.bool, device=hull.device)
    hit.scatter_(1, row * cells + column, True)
    hit = hit.reshape(len(cameras), 1, cells, cells)
    return float((hit & coarse).sum() / coarse.sum().clamp_min(1))
