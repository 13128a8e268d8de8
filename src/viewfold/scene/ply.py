"""PLY: ascii and binary, polygons, colours of every width, texture coordinates at vertices or at corners.

A PLY keeps its own frame: importers take it as z up, as our world is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.scene.assetfile import AssetFiles
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.polygon import triangulate

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER_BYTES = 2**20
_COLORS = (
    ("red", "green", "blue", "alpha"),
    ("r", "g", "b", "a"),
    ("diffuse_red", "diffuse_green", "diffuse_blue", ""),
)
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))


@dataclass(frozen=True)
class _Property:
    name: str
    type: str
    count: str | None = None
    """Of a list: the type of its length."""


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property]


Table = dict[str, Any]
"""Of an element: a column of each property, or (lengths, values) of a list."""


def read_ply(data: bytes, files: AssetFiles) -> Mesh:
    """Read a PLY file.

    Raises:
        AssetError: it is damaged or too large, or holds points alone.
    """
    tables, textures = read_tables(data)
    vertex = tables.get("vertex", {})
    if not all(axis in vertex for axis in "xyz"):
        raise AssetError("its vertices have no x, y and z. Export it again.")
    points = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
    if not np.isfinite(points).all():
        raise AssetError("its vertices hold NaN or infinity. Export it again.")
    face = tables.get("face", {})
    lists = face.get("vertex_indices", face.get("vertex_index"))
    if lists is None and "tristrips" in tables:
        lists = _strips(tables["tristrips"])
    if lists is None or not len(lists[0]):
        raise AssetError("it must have at least one face; it holds points alone. Make a mesh of them first.")
    columns, polygon, corners = _triangles(points, lists[0], lists[1], files)
    color, alpha = _colors(vertex, len(points))
    if color is None and "red" in face:  # a colour for each face
        face_color, _ = _colors(face, len(lists[0]))
        assert face_color is not None
        index = corners.reshape(-1)
        return Mesh(
            vertices=torch.from_numpy(points[index]),
            faces=torch.arange(len(index)).reshape(-1, 3),
            vertex_color=torch.from_numpy(np.repeat(face_color[polygon], 3, axis=0)).float(),
        )
    uv, material = None, Material()
    if textures:
        if len(textures) > 1:
            raise AssetError(f"it has {len(textures)} textures, of which one alone is read. Export it as GLB.")
        found = files.find(textures[0])
        if found is None:
            raise AssetError(f"it refers to the texture `{textures[0]}`, which is not there. Put it beside it.")
        at_corners = face.get("texcoord")
        uv = _vertex_uv(vertex)
        if at_corners is not None:
            points, color, alpha, corners, uv = _split(
                points, color, alpha, corners, columns, polygon, lists[0], at_corners
            )
        if uv is not None:
            material = Material(texture=Texture(image=files.image(files.read(found), textures[0])))
    files.count(vertices=len(points))
    return Mesh(
        vertices=torch.from_numpy(points),
        faces=torch.from_numpy(np.ascontiguousarray(corners)),
        vertex_color=None if color is None else torch.from_numpy(color).float(),
        vertex_alpha=None if alpha is None else torch.from_numpy(alpha).float(),
        uv=None if uv is None else torch.from_numpy(np.nan_to_num(uv, posinf=0, neginf=0)).float(),
        materials=(material if alpha is None else Material(texture=material.texture, alpha_mode="blend"),),
    )


def read_tables(data: bytes) -> tuple[dict[str, Table], list[str]]:
    """Return a PLY file's elements by name, and the textures that its comments name; raises what `read_ply` does."""
    order, elements, textures, start = _header(data)
    return _read_ascii(data, start, elements) if order == "" else _read_binary(data, start, elements, order), textures


def _header(data: bytes) -> tuple[str, list[_Element], list[str], int]:
    head, end, _ = data[:_HEADER_BYTES].partition(b"end_header")
    if not data.startswith(b"ply") or not end:
        raise AssetError("it does not start like a PLY file. Export it again.")
    start = data.index(b"\n", len(head)) + 1 if b"\n" in data[len(head) :] else len(data)
    order, elements, textures = None, [], []
    for line in head.decode("latin-1").replace("\r", "\n").split("\n"):
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            order = _ORDERS.get(words[1])
        elif words[:1] == ["element"] and len(words) == 3:
            count = int(words[2]) if words[2].isdigit() else -1
            if not 0 <= count <= 3 * limits.MESH_FACES:
                raise AssetError(f"it must have at most {limits.MESH_FACES} faces; its header counts {words[2][:20]}.")
            if count > len(data):
                raise AssetError(f"its header counts {count} elements in {len(data)} bytes. Export it again.")
            elements.append(_Element(words[1], count, []))
        elif words[:1] == ["property"] and elements and len(words) >= 3:
            new = _property(words)
            if any(new.name == old.name for old in elements[-1].properties):
                raise AssetError(f"its header gives `{new.name[:40]}` twice. Export it again.")
            elements[-1].properties.append(new)
        elif words[:2] == ["comment", "TextureFile"]:
            textures.append(line.split("TextureFile", 1)[1].strip())
    if order is None:
        raise AssetError("its format must be ascii or binary. Export it again.")
    return order, elements, textures, start


