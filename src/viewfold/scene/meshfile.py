"""The door for meshes: other people's files, each kind by its reader, within one budget for the whole asset."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from viewfold import limits
from viewfold.errors import AssetError, ViewfoldError
from viewfold.formats import READ_MESHES
from viewfold.scene.assetfile import AssetFiles, read_file
from viewfold.scene.gltf.reader import read_gltf
from viewfold.scene.mesh import Mesh
from viewfold.scene.obj import read_obj
from viewfold.scene.ply import read_ply

FAR = 64.0
"""Coordinates further from the origin than so many times the mesh's size lose what float32 cannot hold beside it."""

_READERS: dict[str, Callable[[bytes, AssetFiles], Mesh]] = {
    ".glb": read_gltf, ".gltf": read_gltf, ".obj": read_obj, ".ply": read_ply,
}  # fmt: skip


def load_mesh(path: str | Path) -> Mesh:
    """Read a GLB, glTF, OBJ or PLY file into our frame; every material stays a material.

    Readers compute in float64.  A mesh that lies further from the origin than `FAR` times its size (a survey in UTM
    coordinates) is moved to the origin before it becomes float32; others stay where they are.  A warning says what is
    drawn otherwise than its maker may have meant: materials that no library of an OBJ holds are white.

    Raises:
        AssetError: the file is missing, damaged, empty or too large, holds what is not read (named in the message), or
            refers to something that is not there or lies outside of its folder.
        MissingExtraError: an optional package is needed to read it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READ_MESHES:
        raise AssetError(f"`{path}` must end in one of {', '.join(READ_MESHES)}. Convert it first.")
    try:
        data = read_file(path, limits.MESH_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy and Pillow, on damaged numbers; they are checked afterwards
            files = AssetFiles(path.parent)
            mesh = _in_single_precision(_READERS[suffix](data, files))
    except AssetError as error:
        raise AssetError(f"`{path}` cannot be used: {error}") from error
    except ViewfoldError as error:
        raise type(error)(f"`{path}` cannot be used: {error}") from error
    except OSError as error:
        raise AssetError(f"`{path}` cannot be read: {error.strerror or error}. Check the name.") from error
    except MemoryError as error:
        raise AssetError(f"`{path}` cannot be read: it needs more memory than there is. Simplify it first.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise AssetError(f"`{path}` cannot be read as {suffix[1:].upper()}: {reason}. Export it again.") from error
    for remark in files.remarks:
        warnings.warn(f"`{path}`: {remark}", stacklevel=2)
    return mesh


def _in_single_precision(mesh: Mesh) -> Mesh:
    used = mesh.vertices[mesh.faces.flatten().unique()]
    low, high = used.amin(0), used.amax(0)
    far = float(used.abs().max()) > FAR * float((high - low).max())
    vertices = mesh.vertices - (low + high) / 2 if far else mesh.vertices
    if not bool((vertices.abs() < limits.MESH_EXTENT).all()):
        raise AssetError(f"its vertices are {limits.MESH_EXTENT:g} or more from each other. Export it again.")
    return replace(mesh, vertices=vertices.float())
