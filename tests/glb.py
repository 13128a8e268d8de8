"""glTF files made by hand, so that readers are tried on what our writer would never write."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Glb:
    """A tree that grows; `add` puts an array into the binary part and returns the number of its accessor."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": []}
        self.binary = b""

    def view(self, data: bytes, **more: Any) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **more})
        self.binary += data
        return len(self.tree["bufferViews"]) - 1

    def add(self, values: Any, dtype: str = "f4", *, normalized: bool = False, **more: Any) -> int:
        array = np.asarray(values)
        array = array.reshape(len(array), -1).astype("<" + dtype)
        accessor = {"componentType": COMPONENTS[dtype], "count": len(array), "type": TYPES[array.shape[1]], **more}
        if normalized:
            accessor["normalized"] = True
        self.tree["accessors"].append({"bufferView": self.view(array.tobytes()), **accessor})
        return len(self.tree["accessors"]) - 1

    def mesh(self, *primitives: dict[str, Any], **more: Any) -> int:
        self.tree.setdefault("meshes", []).append({"primitives": list(primitives), **more})
        return len(self.tree["meshes"]) - 1

    def nodes(self, *nodes: dict[str, Any], roots: list[int] | None = None) -> None:
        self.tree["nodes"] = list(nodes)
        self.tree["scenes"] = [{"nodes": [0] if roots is None else roots}]

    def save(self, path: Path) -> Path:
        self.tree["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
        return path
