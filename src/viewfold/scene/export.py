"""Meshes to files that other programs open: GLB, OBJ with its MTL and pictures, PLY, STL, USDZ.

Frames.  A GLB is y up and faces +z, as glTF demands, so it stands upright in Blender, Unity and a browser: its root
node holds the rotation (x, y, z) -> (x, z, -y), its vertices are ours.  An OBJ has no rule; importers assume y up and
-z forward, so its vertices are turned the same way, and so are a USDZ's.  A PLY keeps our frame: z up, front towards
-y; an STL too, in millimetres.  `load_mesh` undoes it.

Colours are sRGB here; glTF's factors and vertex colours are linear, so `to_trimesh` converts them for a GLB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from viewfold.errors import InputError
from viewfold.label import UNLABELLED, Label
from viewfold.scene.gltf.writer import write_glb
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.obj_writer import companions, write_obj
from viewfold.scene.stl import write_stl
from viewfold.scene.usd import write_usdz
from viewfold.scene.vertex import split_normals, to_vertex_colors
from viewfold.store import atomic_files


def save_mesh(mesh: Mesh, path: str | Path, *, label: Label = UNLABELLED, name: str | None = None) -> Path:
    """Write a mesh as .glb, .obj, .ply, .stl or .usdz, by the suffix; all of its files or none.

    Shading normals are written, with hard edges where `Mesh.normals` sees a crease.  An OBJ comes with NAME.mtl and
    NAME_0.png ... beside it, or without them if all of its colour is at the vertices; those that an OBJ of before had,
    and it has not, are removed.  It holds alpha (`d`, and that of the pictures), emission (`Ke`) and textures that
    repeat or are clamped.  A PLY holds no material: colour, emission and texture become colours of the vertices,
    opacity their alpha; how rough or metallic it is, is lost.  A threshold of alpha is applied to what either holds;
    that a material is unlit, or its texels are shown square, only a GLB keeps.  An STL is the shape alone.  What a USDZ
    holds is said by `usd.write_usdz`.  What `label` says goes into the file's own fields.

    Args:
        mesh: on any device.
        path: of the file.
        label: metadata.
        name: of the thing: parts and materials are called after it, made a plain word.  None is the file's.

    Raises:
        InputError: another suffix, a mesh without faces, or one that an OBJ or a USDZ cannot hold (the message says
            why).
        MissingExtraError: a .usdz without usd-core.
        OutputError: the place cannot be written or the disk is full.
    """
    path = Path(path)
    check_mesh(mesh, path)
    with mesh_files(path) as temporary:
        write_mesh(mesh, temporary, label=label, name=path.stem if name is None else name)
    return path


def check_mesh(mesh: Mesh, path: Path) -> None:
    """Raise the `InputError` of `save_mesh` about the suffix, or about a mesh without faces."""
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"`path` must end in {', '.join(_WRITERS)}; got {path.name!r}. Choose one of these kinds.")
    if not len(mesh.faces):
        raise InputError("`mesh` must have at least one face to be saved; it is empty.")


def write_mesh(mesh: Mesh, path: Path, *, label: Label, name: str) -> None:
    """Write the files of a mesh as they come: there where `atomic_files` says; see `save_mesh`."""
    _WRITERS[path.suffix.lower()](mesh.to("cpu"), path, label, part_name(name))


def part_name(name: str) -> str:
    """Return a name as one plain word, for parts and materials: letters, digits and "_", at most 48."""
    return re.sub(r"\W+", "_", name).strip("_")[:48].rstrip("_") or "mesh"


def mesh_files(path: Path, *, stale: Callable[[Path], Iterable[str]] = lambda path: ()) -> AbstractContextManager[Path]:
    """Return `atomic_files` as the kind of mesh needs it.

    Args:
        path: of the mesh.
        stale: names of other files that go away; those that an OBJ of before brings need not be among them.
    """
    if path.suffix.lower() != ".obj":
        return atomic_files(path, stale=stale)
    return atomic_files(path, alone=False, stale=lambda path: (*companions(path), *stale(path)))


def _save_glb(mesh: Mesh, path: Path, label: Label, name: str) -> None:
    path.write_bytes(write_glb(*split_normals(mesh), label=label, name=name))


def _save_stl(mesh: Mesh, path: Path, label: Label, name: str) -> None:
    path.write_bytes(write_stl(mesh, label=label))


def _save_usdz(mesh: Mesh, path: Path, label: Label, name: str) -> None:
    write_usdz(*split_normals(mesh), path, name=name, label=label)


def _save_obj(mesh: Mesh, path: Path, label: Label, name: str) -> None:
    write_obj(mesh, path, name=name, label=label)


def _save_ply(mesh: Mesh, path: Path, label: Label, name: str) -> None:
    from trimesh.exchange.ply import export_ply

    mesh, normals = split_normals(to_vertex_colors(mesh))
    geometry = to_trimesh(mesh, convention="ply").geometry["part_0"]
    geometry.vertex_normals = normals.numpy()
    data = export_ply(geometry, vertex_normal=True)
    if label.comment():
        kind, end, rest = data.partition(b"1.0\n")
        data = kind + end + f"comment {label.comment()}\n".encode() + rest
    path.write_bytes(data)


_WRITERS: dict[str, Callable[[Mesh, Path, Label, str], None]] = {
    ".glb": _save_glb, ".obj": _save_obj, ".ply": _save_ply, ".stl": _save_stl, ".usdz": _save_usdz,
}  # fmt: skip
"""Of the kinds in `formats.MESHES`."""
