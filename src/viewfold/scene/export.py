"""Meshes to files that other programs open: GLB, OBJ with its MTL and pictures, PLY.

Frames.  A GLB is y up and faces +z, as glTF demands, so it stands upright in Blender, Unity and a browser: its root
node holds the rotation (x, y, z) -> (x, z, -y), its vertices are ours.  An OBJ has no rule; importers assume y up and
-z forward, so its vertices are turned the same way.  A PLY keeps our frame: z up, front towards -y.  `load_mesh`
undoes it.

Colours are sRGB here; glTF's factors and vertex colours are linear, so `to_trimesh` converts them for a GLB.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.label import UNLABELLED, Label, software
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.store import atomic_write

_NORMAL_STEPS = 500
"""Corners of a vertex whose normals agree to one part in 500 share one vertex of the file."""

_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
"""glTF's names for what a buffer view holds: vertices, indices."""


def save_mesh(mesh: Mesh, path: str | Path, *, label: Label = UNLABELLED) -> Path:
    """Write a mesh as .glb, .obj or .ply, by the suffix; whole or not at all.

    Shading normals are written, with hard edges where `Mesh.normals` sees a crease.  An OBJ comes with NAME.mtl and
    NAME_0.png ... beside it, written first; without them if all of its colour is at the vertices.  A PLY holds no
    picture: a texture becomes colours of the vertices.  What `label` says goes into the file's own fields.

    Raises:
        InputError: another suffix, or a mesh without faces.
        OutputError: the place cannot be written or the disk is full.
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise InputError(f"`path` must end in {', '.join(_WRITERS)}; got {path.name!r}. Choose one of these kinds.")
    if not len(mesh.faces):
        raise InputError("`mesh` must have at least one face to be saved; it is empty.")
    write(mesh.to("cpu"), path, label)
    return path


def _save_glb(mesh: Mesh, path: Path, label: Label) -> None:
    from trimesh.exchange.gltf import export_glb

    mesh, normals = split_normals(mesh)
    scene = to_trimesh(mesh, convention="glb")
    material = mesh.material_index()
    for number in material.unique().tolist():
        used = mesh.faces[material == number].unique()
        scene.geometry[f"part_{number}"].vertex_normals = normals[used].numpy()

    def finish(tree: dict[str, Any]) -> None:
        tree["asset"].update({"generator": software(), **label.glb_asset()})
        for part in tree["meshes"]:
            for primitive in part["primitives"]:
                # Without a material a primitive counts as polished metal; vertex colours come without one.
                if "material" not in primitive:
                    source = mesh.materials[int(part["name"].removeprefix("part_"))]
                    pbr = {"metallicFactor": source.metallic, "roughnessFactor": source.roughness}
                    tree.setdefault("materials", []).append({"pbrMetallicRoughness": pbr, "doubleSided": True})
                    primitive["material"] = len(tree["materials"]) - 1
                for accessor in primitive["attributes"].values():
                    tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = _ARRAY_BUFFER
                indices = tree["accessors"][primitive["indices"]]["bufferView"]
                tree["bufferViews"][indices]["target"] = _ELEMENT_ARRAY_BUFFER

    data = export_glb(scene, include_normals=True, tree_postprocessor=finish)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _save_obj(mesh: Mesh, path: Path, label: Label) -> None:
    has_library = mesh.vertex_color is None or any(m.texture is not None for m in mesh.materials)
    mesh, normals = split_normals(mesh if has_library else to_vertex_colors(mesh))
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    material = mesh.material_index()
    library = []
    for number, surface in enumerate(mesh.materials):
        library += [f"newmtl {stem}_{number}", f"Kd {_row(surface.color)}", "Ks 0 0 0", "illum 1"]
        library += [f"Pr {surface.roughness:g}", f"Pm {surface.metallic:g}"]
        if surface.texture is not None:
            library.append(f"map_Kd {stem}_{number}.png")
            with atomic_write(path.with_name(f"{stem}_{number}.png")) as temporary:
                temporary.write_bytes(_png(surface.texture.image, label))
    if has_library:  # importers that see a material ignore colours of vertices
        with atomic_write(path.with_name(f"{stem}.mtl")) as temporary:
            temporary.write_text("\n".join(library) + "\n")

    columns = [_y_up(mesh.vertices)] if mesh.vertex_color is None else [_y_up(mesh.vertices), mesh.vertex_color]
    lines = [f"# {label.comment()}"] if label.comment() else []
    lines += [f"mtllib {stem}.mtl"] if has_library else []
    lines += [f"v {_row(x)}" for x in torch.cat(columns, dim=1).tolist()]
    lines += [f"vn {_row(x)}" for x in _y_up(normals).tolist()]
    corner = "{0}//{0}" if mesh.uv is None else "{0}/{0}/{0}"
    if mesh.uv is not None:
        lines += [f"vt {_row(x)}" for x in mesh.uv.tolist()]
    for number in material.unique().tolist():
        lines += [f"usemtl {stem}_{number}"] if has_library else []
        faces = (mesh.faces[material == number] + 1).tolist()
        lines += ["f " + " ".join(corner.format(i) for i in face) for face in faces]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _save_ply(mesh: Mesh, path: Path, label: Label) -> None:
    from trimesh.exchange.ply import export_ply

    mesh, normals = split_normals(to_vertex_colors(mesh))
    geometry = to_trimesh(mesh, convention="ply").geometry["part_0"]
    geometry.vertex_normals = normals.numpy()
    data = export_ply(geometry, vertex_normal=True)
    if label.comment():
        kind, end, rest = data.partition(b"1.0\n")
        data = kind + end + f"comment {label.comment()}\n".encode() + rest
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


_WRITERS: dict[str, Callable[[Mesh, Path, Label], None]] = {".glb": _save_glb, ".obj": _save_obj, ".ply": _save_ply}


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
        uv=None if mesh.uv is None else mesh.uv[source],
    )
    return split, torch.nn.functional.normalize(normals, dim=-1)


def to_vertex_colors(mesh: Mesh) -> Mesh:
    """Return the mesh with one white material; material, texture and vertex colours multiplied into its vertices.

    Vertices that several materials share are doubled.
    """
    key = torch.stack([mesh.faces.flatten(), mesh.material_index().repeat_interleave(3)], dim=1)
    unique, index = torch.unique(key, dim=0, return_inverse=True)
    source, material = unique.unbind(1)
    color = torch.tensor([m.color for m in mesh.materials], dtype=torch.float32)[material]
    if mesh.vertex_color is not None:
        color = color * mesh.vertex_color[source]
    for number, surface in enumerate(mesh.materials):
        mine = material == number
        if surface.texture is not None and mesh.uv is not None and bool(mine.any()):
            height, width = surface.texture.image.shape[:2]
            uv = mesh.uv[source[mine]]
            u, v = torch.where((uv >= 0) & (uv <= 1), uv, uv % 1).unbind(1)
            row = ((1 - v) * height).long().clamp(0, height - 1)
            column = (u * width).long().clamp(0, width - 1)
            color[mine] = color[mine] * surface.texture.image[row, column, :3]
    finish = Material(roughness=mesh.materials[0].roughness, metallic=mesh.materials[0].metallic)
    faces = index.reshape(-1, 3)
    return Mesh(vertices=mesh.vertices[source], faces=faces, vertex_color=color, materials=(finish,))


def _y_up(vectors: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    return torch.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], dim=1)


def _row(numbers: Any) -> str:
    return " ".join(f"{x:.7g}" for x in numbers)


def _png(texture: Float[Tensor, "h w c"], label: Label) -> bytes:
    from PIL import Image

    pixels: np.ndarray = (texture.clamp(0, 1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", **label.picture_options(".png"))
    return buffer.getvalue()
