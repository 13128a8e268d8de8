"""Normal maps: the shape of a fine mesh as a picture on a coarse one, in its tangent space (glTF 2.0, section 3.9.3).

    n = r T + g B + b N,   (r, g, b) = 2 texel - 1,   B = sign x (N x T)

with N the shading normal, T along +u and B along +v, which is up in the picture: viewers light the fine shape without
its triangles.  The tangents are written into the file, so that they are these and no viewer's own.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from viewfold.scene.material import Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.texture import Texels
from viewfold.scene.vertex import split_normals, tangents

NEAREST = 6
"""Vertices of the fine mesh about a texel whose normals are averaged."""

SAME_SIDE = 0.3
"""Least cosine between them and the coarse normal: the other side of a thin wall says nothing of this one."""

STEEPEST = 0.2
"""Least share of the coarse normal in a fine one, which must not look into the surface."""


def bake_relief(texels: Texels, fine: Mesh) -> Texture:
    """Return the normal map that makes the texels' mesh look like a finer one of the same shape."""
    frame = torch.stack(_frame(texels), dim=-1)
    local = torch.linalg.solve(frame, fine_normals(texels, fine)[..., None])[..., 0]
    local = normalize(torch.cat([local[:, :2], local[:, 2:].clamp_min(STEEPEST)], dim=-1), dim=-1)
    return Texture(image=texels.picture((local + 1) / 2))


def fine_normals(texels: Texels, fine: Mesh) -> Float[Tensor, "p 3"]:
    """Return the unit normal of the finer mesh next to each texel, in the world; the texel's own where there is none.

    A mean over its NEAREST vertices that face the same side, weighted by exp(-d^2 / (2 r^2)) with r the distance of the
    third of them.
    """
    from scipy.spatial import KDTree

    area = torch.zeros_like(fine.vertices).index_add(
        0, fine.faces.flatten(), (fine.face_normals() * _areas(fine)).repeat_interleave(3, dim=0)
    )
    points, near = fine.vertices.double().cpu().numpy(), min(NEAREST, len(fine.vertices))
    distance, index = KDTree(points).query(texels.points.double().cpu().numpy(), k=near)
    shape = (len(texels.points), near)
    apart = torch.from_numpy(np.asarray(distance).reshape(shape)).to(texels.points)
    found = normalize(area, dim=-1)[torch.from_numpy(np.asarray(index).reshape(shape)).to(fine.faces.device)]
    width = apart[:, min(2, near - 1), None].clamp_min(1e-9)
    weight = torch.exp(-apart.square() / (2 * width.square()))
    weight = weight * ((found * texels.normals[:, None]).sum(-1) > SAME_SIDE)
    mean = (weight[..., None] * found).sum(1)
    return normalize(torch.where(mean.norm(dim=-1, keepdim=True) > 1e-6, mean, texels.normals), dim=-1)


def _frame(texels: Texels) -> tuple[Tensor, Tensor, Tensor]:
    """Return tangent, bitangent and normal at each texel, as a viewer interpolates those that the file holds."""
    split, normals = split_normals(texels.mesh)
    tangent = tangents(split, normals)
    corner = split.faces[texels.face]
    normal = normalize((normals[corner] * texels.weight[..., None]).sum(1), dim=-1)
    mixed = (tangent[corner] * texels.weight[..., None]).sum(1)
    along = normalize(mixed[:, :3], dim=-1)
    up = normalize(torch.linalg.cross(normal, along), dim=-1)
    return along, torch.where(mixed[:, 3:] < 0, -up, up), normal


def _areas(mesh: Mesh) -> Float[Tensor, "f 1"]:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1, keepdim=True)
