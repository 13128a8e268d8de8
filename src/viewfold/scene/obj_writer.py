"""One mesh as an .obj with its .mtl and pictures, and which files an older one brings.

An OBJ has no rule about axes; importers assume y up and -z forward, so vertices are turned that way.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from viewfold.errors import InputError
from viewfold.label import UNLABELLED, Label
from viewfold.scene.gltf.writer import png
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.vertex import cut_out, split_normals, to_vertex_colors, y_up
from viewfold.store import open_regular

_HEAD_BYTES = 2**20
"""Of a file that is looked through for the names of others."""


def write_obj(mesh: Mesh, path: Path, *, name: str, label: Label = UNLABELLED) -> None:
    """Write a mesh on the CPU, its library and its pictures, there where `atomic_files` says.

    Args:
        mesh: shading normals are written; see `export.save_mesh` for what is kept.
        path: of the .obj; the others stand beside it.
        name: a plain word: of the object, and of its materials NAME_0, NAME_1 ...
        label: metadata.

    Raises:
        InputError: what an OBJ cannot hold (the message says what).
    """
    has_library = mesh.vertex_color is None or any(not _is_plain(material) for material in mesh.materials)
    _check_obj(mesh)
    mesh = replace(mesh, materials=tuple(cut_out(material) for material in mesh.materials))
    mesh = to_vertex_colors(mesh) if not has_library else _without_second_coordinates(mesh)
    mesh, normals = split_normals(mesh)
    stem = _plain_stem(path)
    material = mesh.material_index()
    library = []
    for number, surface in enumerate(mesh.materials):
        lines, pictures = _obj_material(surface, f"{name}_{number}", f"{stem}_{number}", label)
        library += lines
        for file, content in pictures.items():
            path.with_name(file).write_bytes(content)
    if has_library:  # importers that see a material ignore colours of vertices
        path.with_name(f"{stem}.mtl").write_text("\n".join(library) + "\n", encoding="utf-8")

    columns = [y_up(mesh.vertices)] if mesh.vertex_color is None else [y_up(mesh.vertices), mesh.vertex_color]
    lines = [f"# {label.comment()}"] if label.comment() else []
    lines += [f"mtllib {stem}.mtl"] if has_library else []
    lines.append(f"o {name}")
    lines += [f"v {_row(x)}" for x in torch.cat(columns, dim=1).tolist()]
    lines += [f"vn {_row(x)}" for x in y_up(normals).tolist()]
    corner = "{0}//{0}" if mesh.uv is None else "{0}/{0}/{0}"
    if mesh.uv is not None:
        lines += [f"vt {_row(x)}" for x in mesh.uv.tolist()]
    lines.append("s 1")  # Blender shades faces flat, whatever their normals, without a smoothing group
    for number in material.unique().tolist():
        lines += [f"usemtl {name}_{number}"] if has_library else []
        faces = (mesh.faces[material == number] + 1).tolist()
        lines += ["f " + " ".join(corner.format(i) for i in face) for face in faces]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


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


def _obj_material(surface: Material, name: str, stem: str, label: Label) -> tuple[list[str], dict[str, bytes]]:
    """Return the lines of a material, and its pictures by their names, which begin with `stem`.

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
        file = f"{stem}.png" if key == "map_Kd" else f"{stem}_glow.png"
        pictures[file] = png(image, **label.picture_options(".png"))
        clamped = "-clamp on " if texture.wrap == ("clamp", "clamp") else ""
        lines.append(f"{key} {clamped}{file}")
    if any(glow):
        lines.insert(2, f"Ke {_row(glow)}")
    return lines, pictures


def companions(path: Path) -> tuple[str, ...]:
    """Return the names of the files that an OBJ of ours at `path` brings: its library, the pictures in that.

    Names of another form are left out, for they may be somebody else's.
    """
    stem = re.escape(_plain_stem(path))
    libraries = _found(path, rf"^mtllib ({stem}\.mtl)$")
    pictures = [
        _found(path.with_name(name), rf"^map_K[de] (?:-clamp on )?({stem}_\d+(?:_glow)?\.png)$") for name in libraries
    ]
    return tuple(dict.fromkeys([*libraries, *(name for names in pictures for name in names)]))


def _found(path: Path, pattern: str) -> list[str]:
    """Return what the lines at the beginning of a file hold; nothing if there is none."""
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return []
    return re.findall(pattern, head.decode("utf-8", "replace"), re.MULTILINE)


def _plain_stem(path: Path) -> str:
    return re.sub(r"[^\w.-]", "_", path.stem)


def _row(numbers: Any) -> str:
    return " ".join(f"{x:.7g}" for x in numbers)
