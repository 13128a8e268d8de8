"""One mesh as a .glb: every material as it is, upright for every viewer (glTF 2.0)."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from viewfold.label import UNLABELLED, Label, software
from viewfold.scene.color import linear_from_srgb
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.vertex import tangents

_UPRIGHT = [-math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]
"""The turn (x, y, z) -> (x, z, -y) as a quaternion: our z up becomes glTF's y up, our front -y its front +z."""

_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_COMPONENTS = {"<f4": 5126, "<u2": 5123, "<u4": 5125}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_WRAPS = {"repeat": 10497, "clamp": 33071, "mirror": 33648}
_LINEAR, _NEAREST, _MIPMAPS = 9729, 9728, 9987
_MODES = {"opaque": "OPAQUE", "mask": "MASK", "blend": "BLEND"}


def write_glb(mesh: Mesh, normals: Float[Tensor, "k 3"], *, label: Label = UNLABELLED, name: str = "mesh") -> bytes:
    """Return the file: a node that turns it upright, a primitive for each material in use.

    Kept are colours and alpha of vertices, textures with their alpha, wrap and filter modes, both sets of texture
    coordinates, alpha modes, emission, roughness, metal, normal maps with their tangents, and what is unlit.

    Args:
        normals: unit, of each vertex.
        label: metadata.
        name: of the node and the mesh; materials are NAME_0, NAME_1 ...
    """
    writer = _Writer(name)
    index = mesh.material_index()
    primitives = [
        writer.primitive(mesh, normals, mesh.faces[index == number], mesh.materials[number], number)
        for number in index.unique().tolist()
    ]
    tree = {
        "asset": {"version": "2.0", "generator": software(), **label.glb_asset()},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0, "rotation": _UPRIGHT}],
        "meshes": [{"name": name, "primitives": primitives}],
        **{name: entries for name, entries in writer.tree.items() if entries},
        "buffers": [{"byteLength": len(writer.binary)}],
    }
    if any("KHR_materials_unlit" in material.get("extensions", {}) for material in writer.tree["materials"]):
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    body += struct.pack("<II", len(writer.binary), 0x004E4942) + bytes(writer.binary)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