def _property(words: list[str]) -> _Property:
    types = words[2:4] if words[1] == "list" else words[1:2]
    if any(kind not in _TYPES for kind in types) or len(words) < len(types) + 2:
        raise AssetError(f"its header holds `{' '.join(words)[:60]}`, which is no property. Export it again.")
    if words[1] == "list":
        return _Property(words[4] if len(words) > 4 else "", _TYPES[types[1]], _TYPES[types[0]])
    return _Property(words[2], _TYPES[types[0]])


def _read_ascii(data: bytes, start: int, elements: list[_Element]) -> dict[str, Table]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            numbers = np.fromstring(data[start:].decode("ascii", "replace"), dtype=np.float64, sep=" ")
        except ValueError as error:
            raise AssetError("its body holds what is no number. Export it again.") from error

    def take(kind: str, count: int, where: int) -> tuple[np.ndarray, int]:
        return numbers[where : where + count], where + count

    tables, at = {}, 0
    for element in elements:
        tables[element.name], at = _table(element, take, at)
    return tables


def _read_binary(data: bytes, start: int, elements: list[_Element], order: str) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    at = start
    for element in elements:
        if all(p.count is None for p in element.properties):
            dtype = np.dtype([(p.name, order + p.type) for p in element.properties])
            if at + element.count * dtype.itemsize > len(data):
                raise AssetError("it is cut short. Export it again.")
            rows = np.frombuffer(data, dtype, element.count, at)
            tables[element.name] = {p.name: rows[p.name].astype(p.type) for p in element.properties}
            at += element.count * dtype.itemsize
        else:
            uniform = _uniform(data, at, element, order)
            if uniform is not None:
                tables[element.name], at = uniform
                continue

            def take(kind: str, count: int, where: int) -> tuple[np.ndarray, int]:
                dtype = np.dtype(order + kind)
                if where + count * dtype.itemsize > len(data):
                    raise AssetError("it is cut short. Export it again.")
                return np.frombuffer(data, dtype, count, where), where + count * dtype.itemsize

            tables[element.name], at = _table(element, take, at)
    return tables


def _uniform(data: bytes, at: int, element: _Element, order: str) -> tuple[Table, int] | None:
    """Read an element whose lists all have the lengths of the first row at once; None if they have not."""
    fields, where = [], at
    for p in element.properties:
        if p.count is None:
            fields.append((p.name, order + p.type))
            where += np.dtype(p.type).itemsize
            continue
        kind = np.dtype(order + p.count)
        if where + kind.itemsize > len(data):
            return None
        length = int(np.frombuffer(data, kind, 1, where)[0])
        if not 0 <= length <= 256:
            return None
        fields += [(p.name + "#", order + p.count), (p.name, order + p.type, (length,))]
        where += kind.itemsize + length * np.dtype(p.type).itemsize
    dtype = np.dtype(fields)
    if not element.count or at + element.count * dtype.itemsize > len(data):
        return None
    rows = np.frombuffer(data, dtype, element.count, at)
    table: Table = {}
    for p in element.properties:
        if p.count is None:
            table[p.name] = rows[p.name].astype(p.type)
            continue
        lengths = rows[p.name + "#"].astype(np.int64)
        if (lengths != lengths[0]).any():
            return None
        table[p.name] = (lengths, rows[p.name].astype(p.type).reshape(-1))
    return table, at + element.count * dtype.itemsize


def _table(element: _Element, take: Any, at: int) -> tuple[Table, int]:
    """Read an element row by row."""
    columns: dict[str, list[Any]] = {p.name: [] for p in element.properties}
    lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.count is not None}
    for _ in range(element.count):
        for p in element.properties:
            if p.count is None:
                value, at = take(p.type, 1, at)
                if not len(value):
                    raise AssetError("it is cut short. Export it again.")
                columns[p.name].append(value[0])
                continue
            length, at = take(p.count, 1, at)
            count = int(length[0]) if len(length) else -1
            if not 0 <= count <= 3 * limits.MESH_FACES:
                raise AssetError("it is cut short, or a list in it has no length. Export it again.")
            values, at = take(p.type, count, at)
            if len(values) != count:
                raise AssetError("it is cut short. Export it again.")
            lengths[p.name].append(count)
            columns[p.name].append(values)
    table: Table = {}
    for p in element.properties:
        if p.count is None:
            table[p.name] = np.array(columns[p.name]).astype(p.type)
        else:
            flat = np.concatenate(columns[p.name]) if columns[p.name] else np.zeros(0)
            table[p.name] = (np.array(lengths[p.name], np.int64), flat.astype(p.type))
    return table, at


