"""Meshes to and from trimesh, which reads and writes files.

glTF and OBJ files are y up and face +z; `load_mesh` and `to_trimesh` turn between that and our frame.  Our colours are
sRGB; glTF's factors and vertex colours are linear and are converted likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from viewfold.errors import AssetError
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import open_scene

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
            visual: Any = ColorVisuals(vertex_colors=_bytes(color * base * _texels(material, uv)))
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


def _bytes(color: np.ndarray) -> np.ndarray:
    rgb = np.clip(np.rint(color * 255), 0, 255).astype(np.uint8)
    return np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], axis=1)


def linear_from_srgb(color: np.ndarray) -> np.ndarray:
    """Decode sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((np.maximum(color, 0) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(color: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB (IEC 61966-2-1)."""
    return np.where(
        color <= 0.0031308,
        color * 12.92,
        1.055 * np.maximum(color, 0) ** (1 / 2.4) - 0.055,
    )


def load_mesh(path: str | Path) -> Mesh:
    """Read a GLB, OBJ or PLY file; every material stays a material (see the module for frames and colours).

    Raises:
        AssetError: the file is missing, damaged, empty, too large, or refers to something outside of its folder.
    """
    path = Path(path)
    scene = open_scene(path)
    suffix = path.suffix.lower()
    try:
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            if len(getattr(scene.geometry[name], "faces", ())):
                part = _from_trimesh(scene.geometry[name], is_linear=suffix == ".glb")
                parts.append(part.transform(torch.tensor(np.array(matrix), dtype=torch.float32)))
        mesh = Mesh.cat(parts)
        return mesh if suffix == ".ply" else mesh.transform(torch.tensor(_Y_UP_FROM_Z_UP.T, dtype=torch.float32))
    except Exception as error:
        raise AssetError(f"`{path}` cannot be used: {str(error)[:300]} Export it again.") from error


def _from_trimesh(part: Any, *, is_linear: bool) -> Mesh:
    visual, vertices, faces = part.visual, np.asarray(part.vertices), np.asarray(part.faces)
    decode = srgb_from_linear if is_linear else np.asarray
    material, uv, color = Material(), None, None
    if visual.kind == "texture":
        material = _read_material(visual.material, decode)
        uv = None if visual.uv is None or len(visual.uv) != len(vertices) else np.asarray(visual.uv)[:, :2]
        color = visual.vertex_attributes.get("color")
    elif visual.kind == "vertex":
        color = visual.vertex_colors
    elif visual.kind == "face":
        color = np.repeat(visual.face_colors, 3, axis=0)
        vertices, faces = vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3)
    if color is not None:
        color = np.asarray(color)[:, :3]
        color = color / np.iinfo(color.dtype).max if color.dtype.kind in "ui" else np.clip(color, 0, 1)
        color = torch.tensor(decode(color), dtype=torch.float32)
    return Mesh(
        vertices=torch.tensor(vertices, dtype=torch.float32),
        faces=torch.tensor(faces, dtype=torch.int64),
        vertex_color=color,
        uv=None if uv is None else torch.tensor(uv, dtype=torch.float32).nan_to_num(0.0, 0.0, 0.0),
        materials=(material,),
    )


def _read_material(source: Any, decode: Callable[[np.ndarray], np.ndarray]) -> Material:
    pbr = hasattr(source, "baseColorFactor")
    factor, image = (
        (source.baseColorFactor, source.baseColorTexture) if pbr else (source.diffuse, getattr(source, "image", None))
    )
    # An MTL file with a texture often says black or grey beside it; readers show the texture as it is.
    plain = factor is None or (image is not None and not pbr)
    red, green, blue = (1.0, 1.0, 1.0) if plain else decode(np.asarray(factor)[:3] / 255.0).tolist()
    roughness, metallic = (getattr(source, name, None) for name in ("roughnessFactor", "metallicFactor"))
    return Material(
        color=(red, green, blue),
        texture=None if image is None else Texture(image=torch.tensor(np.asarray(image.convert("RGB"))).float() / 255),
        roughness=0.8 if roughness is None else float(roughness),
        metallic=0.0 if metallic is None else float(metallic),
    )
