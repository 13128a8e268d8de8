"""The container: JSON and the bytes that it describes, checked before anything is made of it."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

from viewfold import limits
from viewfold.errors import AssetError, MissingExtraError
from viewfold.scene.assetfile import AssetFiles

_JSON, _BIN = 0x4E4F534A, 0x004E4942

HANDLED = frozenset({
    "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_unlit", "KHR_materials_emissive_strength",
    "KHR_materials_pbrSpecularGlossiness", "KHR_materials_variants", "KHR_lights_punctual", "KHR_xmp_json_ld",
    "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing", "EXT_texture_webp",
})  # fmt: skip
"""Extensions that a file may require: read, or of no weight for a picture (lights, variants, metadata)."""


class Document:
    """A glTF file: its tree, and the buffers that it refers to."""

    def __init__(self, tree: dict[str, Any], binary: bytes, files: AssetFiles) -> None:
        self.tree, self._binary, self.files = tree, binary, files
        self._buffers: dict[int, bytes] = {}

    def entry(self, kind: str, index: Any) -> dict[str, Any]:
        """Return one entry of a list of the tree, such as ("meshes", 3).

        Raises:
            AssetError: there is none.
        """
        entries = self.tree.get(kind, [])
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(entries):
            raise AssetError(f"it refers to {kind} {index!r}, of which there are {len(entries)}. Export it again.")
        found = entries[index]
        if not isinstance(found, dict):
            raise AssetError(f"{kind} {index} must be an object of JSON; it is none. Export it again.")
        return found

    def view(self, index: Any) -> tuple[memoryview, int]:
        """Return the bytes of a buffer view, and its stride (0: packed)."""
        view = self.entry("bufferViews", index)
        if "EXT_meshopt_compression" in view.get("extensions", {}) and self._is_placeholder(view):
            raise AssetError("it needs EXT_meshopt_compression, which is not read. Export it uncompressed.")
        buffer = self._buffer(view.get("buffer"))
        start, length = whole(view.get("byteOffset", 0)), whole(view.get("byteLength"))
        if start + length > len(buffer):
            raise AssetError(f"a part of it ends {start + length - len(buffer)} bytes after its data. Export it again.")
        return memoryview(buffer)[start : start + length], whole(view.get("byteStride", 0))

    def _is_placeholder(self, view: dict[str, Any]) -> bool:
        buffer = self.entry("buffers", view.get("buffer"))
        return "uri" not in buffer and bool(buffer.get("extensions", {}).get("EXT_meshopt_compression"))

    def _buffer(self, index: Any) -> bytes:
        buffer = self.entry("buffers", index)
        if index not in self._buffers:
            uri = buffer.get("uri")
            if uri is None:
                if index != 0 or not self._binary:
                    raise AssetError(f"its buffer {index} has no data. Export it again.")
                self._buffers[index] = self._binary
            else:
                self._buffers[index] = self.resource(uri)
        return self._buffers[index]

    def resource(self, uri: Any) -> bytes:
        """Return what a URI stands for: a file beside the asset, or data in the URI itself."""
        if not isinstance(uri, str):
            raise AssetError(f"it refers to {uri!r}, which is no URI. Export it again.")
        if not uri.startswith("data:"):
            return self.files.read(uri)
        head, comma, body = uri.partition(",")
        if not comma or not head.endswith(";base64"):
            raise AssetError("it holds data that are not in base64. Export it again.")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise AssetError(f"it holds data that are no base64: {error}. Export it again.") from error


def whole(value: Any) -> int:
    """Return a number that must be a whole one and not negative."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise AssetError(f"it holds {value!r} where a whole number belongs. Export it again.")
    return value


def open_document(data: bytes, files: AssetFiles) -> Document:
    """Read a .glb or .gltf file.

    Raises:
        AssetError: it is damaged, of another version, or requires an extension that is not handled.
        MissingExtraError: it requires Draco, and DracoPy is not installed.
    """
    text, binary = (data, b"") if data[:4] != b"glTF" else _split(data)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AssetError(f"its description is no JSON ({str(error)[:80]}). Export it again.") from error
    if not isinstance(tree, dict):
        raise AssetError("its description must be an object of JSON. Export it again.")
    version = str((tree.get("asset") or {}).get("version", ""))
    if not version.startswith("2."):
        raise AssetError(f"it must be glTF 2; it says version {version or 'nothing'}. Export it as glTF 2.")
    for kind in ("nodes", "meshes", "accessors", "materials", "images", "textures"):
        entries = tree.get(kind, [])
        if not isinstance(entries, list) or len(entries) > limits.MESH_NODES:
            raise AssetError(f"it must list at most {limits.MESH_NODES} {kind}. Simplify it first.")
    _check_required(tree.get("extensionsRequired", []))
    return Document(tree, binary, files)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the JSON and the binary chunk of a GLB; others are passed over, as the specification says."""
    if len(data) < 20:
        raise AssetError("it ends after its first bytes. Export it again.")
    version, length = struct.unpack("<II", data[4:12])
    if version != 2 or length > len(data):
        raise AssetError(f"its header promises {length} bytes of GLB 2; got {len(data)} of GLB {version}.")
    at, chunks = 12, {}
    while at + 8 <= length:
        size, kind = struct.unpack("<II", data[at : at + 8])
        if at + 8 + size > len(data):
            raise AssetError(f"it is cut short: a chunk of {size} bytes does not fit. Export it again.")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    if _JSON not in chunks:
        raise AssetError("it has no description in JSON. Export it again.")
    return chunks[_JSON], chunks.get(_BIN, b"")


def _check_required(required: Any) -> None:
    names = [str(name) for name in required] if isinstance(required, list) else [str(required)]
    unknown = sorted(set(names) - HANDLED)
    if unknown:
        raise AssetError(f"it requires {', '.join(unknown)[:200]}, which is not read. Export it without.")
    if "KHR_draco_mesh_compression" in names:
        import_draco()


def import_draco() -> Any:
    """Return DracoPy.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import DracoPy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "it requires KHR_draco_mesh_compression, which needs DracoPy. Run `pip install 'viewfold[draco]'`, "
            "or export it uncompressed."
        ) from error
    return DracoPy
