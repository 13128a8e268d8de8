"""What files keep at vertices: normals, doubled along hard edges; or all of a surface as colours, as a PLY does."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh

_NORMAL_STEPS = 500
"""Corners of a vertex whose normals agree to one part in 500 share one vertex of the file."""


def split_normals(mesh: Mesh) -> tuple[Mesh, Float[Tensor, "k 3"]]:
    """Return the mesh with vertices doubled along hard edges, and the unit normal of each vertex."""
    corner = mesh.normals().reshape(-1, 3)
    corner = torch.where(corner.norm(dim=-1, keepdim=True) > 0.5, corner, corner.new_tensor([0.0, 0.0, 1.0]))
    vertex = mesh.faces.flatten()
    key = torch.cat([vertex[:, None], (corner * _NORMAL_STEPS).round().long()], dim=1)
    unique, index = torch.unique(key, dim=0, return_inverse=True)
    source = unique[:, 0]
    normals = torch.zeros(len(unique), 3).index_add(0, index, corner)
    split = replace(
        mesh,
        vertices=mesh.vertices[source],
        faces=index.reshape(-1, 3),
        vertex_color=None if mesh.vertex_color is None else mesh.vertex_color[source],
        vertex_alpha=None if mesh.vertex_alpha is None else mesh.vertex_alpha[source],
        uv=None if mesh.uv is None else mesh.uv[source],
        emission_uv=None if mesh.emission_uv is None else mesh.emission_uv[source],
    )
    return split, torch.nn.functional.normalize(normals, dim=-1)


def to_vertex_colors(mesh: Mesh) -> Mesh:
    """Return the mesh with one white material; colour, texture, emission and alpha multiplied into its vertices.

    Vertices that several materials share are doubled.
    """
    key = torch.stack([mesh.faces.flatten(), mesh.material_index().repeat_interleave(3)], dim=1)
    unique, index = torch.unique(key, dim=0, return_inverse=True)
    source, material = unique.unbind(1)
    color = torch.tensor([m.color for m in mesh.materials], dtype=torch.float32)[material]
    alpha = torch.tensor([m.opacity for m in mesh.materials], dtype=torch.float32)[material]
    if mesh.vertex_color is not None:
        color = color * mesh.vertex_color[source]
    if mesh.vertex_alpha is not None:
        alpha = alpha * mesh.vertex_alpha[source]
    for number, surface in enumerate(mesh.materials):
        mine = material == number
        if surface.texture is not None and mesh.uv is not None and bool(mine.any()):
            texel = _nearest_texel(surface.texture, mesh.uv[source[mine]])
            color[mine] = color[mine] * texel[:, :3]
            if texel.shape[1] == 4:
                alpha[mine] = alpha[mine] * texel[:, 3]
        if any(surface.emission) and bool(mine.any()):
            glow = torch.tensor([surface.emission])
            uv = mesh.uv if mesh.emission_uv is None else mesh.emission_uv
            if surface.emission_texture is not None and uv is not None:
                glow = glow * _nearest_texel(surface.emission_texture, uv[source[mine]])[:, :3]
            color[mine] = (color[mine] + glow).clamp(max=1)
    opaque = torch.tensor([m.alpha_mode == "opaque" for m in mesh.materials])
    alpha = torch.where(opaque[material], 1.0, alpha)
    masked = torch.tensor([m.alpha_mode == "mask" for m in mesh.materials])
    cutoff = torch.tensor([m.alpha_cutoff for m in mesh.materials])
    alpha = torch.where(masked[material], (alpha >= cutoff[material]).float(), alpha)
    sheer = bool((alpha < 1).any())
    finish = Material(
        roughness=mesh.materials[0].roughness,
        metallic=mesh.materials[0].metallic,
        alpha_mode="blend" if sheer else "opaque",
    )
    return Mesh(
        vertices=mesh.vertices[source],
        faces=index.reshape(-1, 3),
        vertex_color=color,
        vertex_alpha=alpha if sheer else None,
        materials=(finish,),
    )


def _nearest_texel(texture: Texture, uv: Float[Tensor, "p 2"]) -> Float[Tensor, "p c"]:
    uv = torch.where((uv >= 0) & (uv <= 1), uv, uv % 1)
    height, width = texture.image.shape[:2]
    row = ((1 - uv[:, 1]) * height).long().clamp(0, height - 1)
    return texture.image[row, (uv[:, 0] * width).long().clamp(0, width - 1)]


def cut_out(surface: Material) -> Material:
    """Return a material of the mode "mask" with its threshold applied: neither OBJ nor PLY has one."""
    if surface.alpha_mode != "mask":
        return surface
    texture, alpha = surface.texture, torch.tensor(surface.opacity)
    if texture is not None and texture.image.shape[2] == 4:
        there = (alpha * texture.image[..., 3:] >= surface.alpha_cutoff).float()
        texture = replace(texture, image=torch.cat([texture.image[..., :3], there], dim=2))
        return replace(surface, texture=texture, opacity=1.0)
    return replace(surface, opacity=float(alpha >= surface.alpha_cutoff))


def y_up(vectors: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    """Return (x, y, z) -> (x, z, -y): our z up becomes y up, our front -y the front +z."""
    return torch.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], dim=1)
