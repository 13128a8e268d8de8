"""Open untrusted mesh files: sizes are checked before anything is allocated, and no path leaves the file's folder.

Sits below `interchange`, and returns trimesh's scene; knows neither our frames nor our colours.
"""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.formats import MESHES
from viewfold.picture import FORMATS

if TYPE_CHECKING:
    import trimesh

TEXTURES = (*FORMATS, "MPO", "TGA")
"""Pillow's words for the kinds of textures that are read; MPO is a JPEG with a second picture."""


def open_scene(path: str | Path) -> trimesh.Scene:
    """Read a GLB, OBJ or PLY file into a trimesh scene.

    Raises:
        AssetError: the file is missing, damaged, too large, or refers to something outside of its folder.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESHES:
        raise AssetError(f"`{path}` must end in one of {', '.join(MESHES)}. Convert it first.")
    try:
        size = path.stat().st_size
        if size > limits.MESH_BYTES:
            raise AssetError(f"`{path}` must be at most {limits.MESH_BYTES} bytes; it has {size}. Simplify it first.")
        data = path.read_bytes()
    except OSError as error:
        raise AssetError(f"`{path}` cannot be read: {error.strerror or error}. Check the name.") from error
    try:
        return _open(data, suffix, path.parent)
    except AssetError as error:
        raise AssetError(f"`{path}` cannot be used: {error}") from error
    except MemoryError as error:
        raise AssetError(f"`{path}` cannot be read: it needs more memory than there is. Simplify it first.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise AssetError(f"`{path}` cannot be read as {suffix[1:].upper()}: {reason}. Export it again.") from error


def _open(data: bytes, suffix: str, folder: Path) -> trimesh.Scene:
    import trimesh
    from trimesh.resolvers import Resolver

    refused: list[str] = []

    class Inside(Resolver):
        """Opens what lies in the folder of the asset, up to a total size."""

        def __init__(self) -> None:
            self.left = limits.MESH_BYTES

        def get(self, key: str) -> bytes:
            try:
                return self.read(str(key).strip())
            except AssetError as error:  # trimesh swallows what goes wrong with a material
                refused.append(str(error))
                raise

        def read(self, name: str) -> bytes:
            found = (folder / name).resolve()
            if not found.is_relative_to(folder.resolve()):
                raise AssetError(f"it refers to `{name}`, which lies outside of its folder. Pack its textures.")
            if not found.is_file():
                raise FileNotFoundError(name)
            self.left -= found.stat().st_size
            if self.left < 0:
                raise AssetError(f"it refers to files of more than {limits.MESH_BYTES} bytes. Simplify it first.")
            content = found.read_bytes()
            if found.suffix.lower() not in (".mtl", ".bin"):
                _check_image(content)
            return content

        def write(self, name: str, data: bytes) -> None:
            raise AssetError("reading writes nothing")

        def namespaced(self, namespace: str) -> Inside:
            return self

        def keys(self) -> Iterable[str]:
            return ()

    match suffix:
        case ".glb":
            _check_glb(data)
        case ".ply":
            _check_ply(data)
    # In the order of an OBJ, trimesh hands the texture coordinates of the first part to all of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, on damaged numbers; they are checked afterwards
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=suffix[1:], resolver=Inside(), process=False, maintain_order=suffix != ".obj"
        )
    if refused:
        raise AssetError(refused[0])
    for part in scene.geometry.values():
        material = getattr(part.visual, "material", None)
        for image in (getattr(material, "image", None), getattr(material, "baseColorTexture", None)):
            if image is not None:
                _check_pixels(image.size)
    n_faces = 0
    for node in scene.graph.nodes_geometry:
        n_faces += len(getattr(scene.geometry[scene.graph[node][1]], "faces", ()))
        if n_faces > limits.MESH_FACES:
            raise AssetError(f"it must have at most {limits.MESH_FACES} faces, copies counted. Simplify it first.")
    if n_faces == 0:
        raise AssetError("it must have at least one face; it is empty or holds only points and lines.")
    return scene


def _check_glb(data: bytes) -> None:
    """Check the header, and every number in the JSON that decides how much is allocated."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise AssetError("it does not start like a GLB file. Export it again.")
    version, length, json_length, kind = struct.unpack("<IIII", data[4:20])
    if version != 2 or kind != 0x4E4F534A or length > len(data) or json_length > len(data) - 20:
        raise AssetError(f"its header promises {length} bytes of GLB 2; got {len(data)} of GLB {version}.")
    tree: dict[str, Any] = json.loads(data[20 : 20 + json_length])
    if len(tree.get("nodes", ())) > limits.MESH_NODES:
        raise AssetError(f"it must have at most {limits.MESH_NODES} nodes; it has {len(tree['nodes'])}.")
    for accessor in tree.get("accessors", ()):
        # One without a buffer view is made of zeros, as many as it says.
        if not 0 <= accessor.get("count", 0) <= 3 * limits.MESH_FACES:
            raise AssetError(
                f"it must have at most {limits.MESH_FACES} faces; an accessor counts {accessor['count']} entries."
            )
    if sum(a.get("count", 0) for a in tree.get("accessors", ()) if "bufferView" not in a) > 3 * limits.MESH_FACES:
        raise AssetError(f"it must have at most {limits.MESH_FACES} faces; its empty accessors count more entries.")
    binary = data[20 + json_length + 8 :]
    views = tree.get("bufferViews", ())
    for image in tree.get("images", ()):
        if "bufferView" in image:
            view = views[image["bufferView"]]
            start = view.get("byteOffset", 0)
            _check_image(binary[start : start + view["byteLength"]])


def _check_ply(data: bytes) -> None:
    header, end, _ = data[: 2**16].partition(b"end_header")
    if not data.startswith(b"ply") or not end:
        raise AssetError("it does not start like a PLY file. Export it again.")
    for line in header.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == b"element" and not 0 <= int(words[2]) <= 3 * limits.MESH_FACES:
            raise AssetError(f"it must have at most {limits.MESH_FACES} faces; its header counts {int(words[2])}.")
        if len(words) == 3 and words[0] == b"element" and int(words[2]) > len(data):
            raise AssetError(f"its header counts {int(words[2])} elements in {len(data)} bytes. Export it again.")


def _check_image(content: bytes) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:  # its header
            size, kind = image.size, image.format
    except (UnidentifiedImageError, OSError):
        return  # a kind that is not read: trimesh leaves the texture out
    if kind not in TEXTURES:
        raise AssetError(f"a texture must be one of {', '.join(TEXTURES)}; one is {kind}. Convert it to PNG.")
    _check_pixels(size)


def _check_pixels(size: tuple[int, int]) -> None:
    pixels = math.prod(size)
    if pixels > limits.TEXTURE_PIXELS:
        raise AssetError(f"a texture must have at most {limits.TEXTURE_PIXELS} pixels; one has {pixels}.")
