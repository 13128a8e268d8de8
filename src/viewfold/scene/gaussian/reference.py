"""The slow rasteriser of 3D Gaussians that is obviously right: every Gaussian at every pixel, one after the other.

What scene/gaussian/tiles.py is held to; it shares no code of projection or compositing with it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.gaussian.projection import GUARD, LEAST_ALPHA, LOW_PASS, MOST_ALPHA, NEAR
from viewfold.scene.gaussian.tiles import as_rendering
from viewfold.scene.rendering import Rendering


def draw_slowly(gaussians: Gaussians, cameras: Cameras, *, size: int, normals: bool = False) -> Rendering:
    """Draw a cloud as `draw_gaussians` does; differentiable, in the time and memory of Gaussians times pixels."""
    pictures = []
    for pose, fov_deg in zip(cameras.world_from_camera.to(gaussians.mean), cameras.fov_deg, strict=True):
        half = torch.tan(torch.deg2rad(fov_deg.to(gaussians.mean)) / 2)
        pictures.append(_view(gaussians, pose, half, size=size, normals=normals))
    return as_rendering(torch.stack(pictures))


def _view(
    gaussians: Gaussians, pose: Float[Tensor, "4 4"], half: Float[Tensor, ""], *, size: int, normals: bool
) -> Float[Tensor, "d h w"]:
    at = (torch.arange(size, device=pose.device).to(pose) + 0.5)[None].expand(size, size)
    pixels = torch.stack([at, at.T], dim=-1)
    camera_from_world = torch.linalg.inv(pose)
    covariances, axes, opacities = gaussians.covariance(), gaussians.axes(), gaussians.opacity()
    passed = pixels.new_ones(size, size)
    drawn = pixels.new_zeros(8 if normals else 5, size, size)
    focal = size / 2 / half
    depths = -(gaussians.mean @ camera_from_world[2, :3] + camera_from_world[2, 3])
    for i in depths.argsort(stable=True).tolist():
        x, y, z = (camera_from_world[:3, :3] @ gaussians.mean[i] + camera_from_world[:3, 3]).unbind()
        x, y, z = x, -y, -z  # to the right, down, forward
        if not float(z.detach()) > NEAR:
            continue
        middle = torch.stack([focal * x / z, focal * y / z]) + size / 2
        x, y = ((axis / z).clamp(-GUARD * half, GUARD * half) * z for axis in (x, y))
        nothing = torch.zeros_like(z)
        jacobian = torch.stack(
            [
                torch.stack([focal / z, nothing, -focal * x / z**2]),
                torch.stack([nothing, focal / z, -focal * y / z**2]),
            ]
        )
        turn = torch.diag(pose.new_tensor([1.0, -1.0, -1.0])) @ camera_from_world[:3, :3]
        covariance = jacobian @ turn @ covariances[i] @ turn.T @ jacobian.T + LOW_PASS * torch.eye(2).to(pose)
        away = pixels - middle
        squared = torch.einsum("hwi,ij,hwj->hw", away, torch.linalg.inv(covariance), away)
        alpha = opacities[i] * torch.exp(-squared / 2)
        alpha = torch.where(alpha < LEAST_ALPHA, torch.zeros_like(alpha), alpha.clamp(max=MOST_ALPHA))
        direction = torch.nn.functional.normalize(gaussians.mean[i] - pose[:3, 3], dim=0)
        features = [gaussians[torch.tensor([i])].color(direction[None, None])[0, 0], z[None]]
        if normals:
            normal = axes[i][:, int(gaussians.log_scale[i].argmin())]
            features.append(-normal if float((normal @ direction).detach()) > 0 else normal)
        channels = torch.cat([*features, torch.ones_like(z)[None]])
        drawn = drawn + channels[:, None, None] * (passed * alpha)
        passed = passed * (1 - alpha)
    return drawn
