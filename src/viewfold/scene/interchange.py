"""Meshes to trimesh, which writes files.

glTF and OBJ files are y up and face +z; `to_trimesh` turns our frame into that, and `meshfile.load_mesh` back.  Our
colours are sRGB; glTF's factors and vertex colours are linear and are converted likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from viewfold.scene.color import linear_from_srgb
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh

if TYPE_CHECKING:
    import trimesh

Convention = Literal["glb", "obj", "ply"]

_Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def to_trimesh(mesh: Mesh, *, convention: Convention = "glb") -> trimesh.Scene:
    """Return a trimesh scene with one geometry per material in use.

    `convention` is the kind of file it is for: "glb" (y up, linear colours), "obj" (y up, sRGB) or "ply" (z up,
    sRGB).
    """
    import trimesh
    from PIL import Image
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import PBRMaterial

    scene = trimesh.Scene()
    index = mesh.material_index()
    for number, material in enumerate(mesh.materials):
        faces = mesh.faces[index == number]
        if not len(faces):
            continue
        used, faces = faces.unique(return_inverse=True)
        color = None if mesh.vertex_color is None else mesh.vertex_color[used].cpu().numpy()
        if convention == "glb":
            base = linear_from_srgb(np.array(material.color))
            color = None if color is None else linear_from_srgb(color)
        else:
            base = np.array(material.color)
        pbr = PBRMaterial(
            name=f"material_{number}",
            baseColorFactor=np.append(base, 1.0),
            roughnessFactor=material.roughness,
            metallicFactor=material.metallic,
            doubleSided=True,
        )
        if material.texture is not None:
            pixels = (material.texture.image.clamp(0, 1) * 255).round().byte().cpu().numpy()
            pbr.baseColorTexture = Image.fromarray(pixels)
        uv = None if mesh.uv is None or material.texture is None else mesh.uv[used].cpu().numpy()
        if convention == "ply" or (color is not None and uv is None):  # PLY knows no materials
            color = np.ones((len(used), 3)) if color is None else color
            visual: Any = ColorVisuals(vertex_colors=_bytes(color * base * _texels(material, uv), mesh, used))
        else:
            visual = TextureVisuals(uv=uv, material=pbr)
        vertices = mesh.vertices[used].cpu().numpy()
        geometry = trimesh.Trimesh(
            vertices=vertices,
            faces=faces.cpu().numpy(),
            visual=visual,
            process=False,
        )
        scene.add_geometry(geometry, node_name=f"part_{number}", geom_name=f"part_{number}")
    if convention != "ply":
        scene.apply_transform(_Y_UP_FROM_Z_UP)
    return scene


def _texels(material: Material, uv: np.ndarray | None) -> np.ndarray:
    """Return the nearest texel of each vertex, 1 without a texture."""
    if material.texture is None or uv is None:
        return np.ones(1)
    height, width = material.texture.image.shape[:2]
    row = np.floor((1 - uv[:, 1]) * height).astype(np.int64) % height
    return material.texture.image[..., :3].cpu().numpy()[row, np.floor(uv[:, 0] * width).astype(np.int64) % width]


def _bytes(color: np.ndarray, mesh: Mesh, used: Tensor) -> np.ndarray:
    rgb = np.clip(np.rint(color * 255), 0, 255).astype(np.uint8)
    alpha = np.full_like(rgb[:, :1], 255)
    if mesh.vertex_alpha is not None:
        alpha = (mesh.vertex_alpha[used].clamp(0, 1) * 255).round().byte().cpu().numpy()[:, None]
    return np.concatenate([rgb, alpha], axis=1)
