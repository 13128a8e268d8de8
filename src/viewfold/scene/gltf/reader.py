"""From a glTF file to one mesh: every triangle of the default scene, in its pose, with its material."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from viewfold.errors import AssetError
from viewfold.scene.assetfile import AssetFiles
from viewfold.scene.gltf.accessor import Accessors
from viewfold.scene.gltf.document import Document, import_draco, open_document
from viewfold.scene.gltf.look import Look, Looks, Place, vertex_colors
from viewfold.scene.gltf.pose import copies, morphed, placed_nodes, skinned
from viewfold.scene.mesh import Mesh

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""glTF is y up and faces +z; our world is z up and faces -y."""


def read_gltf(data: bytes, files: AssetFiles) -> Mesh:
    """Read a .glb or .gltf file into our frame, vertices in float64.

    Read are: every component type, sparse accessors, strips and fans, all sets of texture coordinates, texture
    transforms, samplers' wrap modes, skins in their pose, morph weights, instancing, alpha modes, emission, vertex
    colours, unlit and specular-glossiness materials, Draco.  Points and lines beside triangles are passed over.

    Raises:
        AssetError: it is damaged, too large, or requires what is not read; the message names it.
        MissingExtraError: it needs DracoPy.
    """
    document = open_document(data, files)
    reader = _Reader(document)
    parts = [part for index, place in reader.placed.items() for part in reader.node(index, place)]
    if not parts:
        raise AssetError("it must have at least one face; it is empty or holds only points and lines.")
    return Mesh.cat(parts).transform(torch.from_numpy(_TO_Z_UP))


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document, self.files = document, document.files
        self.accessors, self.looks = Accessors(document), Looks(document)
        self.placed = placed_nodes(document)

    def node(self, index: int, place: Float[np.ndarray, "4 4"]) -> list[Mesh]:
        """Return the parts of a node's mesh in the world."""
        node = self.document.entry("nodes", index)
        if "mesh" not in node:
            return []
        mesh = self.document.entry("meshes", node["mesh"])
        weights = node.get("weights", mesh.get("weights", []))
        found = []
        for primitive in mesh.get("primitives", []):
            part = self.primitive(primitive, weights, node.get("skin"))
            if part is None:
                continue
            if "skin" in node:
                self.files.count(faces=len(part.faces), vertices=len(part.vertices))
                found.append(part)
                continue
            for copy in copies(self.document, self.accessors, node):
                self.files.count(faces=len(part.faces), vertices=len(part.vertices))
                found.append(part.transform(torch.from_numpy(place @ copy)))
        return found

    def primitive(self, primitive: dict[str, Any], weights: list[float], skin: Any) -> Mesh | None:
        """Return one primitive; None if it holds no triangles."""
        mode = primitive.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            if mode not in (0, 1, 2, 3):
                raise AssetError(f"a part has the mode {mode!r}, which is none. Export it again.")
            return None
        attributes = dict(primitive.get("attributes", {}))
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
            values, faces = self._draco(primitive["extensions"]["KHR_draco_mesh_compression"])
        else:
            values = {name: self.accessors.floats(index) for name, index in attributes.items() if _is_used(name)}
            faces = None
        if "POSITION" not in values:
            return None  # the specification lets an extension give them; none that we know of does
        positions = values["POSITION"]
        if positions.shape[1] != 3:
            raise AssetError(f"its positions have {positions.shape[1]} coordinates. Export it again.")
        if faces is None:
            faces = triangles(self._corners(primitive, len(positions)), mode)
        if not len(faces):
            return None
        positions = morphed(self.accessors, primitive, weights, positions)
        if skin is not None:
            positions = skinned(self.document, self.accessors, skin, self.placed, attributes, positions)
        if not np.isfinite(positions).all():
            raise AssetError("its positions hold NaN or infinity. Export it again.")
        look = self.looks.of(primitive.get("material"))
        mesh = Mesh(
            vertices=torch.from_numpy(np.ascontiguousarray(positions)),
            faces=torch.from_numpy(faces),
            materials=(look.material,),
        )
        return _dressed(mesh, look, values)

    def _corners(self, primitive: dict[str, Any], n_vertices: int) -> Int[np.ndarray, "n"]:
        if "indices" not in primitive:
            return np.arange(n_vertices)
        corners = self.accessors.numbers(primitive["indices"])
        if corners.dtype.kind != "u" or corners.shape[1] != 1:
            raise AssetError(f"its indices must be whole numbers; they are {corners.dtype}. Export it again.")
        corners = corners[:, 0].astype(np.int64)
        if len(corners) and int(corners.max()) >= n_vertices:
            raise AssetError(f"a face has the corner {int(corners.max())} of {n_vertices} vertices. Export it again.")
        return corners

    def _draco(self, extension: dict[str, Any]) -> tuple[dict[str, np.ndarray], Int[np.ndarray, "f 3"]]:
        draco = import_draco()
        content = bytes(self.document.view(extension.get("bufferView"))[0])
        try:
            decoded = draco.decode(content)
        except Exception as error:
            raise AssetError(f"its Draco data cannot be read: {str(error)[:120]}. Export it again.") from error
        by_id = {item["unique_id"]: np.asarray(item["data"]) for item in decoded.attributes}
        values: dict[str, np.ndarray] = {}
        for name, number in extension.get("attributes", {}).items():
            if _is_used(name) and number in by_id:
                value = by_id[number]
                scale = np.iinfo(value.dtype).max if value.dtype.kind in "iu" and not name.startswith("POS") else 1
                values[name] = value.reshape(len(value), -1).astype(np.float64) / scale
        faces = np.asarray(decoded.faces, dtype=np.int64).reshape(-1, 3)
        n_vertices = len(values.get("POSITION", ()))
        if faces.size and not 0 <= faces.min() <= faces.max() < n_vertices:
            raise AssetError("its Draco faces do not fit its vertices. Export it again.")
        return values, faces


