"""Wavefront OBJ: polygons, texture coordinates, vertex colours and materials, as its many writers write it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int

from viewfold.errors import AssetError
from viewfold.scene.assetfile import AssetFiles
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.mtl import Surface, Surfaces, read_mtl
from viewfold.scene.polygon import triangulate

_REFUSED = {b"curv", b"curv2", b"surf", b"call", b"csh", b"bmat", b"cstype"}
"""Free-form surfaces, and calls of other files and programs."""

_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""Importers take an OBJ as y up and -z forward; our world is z up and faces -y."""

NO_TEXTURE_COORDINATE = -1


@dataclass
class _Lines:
    """The lines of a file by what they hold, each with its number."""

    vertices: list[bytes] = field(default_factory=list)
    vertex_at: list[int] = field(default_factory=list)
    uvs: list[bytes] = field(default_factory=list)
    uv_at: list[int] = field(default_factory=list)
    faces: list[bytes] = field(default_factory=list)
    face_at: list[int] = field(default_factory=list)
    materials: list[str] = field(default_factory=list)
    material_at: list[int] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    painted: list[bytes] = field(default_factory=list)
    """ZBrush's colours of the vertices in order, in comments `#MRGB`: eight hexadecimal digits each, mask first."""


def read_obj(data: bytes, files: AssetFiles) -> Mesh:
    """Read an OBJ file and its libraries into our frame, vertices in float64.

    Polygons are cut by ear clipping; faces without a material are white; points and lines beside faces are passed over.

    Raises:
        AssetError: it is damaged, empty or too large, holds free-form surfaces, or a texture or the library of a
            material is not there.
    """
    lines = _sort(data)
    points, colors = _vertices(lines.vertices)
    if colors is None and lines.painted:
        colors = _painted(b"".join(lines.painted), len(points))
    uv = _numbers(lines.uvs, 1, "vt")[0]
    uv = np.concatenate([uv, np.zeros((len(uv), 2))], axis=1)[:, :2]
    corners, face_line = _faces(lines, points, len(uv), files)
    surfaces, face_material = _materials(lines, face_line, files)
    points = points @ _TO_Z_UP.T
    mesh = _joined(points, colors, uv, corners, face_material, surfaces)
    files.count(vertices=len(mesh.vertices))
    return mesh


def _sort(data: bytes) -> _Lines:
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\t", b" ")
    if b"\\" in data:
        data = re.sub(rb"\\ *\n", b" ", data)
    found = _Lines()
    has_comments = b"#" in data
    for number, line in enumerate(data.split(b"\n")):
        if line[:3] == b"vn ":  # shading follows the form (Mesh.normals)
            continue
        if line[:1] == b" ":
            line = line.lstrip()
        if has_comments and b"#" in line and not line.startswith((b"usemtl", b"mtllib", b"g ", b"o ")):
            if line.startswith(b"#MRGB "):
                found.painted.append(line[6:].strip())
            line = line.partition(b"#")[0]
        kind, _, rest = line.partition(b" ")
        if kind == b"v":
            found.vertices.append(rest)
            found.vertex_at.append(number)
        elif kind == b"f" or kind == b"fo":
            found.faces.append(rest)
            found.face_at.append(number)
        elif kind == b"vt":
            found.uvs.append(rest)
            found.uv_at.append(number)
        elif kind == b"usemtl":
            found.materials.append(_text(rest).strip())
            found.material_at.append(number)
        elif kind == b"mtllib":
            found.libraries.append(_text(rest).strip())
        elif kind in _REFUSED:
            raise AssetError(f"it holds `{_text(kind)}`, which is not read. Export it as polygons.")
    if not found.faces:
        raise AssetError("it must have at least one face; it is empty or holds only points and lines.")
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _numbers(lines: list[bytes], least: int, name: str) -> tuple[Float[np.ndarray, "n w"], Int[np.ndarray, "n"]]:
    """Return the numbers of lines, padded with NaN to the widest, and how many each has."""
    if not lines:
        return np.zeros((0, 0)), np.zeros(0, np.int64)
    counts = _per_line(lines)[0]
    if counts.min() < least or counts.max() > 8:
        raise AssetError(f"a line `{name}` holds {counts.min() if counts.min() < least else counts.max()} numbers.")
    flat = _parse(b" ".join(lines), np.float64)
    if len(flat) != counts.sum():
        raise AssetError(f"a line `{name}` holds what is no number. Export it again.")
    if counts.min() == counts.max():
        return flat.reshape(len(lines), -1), counts
    out = np.full((len(lines), counts.max()), np.nan)
    out[np.arange(out.shape[1]) < counts[:, None]] = flat
    return out, counts


