"""Accessors: typed arrays in the bytes of a file (glTF 2.0, 3.6.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Shaped

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.scene.gltf.document import Document, whole

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Accessors:
    """Reads accessors, each once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._read: dict[int, np.ndarray] = {}
        self._left = 3 * limits.MESH_FACES * 8
        """Values that may still be decoded: eight for each corner of a mesh of the largest size."""

    def count(self, index: Any) -> int:
        """Return how many elements an accessor has, without reading it."""
        return whole(self._document.entry("accessors", index).get("count"))

    def numbers(self, index: Any) -> Shaped[np.ndarray, "n w"]:
        """Return an accessor as it is stored, integers where it holds integers."""
        if index not in self._read:
            self._read[index] = self._decode(self._document.entry("accessors", index))
        return self._read[index]

    def floats(self, index: Any) -> Shaped[np.ndarray, "n w"]:
        """Return an accessor as float64; integers that are normalised are brought to [0, 1] or [-1, 1] (3.11)."""
        stored = self.numbers(index)
        values = stored.astype(np.float64)
        if self._document.entry("accessors", index).get("normalized") and stored.dtype.kind in "iu":
            values = np.maximum(values / np.iinfo(stored.dtype).max, -1.0)
        return values

    def _decode(self, accessor: dict[str, Any]) -> np.ndarray:
        kind, component = accessor.get("type"), accessor.get("componentType")
        if kind not in _WIDTHS or component not in _TYPES:
            raise AssetError(f"it holds an accessor of {kind!r} of {component!r}, which is none. Export it again.")
        count, width, dtype = whole(accessor.get("count")), _WIDTHS[kind], np.dtype(_TYPES[component])
        self._left -= count * width
        if self._left < 0:
            raise AssetError(f"it must have at most {limits.MESH_FACES} faces; its accessors hold more. Simplify it.")
        if "bufferView" in accessor:
            values = self._slice(accessor["bufferView"], accessor.get("byteOffset", 0), count, width, dtype)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            values = self._replace(values.copy(), accessor["sparse"], width, dtype)
        return values

    def _replace(self, values: np.ndarray, sparse: Any, width: int, dtype: np.dtype[Any]) -> np.ndarray:
        """Put the elements of a sparse accessor in their places (3.6.2.3)."""
        count, where, what = whole(sparse.get("count")), sparse["indices"], sparse["values"]
        if count > len(values) or where.get("componentType") not in (5121, 5123, 5125):
            raise AssetError(f"it replaces {count} elements of {len(values)}. Export it again.")
        index_type = np.dtype(_TYPES[where["componentType"]])
        index = self._slice(where["bufferView"], where.get("byteOffset", 0), count, 1, index_type)[:, 0]
        if len(index) and int(index.max()) >= len(values):
            raise AssetError(f"it replaces element {int(index.max())} of {len(values)}. Export it again.")
        values[index] = self._slice(what["bufferView"], what.get("byteOffset", 0), count, width, dtype)
        return values

    def _slice(self, view: Any, offset: Any, count: int, width: int, dtype: np.dtype[Any]) -> np.ndarray:
        data, stride = self._document.view(view)
        offset, element = whole(offset), width * dtype.itemsize
        stride = stride or element
        if stride < element or (count and offset + stride * (count - 1) + element > len(data)):
            raise AssetError(
                f"an accessor of {count} elements does not fit into its {len(data)} bytes. Export it again."
            )
        if not count:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))
