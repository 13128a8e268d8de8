"""3D Gaussians as cameras see them: 2D Gaussians on the picture, with a depth and a colour.

EWA splatting with a local affine approximation of the projection (Zwicker et al. 2001; Kerbl et al. 2023, equation 5):

    Sigma' = J W Sigma W^T J^T + 0.3 I                          in pixels^2

The last term makes each at least as wide as a pixel's filter, as released; opacity is not lowered for it.  Knows
pictures' sizes, and nothing of how Gaussians are composited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.scene.gaussian.cloud import Gaussians

LOW_PASS = 0.3
"""Pixels^2 that are added to each variance, as released."""

NEAR = 0.01
"""Gaussians whose middle is nearer to the camera's plane than this, or behind it, are not drawn; in world units."""

LEAST_ALPHA, MOST_ALPHA = 1 / 255, 0.99
"""A Gaussian that absorbs less at a pixel is left out there, and none absorbs more, as released."""

GUARD = 1.3
"""J is taken no further outside than this multiple of the frame's half width, as released: beyond, it stretches what
hardly shows without bound."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Splats:
    """2D Gaussians of each view, not sorted."""

    center: Float[Tensor, "v g 2"]
    """In pixels, x to the right and y down; the middle of the top left pixel is (0.5, 0.5)."""

    conic: Float[Tensor, "v g 3"]
    """(a, b, c) of the inverse covariance [[a, b], [b, c]], per pixel^2."""

    log_opacity: Float[Tensor, "g"]

    features: Float[Tensor, "v g d"]
    """What is composited; see `features`."""

    reach: Float[Tensor, "v g 2"]
    """Half width and height in pixels of the box in which it absorbs `LEAST_ALPHA` or more."""

    visible: Bool[Tensor, "v g"]
    """Whether it is in front of the camera, finite, and absorbs that much anywhere; it may be outside the frame."""


def project(gaussians: Gaussians, cameras: Cameras, *, size: int, normals: bool = False) -> Splats:
    """Project a cloud into square pictures; differentiable in all of its numbers."""
    mean = gaussians.mean
    pose = cameras.world_from_camera.to(mean.dtype)
    right, up, back = pose[:, None, :3, :3].unbind(dim=-1)
    down, away = -up, -back
    relative = mean - pose[:, None, :3, 3]
    x, y, depth = ((relative * axis).sum(dim=-1) for axis in (right, down, away))
    half = (cameras.fov_deg.to(mean.dtype).deg2rad() / 2).tan()[:, None]
    z = depth.clamp_min(NEAR)
    focal = size / (2 * half)
    center = torch.stack([focal * x / z + size / 2, focal * y / z + size / 2], dim=-1)

    # the rows of J W, and of the root in Sigma' = root root^T + 0.3 I
    seen_x, seen_y = ((axis / z).clamp(-GUARD * half, GUARD * half)[..., None] for axis in (x, y))
    rows = (focal / z)[..., None, None] * torch.stack([right - seen_x * away, down - seen_y * away], dim=-2)
    root = gaussians.axes() * gaussians.log_scale.exp()[:, None]
    across, along = torch.einsum("vgri,gij->vgrj", rows, root).unbind(dim=-2)
    xx, xy, yy = across.square().sum(-1), (across * along).sum(-1), along.square().sum(-1)
    # |across x along|^2 is xx yy - xy^2 without the cancellation that makes a long needle's negative
    area = torch.linalg.cross(across, along).square().sum(-1) + LOW_PASS * (xx + yy) + LOW_PASS**2
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    conic = torch.stack([yy / area, -xy / area, xx / area], dim=-1)

    log_opacity = functional.logsigmoid(gaussians.opacity_logit)
    log_ratio = log_opacity.detach() - math.log(LEAST_ALPHA)
    reach = (2 * log_ratio.clamp_min(0)[None, :, None] * torch.stack([xx, yy], dim=-1).detach()).sqrt()
    finite = (center.sum(-1) + conic.sum(-1) + reach.sum(-1)).isfinite()
    visible = (depth > NEAR) & (log_ratio > 0) & finite

    return Splats(
        center=center,
        conic=conic,
        log_opacity=log_opacity,
        features=features(gaussians, cameras, normals=normals),
        reach=reach,
        visible=visible.detach(),
    )


def features(gaussians: Gaussians, cameras: Cameras, *, normals: bool = False) -> Float[Tensor, "v g d"]:
    """Return what each camera sees of each Gaussian: colour (3), depth along the camera's axis (1), perhaps normal (3).

    The normal is the shortest of its axes, in the world, turned towards the camera.
    """
    pose = cameras.world_from_camera.to(gaussians.mean)
    relative = gaussians.mean - pose[:, None, :3, 3]
    directions = functional.normalize(relative, dim=-1)
    seen = [gaussians.color(directions), -(relative @ pose[:, :3, 2, None])]
    if normals:
        shortest = gaussians.log_scale.argmin(dim=-1)
        normal = gaussians.axes().gather(2, shortest[:, None, None].expand(-1, 3, 1))[None, :, :, 0]
        away = (normal * directions).sum(dim=-1, keepdim=True) > 0
        seen.append(torch.where(away, -normal, normal))
    return torch.cat(seen, dim=-1)