def _strips(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles of strips in which -1 begins a new one, as lists of three."""
    _, values = table.get("vertex_indices", table.get("vertex_index", (None, np.zeros(0))))
    faces = []
    for strip in np.split(values.astype(np.int64), np.flatnonzero(values < 0)):
        strip = strip[strip >= 0]
        if len(strip) > 2:
            part = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1)
            part[1::2] = part[1::2][:, [0, 2, 1]]
            faces.append(part)
    flat = np.concatenate(faces).reshape(-1) if faces else np.zeros(0, np.int64)
    return np.full(len(flat) // 3, 3), flat


def _triangles(
    points: np.ndarray, lengths: Int[np.ndarray, "f"], values: np.ndarray, files: AssetFiles
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (column in its polygon, polygon, vertex) of the corners of each triangle."""
    values = values.astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < len(points):
        raise AssetError(f"a face has a corner out of {len(points)} vertices. Export it again.")
    files.count(faces=int((lengths - 2).clip(0).sum()))
    start = lengths.cumsum() - lengths
    columns, polygons, corners = [], [], []
    for n in np.unique(lengths[lengths > 2]).tolist():
        members = np.flatnonzero(lengths == n)
        polygon = values[start[members][:, None] + np.arange(n)]
        which, owner = triangulate(points, polygon)
        columns.append(which)
        polygons.append(members[owner])
        corners.append(polygon[owner[:, None], which])
    if not corners:
        raise AssetError("it must have at least one face; it is empty. Export it again.")
    order = np.argsort(np.concatenate(polygons), kind="stable")
    return np.concatenate(columns)[order], np.concatenate(polygons)[order], np.concatenate(corners)[order]


def _colors(table: Table, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return colours and alpha in [0, 1]: whole numbers by their own width, floats as they are."""
    for red, green, blue, alpha in _COLORS:
        if red in table and green in table and blue in table:
            channels = [_unit(table[name]) for name in (red, green, blue)]
            if any(len(channel) != count for channel in channels):
                raise AssetError("its colours do not fit its vertices. Export it again.")
            see_through = _unit(table[alpha]) if alpha in table else None
            solid = see_through is None or bool((see_through == 1).all())
            return np.stack(channels, axis=1), None if solid else see_through
    return None, None


def _unit(values: Any) -> np.ndarray:
    if isinstance(values, tuple):
        raise AssetError("its colours are lists. Export it again.")
    if values.dtype.kind in "iu":
        return (values / np.iinfo(values.dtype).max).clip(0, 1)
    values = np.nan_to_num(values.astype(np.float64))
    return (values / 255 if values.size and values.max() > 1 else values).clip(0, 1)


def _vertex_uv(vertex: Table) -> np.ndarray | None:
    for u, v in _UVS:
        if u in vertex and v in vertex:
            return np.stack([vertex[u], vertex[v]], axis=1).astype(np.float64)
    return None


def _split(
    points: np.ndarray, color: Any, alpha: Any, corners: np.ndarray, columns: np.ndarray, polygon: np.ndarray,
    lengths: np.ndarray, texcoord: tuple[np.ndarray, np.ndarray],
) -> tuple[Any, ...]:  # fmt: skip
    """Give each corner a vertex of its own, for its own texture coordinates."""
    if (texcoord[0] != 2 * lengths).any():
        raise AssetError("its texture coordinates do not fit its faces. Export it again.")
    start = (texcoord[0].cumsum() - texcoord[0])[polygon][:, None] + 2 * columns
    uv = np.stack([texcoord[1][start], texcoord[1][start + 1]], axis=2).reshape(-1, 2).astype(np.float64)
    index = corners.reshape(-1)
    key = np.concatenate([index[:, None], uv.astype(np.float32).view(np.int32).astype(np.int64)], axis=1)
    _, first, faces = np.unique(key, axis=0, return_index=True, return_inverse=True)
    index = index[first]
    return (
        points[index], None if color is None else color[index], None if alpha is None else alpha[index],
        faces.reshape(-1, 3), uv[first],
    )  # fmt: skip
