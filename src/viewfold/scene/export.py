"""Meshes to files that other programs open: GLB, OBJ with its MTL and pictures, PLY.

Frames.  A GLB is y up and faces +z, as glTF demands, so it stands upright in Blender, Unity and a browser: its root
node holds the rotation (x, y, z) -> (x, z, -y), its vertices are ours.  An OBJ has no rule; importers assume y up and
-z forward, so its vertices are turned the same way.  A PLY keeps our frame: z up, front towards -y.  `load_mesh`
undoes it.

Colours are sRGB here; glTF's factors and vertex colours are linear, so `to_trimesh` converts them for a GLB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.label import UNLABELLED, Label
from viewfold.scene.gltf.writer import png, write_glb
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.store import atomic_write

_NORMAL_STEPS = 500
"""Corners of a vertex whose normals agree to one part in 500 share one vertex of the file."""


def save_mesh(mesh: Mesh, path: str | Path, *, label: Label = UNLABELLED) -> Path:
    """Write a mesh as .glb, .obj or .ply, by the suffix; whole or not at all.

    Shading normals are written, with hard edges where `Mesh.normals` sees a crease.  An OBJ comes with NAME.mtl and
    NAME_0.png ... beside it, written first; without them if all of its colour is at the vertices.  It holds alpha
    (`d`, and that of the pictures), emission (`Ke`) and textures that repeat or are clamped.  A PLY holds no material:
    colour, emission and texture become colours of the vertices, opacity their alpha; how rough or metallic it is, is
    lost.  A threshold of alpha is applied to what either holds; that a material is unlit, or its texels are shown
    square, only a GLB keeps.  What `label` says goes into the file's own fields.

    Raises:
        InputError: another suffix, a mesh without faces, or one that an OBJ cannot hold (the message says why).
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
    data = write_glb(*split_normals(mesh), label=label)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _save_obj(mesh: Mesh, path: Path, label: Label) -> None:
    has_library = mesh.vertex_color is None or any(not _is_plain(material) for material in mesh.materials)
    _check_obj(mesh)
    mesh = replace(mesh, materials=tuple(_cut_out(material) for material in mesh.materials))
    mesh = to_vertex_colors(mesh) if not has_library else _without_second_coordinates(mesh)
    mesh, normals = split_normals(mesh)
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    material = mesh.material_index()
    library = []
    for number, surface in enumerate(mesh.materials):
        lines, pictures = _obj_material(surface, f"{stem}_{number}", label)
        library += lines
        for name, content in pictures.items():
            with atomic_write(path.with_name(name)) as temporary:
                temporary.write_bytes(content)
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
    lines.append("s 1")  # Blender shades faces flat, whatever their normals, without a smoothing group
    for number in material.unique().tolist():
        lines += [f"usemtl {stem}_{number}"] if has_library else []
        faces = (mesh.faces[material == number] + 1).tolist()
        lines += ["f " + " ".join(corner.format(i) for i in face) for face in faces]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _cut_out(surface: Material) -> Material:
    """Return a material of the mode "mask" with its threshold applied: neither OBJ nor PLY has one."""
    if surface.alpha_mode != "mask":
        return surface
    texture, alpha = surface.texture, torch.tensor(surface.opacity)
    if texture is not None and texture.image.shape[2] == 4:
        there = (alpha * texture.image[..., 3:] >= surface.alpha_cutoff).float()
        texture = replace(texture, image=torch.cat([texture.image[..., :3], there], dim=2))
        return replace(surface, texture=texture, opacity=1.0)
    return replace(surface, opacity=float(alpha >= surface.alpha_cutoff))


def _check_obj(mesh: Mesh) -> None:
    wraps = {texture.wrap for material in mesh.materials for texture in material.textures}
    cannot = "alpha of vertices" if mesh.vertex_alpha is not None else ""
    if wraps - {("repeat", "repeat"), ("clamp", "clamp")}:
        cannot = "textures that are mirrored, or clamped on one side"
    if cannot:
        raise InputError(f"`path` must end in .glb for this mesh: an OBJ cannot hold {cannot}.")


def _is_plain(material: Material) -> bool:
    """Return whether colours of vertices can hold all of a material."""
    return not material.textures and material.alpha_mode == "opaque" and not any(material.emission) and material.lit


def _without_second_coordinates(mesh: Mesh) -> Mesh:
    """Return the mesh with one set of texture coordinates, which is all that an OBJ has.

    Raises:
        InputError: emission textures are looked up elsewhere than colours.
    """
    if mesh.emission_uv is None:
        return mesh
    if any(m.texture is not None and m.emission_texture is not None for m in mesh.materials):
        raise InputError("`path` must end in .glb: an OBJ cannot hold a second set of texture coordinates.")
    owner = torch.tensor([m.emission_texture is not None for m in mesh.materials])[mesh.material_index()]
    uv = torch.zeros_like(mesh.emission_uv) if mesh.uv is None else mesh.uv.clone()
    theirs = mesh.faces[owner].unique()
    uv[theirs] = mesh.emission_uv[theirs]
    return replace(mesh, uv=uv, emission_uv=None)


def _obj_material(surface: Material, name: str, label: Label) -> tuple[list[str], dict[str, bytes]]:
    """Return the lines of a material, and its pictures by their names.

    A colour that multiplies its texture is multiplied into the picture: some readers would and others would not.
    """
    pictures: dict[str, bytes] = {}
    color = (1.0, 1.0, 1.0) if surface.texture is not None else surface.color
    glow = surface.emission
    lines = [f"newmtl {name}", f"Kd {_row(color)}", "Ks 0 0 0", "illum 1" if surface.lit else "illum 0"]
    lines += [f"Pr {surface.roughness:g}", f"Pm {surface.metallic:g}"]
    if surface.alpha_mode != "opaque" and surface.opacity < 1:
        lines.append(f"d {surface.opacity:g}")
    for key, texture, tint in (("map_Kd", surface.texture, surface.color), ("map_Ke", surface.emission_texture, None)):
        if texture is None or (key == "map_Ke" and not any(glow)):
            continue
        image = texture.image if surface.alpha_mode != "opaque" else texture.image[..., :3]
        if tint is not None and tint != (1.0, 1.0, 1.0):
            image = torch.cat([image[..., :3] * torch.tensor(tint), image[..., 3:]], dim=2)
        file = f"{name}.png" if key == "map_Kd" else f"{name}_glow.png"
        pictures[file] = png(image, **label.picture_options(".png"))
        clamped = "-clamp on " if texture.wrap == ("clamp", "clamp") else ""
        lines.append(f"{key} {clamped}{file}")
    if any(glow):
        lines.insert(2, f"Ke {_row(glow)}")
    return lines, pictures


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


def _y_up(vectors: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    return torch.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], dim=1)


def _row(numbers: Any) -> str:
    return " ".join(f"{x:.7g}" for x in numbers)