def _per_line(lines: list[bytes]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Return how many words each line has, how many slashes, and how many pairs of slashes."""
    raw = np.frombuffer(b"\n".join(lines), np.uint8)
    ends = np.append(np.flatnonzero(raw == ord("\n")), len(raw))
    word = raw > ord(" ")
    word[1:] &= raw[:-1] <= ord(" ")
    slash = raw == ord("/")

    def count(mask: np.ndarray) -> np.ndarray:
        return np.diff(np.searchsorted(np.flatnonzero(mask), ends), prepend=0)

    return count(word), count(slash), count(slash[:-1] & slash[1:])


def _parse(text: bytes, dtype: type) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.fromstring(text.decode("ascii", "replace"), dtype=dtype, sep=" ")
        except ValueError:  # what is no number; the caller counts
            return np.zeros(0, dtype)


def _vertices(lines: list[bytes]) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, "k 3"] | None]:
    """Return positions, and colours where lines are x y z r g b; 255 is 1 where one is above 1.

    A seventh number is alpha, which is passed over, as other readers do.
    """
    values, counts = _numbers(lines, 3, "v")
    if not len(values):
        raise AssetError("it has faces and no vertices. Export it again.")
    points = values[:, :3]
    colors = None
    colored = (counts == 6) | (counts == 7)
    if colored.any():
        colors = np.ones((len(values), 3))
        colors[colored] = values[colored, 3:6]
        if not np.isfinite(colors).all():
            raise AssetError("its vertex colours hold NaN or infinity. Export it again.")
        if colors.max() > 1:
            colors[colored] /= 255
        colors = colors.clip(0, 1)
    if not np.isfinite(points).all():
        raise AssetError("its vertices hold NaN or infinity. Export it again.")
    return np.ascontiguousarray(points), colors


def _painted(digits: bytes, count: int) -> Float[np.ndarray, "k 3"]:
    try:
        mask_rgb = np.frombuffer(bytes.fromhex(digits.decode("ascii", "replace")), np.uint8)
    except ValueError as error:
        raise AssetError("its colours in #MRGB are no hexadecimal numbers. Export it again.") from error
    if len(mask_rgb) != 4 * count:
        raise AssetError(f"its colours in #MRGB are {len(mask_rgb) / 4:g} for {count} vertices. Export it again.")
    return mask_rgb.reshape(-1, 4)[:, 1:] / 255


def _faces(
    lines: _Lines, points: Float[np.ndarray, "k 3"], n_uvs: int, files: AssetFiles
) -> tuple[Int[np.ndarray, "f 3 2"], Int[np.ndarray, "f"]]:
    """Return (vertex, texture coordinate) of the corners of each triangle, and the line of its polygon."""
    words, slashes_in, pairs = _per_line(lines.faces)
    files.count(faces=int((words - 2).clip(0).sum()))
    forms, form = np.unique((words << 33) + (slashes_in << 1) + (pairs > 0), return_inverse=True)
    at, before_v, before_vt = (np.array(a, np.int64) for a in (lines.face_at, lines.vertex_at, lines.uv_at))
    corners, owner = [], []
    for number, code in enumerate(forms.tolist()):
        n, slashes, double = code >> 33, code >> 1 & 2**32 - 1, bool(code & 1)
        if n < 3:
            continue  # a face of two corners is a line
        index = np.flatnonzero(form == number)
        vertex, uv = _corners([lines.faces[i] for i in index.tolist()], n, slashes, double)
        place = at[index]
        vertex = _absolute(vertex, np.searchsorted(before_v, place), len(points), "vertex")
        uv = _absolute(uv, np.searchsorted(before_vt, place), n_uvs, "texture coordinate", optional=True)
        which, polygon = triangulate(points, vertex)
        pair = np.stack([vertex, uv], axis=2)
        corners.append(pair[polygon[:, None], which])
        owner.append(place[polygon])
    if not corners:
        raise AssetError("it must have at least one face; it is empty or holds only points and lines.")
    order = np.argsort(np.concatenate(owner), kind="stable")
    return np.concatenate(corners)[order], np.concatenate(owner)[order]


def _corners(lines: list[bytes], n: int, slashes: int, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (vertex, texture coordinate or 0) as they are written, of faces with `n` corners in one form."""
    uniform = (slashes, double) in ((0, False), (n, False), (2 * n, False), (2 * n, True))
    text = b" ".join(lines)
    if slashes == n and not double:  # or some corners have two slashes and others none
        uniform = re.search(rb"/[^ /]*/", text) is None
    if uniform:
        width = 1 if slashes == 0 else 2 if slashes == n or double else 3
        flat = _parse(text.replace(b"//", b" ").replace(b"/", b" "), np.int64)
        if len(flat) == len(lines) * n * width:
            table = flat.reshape(len(lines), n, width)
            uv = table[..., 1] if width > 1 and not double else np.zeros_like(table[..., 0])
            return table[..., 0], uv
    try:
        words = [[word.split(b"/") for word in line.split()] for line in lines]
        vertex = np.array([[int(word[0]) for word in line] for line in words])
        uv = np.array([[int(word[1]) if len(word) > 1 and word[1] else 0 for word in line] for line in words])
    except (ValueError, OverflowError) as error:
        raise AssetError(f"a face holds what is no index ({error}). Export it again.") from error
    return vertex, uv


def _absolute(index: np.ndarray, before: np.ndarray, count: int, name: str, *, optional: bool = False) -> np.ndarray:
    """Return indices from 0 on: positive ones count from 1, negative ones back from the face's own line."""
    absolute = np.where(index > 0, index - 1, before[:, None] + index)
    if optional:
        absolute = np.where(index == 0, NO_TEXTURE_COORDINATE, absolute)
    wrong = (absolute < 0) & ~((index == 0) & optional) | (absolute >= count) | ((index == 0) & (not optional))
    if wrong.any():
        raise AssetError(f"a face refers to {name} {int(index[wrong][0])} of {count}. Export it again.")
    return absolute


def _materials(
    lines: _Lines, face_line: Int[np.ndarray, "f"], files: AssetFiles
) -> tuple[list[Surface], Int[np.ndarray, "f"]]:
    """Return the surfaces in use, and which of them each face has; 0 is that of faces without a material."""
    used = _names_in_use(lines, face_line)
    known: dict[str, dict[str, str]] = {}
    missing = []
    for line in lines.libraries:
        for name in _library_names(line, files):
            found = files.find(name)
            if found is None:
                missing.append(name)
            else:
                known = {**read_mtl(_text(files.read(found))), **known}
    unknown = sorted(used - set(known) - {""})
    if unknown and missing:
        raise AssetError(
            f"its materials ({', '.join(unknown)[:80]}) are in `{missing[0]}`, which is not there. Put it beside it."
        )
    if lost := sorted(set(unknown) - _NO_MATERIAL):
        files.remarks.append(f"no library of it holds its materials {', '.join(lost)[:200]}, which are white.")
    plain = Surface(Material())
    names = sorted(used & set(known))
    reader = Surfaces(files)
    surfaces = [plain, *(reader.surface(known[name]) for name in names)]
    number = {name: index + 1 for index, name in enumerate(names)}
    of_line = np.array([0, *(number.get(name, 0) for name in lines.materials)])
    return surfaces, of_line[np.searchsorted(np.array(lines.material_at, np.int64), face_line)]


_NO_MATERIAL = {"None", "none", "(null)", "null"}
"""What exporters name the material of faces that have none."""


def _names_in_use(lines: _Lines, face_line: Int[np.ndarray, "f"]) -> set[str]:
    """Return the materials that faces have; others may be broken without harm."""
    used = np.unique(np.searchsorted(np.array(lines.material_at, np.int64), face_line))
    return {lines.materials[index - 1] for index in used if index > 0}


def _library_names(line: str, files: AssetFiles) -> list[str]:
    """Return the files of an mtllib line: the whole of it, if that is a file (names may hold spaces), or its words."""
    if files.find(line) is not None or " " not in line:
        return [line]
    parts = re.findall(r".*?\.mtl(?=\s|$)", line, flags=re.IGNORECASE)
    return [part.strip() for part in parts] or line.split()


def _joined(
    points: Float[np.ndarray, "k 3"],
    colors: Float[np.ndarray, "k 3"] | None,
    uv: Float[np.ndarray, "m 2"],
    corners: Int[np.ndarray, "f 3 2"],
    face_material: Int[np.ndarray, "f"],
    surfaces: list[Surface],
) -> Mesh:
    """Return one mesh: a vertex for each pair of position and texture coordinate, and for each way of moving those."""
    moves = sorted({(surface.scale, surface.offset) for surface in surfaces})
    move_of = np.array([moves.index((surface.scale, surface.offset)) for surface in surfaces])
    move = np.repeat(move_of[face_material], 3)
    flat = corners.reshape(-1, 2)
    key = (flat[:, 0] * (len(uv) + 1) + flat[:, 1] + 1) * len(moves) + move
    _, first, faces = np.unique(key, return_index=True, return_inverse=True)
    vertex, place = flat[first].T
    textured = any(surface.material.textures for surface in surfaces)
    out_uv = None
    if textured:
        scale, offset = (np.array([m[part] for m in moves])[move[first]] for part in (0, 1))
        padded = np.concatenate([uv, np.zeros((1, 2))])  # -1, no coordinate, is the last one
        out_uv = torch.from_numpy(np.nan_to_num(padded[place] * scale + offset, posinf=0, neginf=0)).float()
    used, face_material = np.unique(face_material, return_inverse=True)
    return Mesh(
        vertices=torch.from_numpy(points[vertex]),
        faces=torch.from_numpy(faces.reshape(-1, 3)),
        vertex_color=None if colors is None else torch.from_numpy(colors[vertex]).float(),
        uv=out_uv,
        face_material=torch.from_numpy(face_material.reshape(-1)),
        materials=tuple(surfaces[index].material for index in used),
    )
