"""The soft visual hull of silhouettes, and the colours that views give to points in space.

Plain functions of pictures, cameras and points; a fit's first guess and the search for a field of view use them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from viewfold.camera import Cameras


def visual_hull(alpha: Float[Tensor, "v 1 h w"], cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
    """Return the soft visual hull at each point: the least coverage of any view, min_v alpha_v(project_v(p)).

    Points outside a picture count as outside the object.  Source: Laurentini 1994.
    """
    return sample_pictures(alpha, cameras, points)[..., 0].amin(dim=0)


def sample_pictures(
    pictures: Float[Tensor, "v c h w"], cameras: Cameras, points: Float[Tensor, "p 3"]
) -> Float[Tensor, "v p c"]:
    """Return what each picture holds where world points project to; zero outside of it and behind the camera."""
    uv, depth = cameras.project(points)
    grid = torch.stack([uv[..., 0], -uv[..., 1]], dim=-1)[:, None]
    seen = grid_sample(pictures, grid, align_corners=False, padding_mode="zeros")[:, :, 0].transpose(1, 2)
    return seen * (depth > 0)[..., None]


def facing_color(rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    """Return the views' colours at points, each view weighted by how squarely it faces that side of the object.

    The weight is max(0, camera / |camera| . p / |p|)^4 + 1e-4: a point's side is its direction from the origin.
    """
    colors = sample_pictures(rgb, cameras, points)
    toward = torch.nn.functional.normalize(cameras.position, dim=-1)
    outward = torch.nn.functional.normalize(points, dim=-1)
    weight = torch.einsum("vi,pi->vp", toward, outward).clamp_min(0).pow(4) + 1e-4
    return torch.einsum("vp,vpc->pc", weight / weight.sum(dim=0), colors)