class _Writer:
    def __init__(self, name: str) -> None:
        self.name = name
        names = "materials", "textures", "samplers", "images", "accessors", "bufferViews"
        self.tree: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.binary = bytearray()
        self._textures: dict[int, int] = {}

    def primitive(
        self, mesh: Mesh, normals: Float[Tensor, "k 3"], faces: Tensor, material: Material, number: int
    ) -> dict[str, Any]:
        """Write the faces of one material with the vertices that they use."""
        used, faces = faces.unique(return_inverse=True)
        attributes = {
            "POSITION": self.accessor(mesh.vertices[used], bounds=True),
            "NORMAL": self.accessor(normals[used]),
        }
        material = _placed(mesh, material)
        glows_apart = mesh.emission_uv is not None and material.emission_texture is not None
        on_uv = (material.texture, material.normal_texture, None if glows_apart else material.emission_texture)
        if mesh.uv is not None and any(texture is not None for texture in on_uv):
            attributes["TEXCOORD_0"] = self.accessor(_downwards(mesh.uv[used]))
        if material.normal_texture is not None:
            attributes["TANGENT"] = self.accessor(tangents(mesh, normals)[used])
        glow_set = int(glows_apart and "TEXCOORD_0" in attributes)  # the sets in use are counted from 0
        if mesh.emission_uv is not None and glows_apart:
            attributes[f"TEXCOORD_{glow_set}"] = self.accessor(_downwards(mesh.emission_uv[used]))
        if mesh.vertex_color is not None or mesh.vertex_alpha is not None:
            attributes["COLOR_0"] = self.accessor(_colors(mesh, used), dtype="<u2", normalized=True)
        corners = faces.reshape(-1, 1)
        narrow = len(used) < 2**16 - 1
        indices = self.accessor(corners, dtype="<u2" if narrow else "<u4", target=_ELEMENT_ARRAY_BUFFER)
        look = self._material(material, glow_set=glow_set)
        self.tree["materials"].append({"name": f"{self.name}_{number}", **look})
        return {"attributes": attributes, "indices": indices, "material": len(self.tree["materials"]) - 1}

    def accessor(
        self,
        values: Shaped[Tensor, "n w"],
        *,
        dtype: str = "<f4",
        normalized: bool = False,
        bounds: bool = False,
        target: int = _ARRAY_BUFFER,
    ) -> int:
        """Append an array and return the number of its accessor."""
        array = values.cpu().numpy().astype(dtype)
        entry = {"bufferView": self.view(array.tobytes(), target=target), "componentType": _COMPONENTS[dtype],
                 "count": len(array), "type": _KINDS[array.shape[1]]}  # fmt: skip
        if normalized:
            entry["normalized"] = True
        if bounds:
            entry |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.tree["accessors"].append(entry)
        return len(self.tree["accessors"]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        """Append bytes and return the number of their buffer view."""
        entry = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **more}
        self.binary += data + b"\0" * (-len(data) % 4)
        self.tree["bufferViews"].append(entry)
        return len(self.tree["bufferViews"]) - 1

    def _material(self, material: Material, *, glow_set: int) -> dict[str, Any]:
        base: dict[str, Any] = {
            "baseColorFactor": [*_linear(material.color), material.opacity],
            "metallicFactor": material.metallic,
            "roughnessFactor": material.roughness,
        }
        if material.texture is not None:
            base["baseColorTexture"] = {"index": self._texture(material.texture)}
        entry: dict[str, Any] = {"pbrMetallicRoughness": base, "doubleSided": True}
        if material.alpha_mode != "opaque":
            entry["alphaMode"] = _MODES[material.alpha_mode]
        if material.alpha_mode == "mask":
            entry["alphaCutoff"] = material.alpha_cutoff
        if any(material.emission):
            entry["emissiveFactor"] = _linear(material.emission)
            if material.emission_texture is not None:
                place = {"texCoord": glow_set} if glow_set else {}
                entry["emissiveTexture"] = {"index": self._texture(material.emission_texture), **place}
        if material.normal_texture is not None:
            entry["normalTexture"] = {"index": self._texture(material.normal_texture)}
        if not material.lit:
            entry["extensions"] = {"KHR_materials_unlit": {}}
        return entry

    def _texture(self, texture: Texture) -> int:
        if id(texture) not in self._textures:
            across, upwards = texture.wrap
            sampler = {"wrapS": _WRAPS[across], "wrapT": _WRAPS[upwards], "minFilter": _MIPMAPS,
                       "magFilter": _NEAREST if texture.nearest else _LINEAR}  # fmt: skip
            if sampler not in self.tree["samplers"]:
                self.tree["samplers"].append(sampler)
            self.tree["images"].append({"bufferView": self.view(png(texture.image)), "mimeType": "image/png"})
            self.tree["textures"].append(
                {"source": len(self.tree["images"]) - 1, "sampler": self.tree["samplers"].index(sampler)}
            )
            self._textures[id(texture)] = len(self.tree["textures"]) - 1
        return self._textures[id(texture)]


def png(image: Float[Tensor, "h w c"], **options: Any) -> bytes:
    """Return a texture as a PNG of eight bits; `options` go to Pillow's `save`."""
    from PIL import Image

    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def _placed(mesh: Mesh, material: Material) -> Material:
    """Return a material without the textures that nothing says the place of; no renderer shows them."""
    if mesh.uv is None:
        material = replace(material, texture=None, normal_texture=None)
    if mesh.uv is None and mesh.emission_uv is None:
        material = replace(material, emission_texture=None)
    return material


def _downwards(uv: Float[Tensor, "k 2"]) -> Float[Tensor, "k 2"]:
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=1)


def _colors(mesh: Mesh, used: Tensor) -> Float[Tensor, "n 4"]:
    """Return linear colour and alpha of vertices as shares of 65535."""
    ones = torch.ones(len(used), 1)
    color = ones.expand(-1, 3) if mesh.vertex_color is None else mesh.vertex_color[used].cpu()
    alpha = ones if mesh.vertex_alpha is None else mesh.vertex_alpha[used].cpu()[:, None]
    linear = torch.from_numpy(linear_from_srgb(color.clamp(0, 1).double().numpy())).float()
    return (torch.cat([linear, alpha.clamp(0, 1)], dim=1) * 65535).round()


def _linear(color: tuple[float, float, float]) -> list[float]:
    return linear_from_srgb(np.array(color)).tolist()
