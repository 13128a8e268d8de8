"""Where other views see the points along the rays of one: the walk that every comparison of views begins with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import OBJECT_RADIUS, Cameras

SAMPLES = 48
"""Points on a ray through the sphere of the object, 1.1 pixels apart at 64 pixels."""

REACH = 1.1
"""The sphere searched, in radii of the object's."""

SPACING = 2 * REACH * OBJECT_RADIUS / (SAMPLES - 1)
"""Distance of two points on a ray."""


def project_rays(
    cameras: Cameras, origin: Float[Tensor, "r 3"], direction: Float[Tensor, "r 3"]
) -> Float[Tensor, "u r s 2"]:
    """Return where `u` cameras see `SAMPLES` points along rays, near to far, as `grid_sample` takes places."""
    middle = -(origin * direction).sum(-1, keepdim=True)
    along = middle + REACH * OBJECT_RADIUS * torch.linspace(-1, 1, SAMPLES, device=origin.device)
    points = origin[:, None] + along[..., None] * direction[:, None]
    where, _ = cameras.project(points.flatten(0, 1))
    return torch.stack([where[..., 0], -where[..., 1]], dim=-1).unflatten(1, points.shape[:2])