def _is_used(name: str) -> bool:
    return name == "POSITION" or name == "COLOR_0" or name.startswith("TEXCOORD_")


def _dressed(mesh: Mesh, look: Look, values: dict[str, np.ndarray]) -> Mesh:
    """Return the mesh with the colours and texture coordinates that its material looks up."""
    count = len(mesh.vertices)
    color = alpha = None
    if "COLOR_0" in values:
        color, alpha = vertex_colors(_fitting(values["COLOR_0"], count, "COLOR_0"))
    uv = None if look.color is None else _uv(look.color, values, count)
    emission_uv = None
    if look.emission is not None:
        emission_uv = _uv(look.emission, values, count)
        if uv is None or look.emission == look.color:
            uv, emission_uv = emission_uv, None
    return replace(mesh, vertex_color=color, vertex_alpha=alpha, uv=uv, emission_uv=emission_uv)


def _uv(place: Place, values: dict[str, np.ndarray], count: int) -> torch.Tensor:
    name = f"TEXCOORD_{place.set}"
    if name not in values:
        raise AssetError(f"a textured part has no {name}, which its material looks up. Export it again.")
    uv = place.move(_fitting(values[name], count, name)[:, :2])
    uv[:, 1] = 1 - uv[:, 1]  # ours goes upwards
    return torch.from_numpy(uv).float().nan_to_num(0.0, 0.0, 0.0)


def _fitting(values: np.ndarray, count: int, name: str) -> np.ndarray:
    if len(values) != count or (name.startswith("TEXCOORD") and values.shape[1] != 2):
        raise AssetError(f"its {name} has {len(values)} x {values.shape[1]} numbers for {count} vertices.")
    return values


def triangles(corners: Int[np.ndarray, "n"], mode: int) -> Int[np.ndarray, "f 3"]:
    """Return the faces of a list of triangles, a strip or a fan (3.7.2.1); those without area stay out of strips."""
    if mode == _TRIANGLES:
        return np.ascontiguousarray(corners[: len(corners) // 3 * 3].reshape(-1, 3))
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _STRIP:
        faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
        faces[1::2] = faces[1::2][:, [0, 2, 1]]
    else:
        faces = np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], axis=1)
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    return np.ascontiguousarray(faces[proper])
