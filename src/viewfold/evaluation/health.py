"""Is a mesh sound?  Counts of what printers, engines and painters stumble over; no network, no reference.

Corners at one and the same place count as one vertex: files split them where texture coordinates or normals differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh
from viewfold.scene.texture import rasterize_uv

FLAT = 1e-12
"""Faces of less area than this share of the squared diagonal have none."""

ATLAS = 1024
"""Texture coordinates are looked at in an atlas of so many texels a side, or fewer where faces lie over each other so
often that it would be more than `MOST_TEXELS`."""

MOST_TEXELS = 2**22
"""In the boxes of all faces in the atlas."""

PAIRS_AT_ONCE = 2**20
"""Pairs of faces, or texels of faces, looked at in one go; bounds memory, changes nothing else."""

MOST_PAIRS = 2**31
"""Pairs that overlap along one axis; of a mesh with more, crossings are not counted (some minutes)."""


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """How the texture coordinates of a mesh lie in the unit square."""

    coverage: float
    """Share of the square that a face covers."""

    overlap: float
    """Share of what is covered that two faces or more cover: they show the same texels."""

    outside: float
    """Share of the surface whose coordinates leave the square: there the texture repeats, or its edge is drawn out."""

    texels_per_unit: float
    """Texels of the texture on a unit of length, the median over the surface; of an atlas of `ATLAS` without one."""

    uneven: float
    """By what factor that differs between the sparsest and the densest tenth of the surface; 1 is even."""

    seams: float
    """Share of the length of all edges at which the coordinates of the two faces differ."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """What there is, and what is wrong, in a mesh."""

    n_faces: int
    n_vertices: int
    """Different places."""

    n_pieces: int
    """Sets of faces that hang together by vertices."""

    n_degenerate: int
    """Faces without area."""

    n_repeated: int
    """Faces with the same three vertices as another one."""

    n_open_edges: int
    """Edges of one face alone."""

    n_crowded_edges: int
    """Edges of more than two faces."""

    n_flipped_edges: int
    """Edges of two faces that disagree on which side is out."""

    n_crossings: int | None
    """Pairs of faces without a common vertex that pass through each other; faces in one plane are not looked at.  None
    of a mesh with more than `MOST_PAIRS` to look at."""

    closed: bool
    """Watertight: each edge of the faces that have an area belongs to two that agree on the outside."""

    volume: float | None
    """Enclosed, in cubic units; None of a mesh that is not closed.  Negative: the inside is out."""

    atlas: Atlas | None
    """None without texture coordinates."""


def examine(mesh: Mesh) -> Health:
    """Count what is wrong with a mesh.

    Raises:
        InputError: it has no faces, or texture coordinates that are no numbers.
    """
    if not len(mesh.faces):
        raise InputError("`mesh` must have at least one face to be examined; it is empty.")
    used, faces = _welded(mesh)
    corner = used[faces]
    area = _areas(corner)
    flat = area <= FLAT * _diagonal(used) ** 2
    solid = faces[~flat]
    repeated = len(solid) - len(np.unique(np.sort(solid, axis=1), axis=0))
    n_open, n_crowded, n_flipped = _edges(solid)
    closed = len(solid) > 0 and not (n_open or n_crowded or n_flipped)
    corner = corner[~flat]
    return Health(
        n_faces=len(faces),
        n_vertices=len(used),
        n_pieces=_pieces(faces, len(used)),
        n_degenerate=int(flat.sum()),
        n_repeated=repeated,
        n_open_edges=n_open,
        n_crowded_edges=n_crowded,
        n_flipped_edges=n_flipped,
        n_crossings=count_crossings(used, solid),
        closed=closed,
        volume=float(np.einsum("fi,fi->f", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])).sum() / 6)
        if closed
        else None,
        atlas=_atlas(mesh, faces, area),
    )


def is_closed(mesh: Mesh) -> bool:
    """Return whether each edge of the faces that have an area belongs to two that agree on the outside."""
    used, faces = _welded(mesh)
    solid = faces[_areas(used[faces]) > FLAT * _diagonal(used) ** 2]
    return len(solid) > 0 and not any(_edges(solid))


def _welded(mesh: Mesh) -> tuple[Float[np.ndarray, "k 3"], Int[np.ndarray, "f 3"]]:
    """Return the different places of corners, and the faces by them."""
    places = mesh.vertices.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()]
    used, faces = np.unique(places.reshape(-1, 3), axis=0, return_inverse=True)
    return used, faces.reshape(-1, 3)


def _areas(corner: Float[np.ndarray, "f 3 3"]) -> Float[np.ndarray, "f"]:
    return np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1) / 2


def _diagonal(places: Float[np.ndarray, "k 3"]) -> float:
    return float(np.linalg.norm(places.max(axis=0) - places.min(axis=0))) if len(places) else 0.0


def _edges(faces: Int[np.ndarray, "f 3"]) -> tuple[int, int, int]:
    """Return how many edges have one face, more than two, and two that disagree on the outside."""
    if not len(faces):
        return 0, 0, 0
    ends = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    forward = ends[:, 0] < ends[:, 1]
    _, edge, count = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True, return_counts=True)
    ahead = np.bincount(edge.reshape(-1), weights=forward, minlength=len(count))
    return int((count == 1).sum()), int((count > 2).sum()), int(((count == 2) & (ahead != 1)).sum())


def _pieces(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> int:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row, column = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    graph = coo_array((np.ones(len(row), dtype=bool), (row, column)), shape=(n_vertices, n_vertices))
    return int(connected_components(graph, directed=False)[0])


def count_crossings(places: Float[np.ndarray, "k 3"], faces: Int[np.ndarray, "f 3"]) -> int | None:
    """Return how many pairs of faces without a common vertex pass through each other.

    Two triangles cross if an edge of one passes through the other (Moeller and Trumbore 1997, for each of the six
    edges).  Pairs are found by sorting the faces along the longest axis of all.
    """
    corner, crossings = places[faces], 0
    pairs = _near_pairs(corner.min(axis=1), corner.max(axis=1))
    if pairs is None:
        return None
    for a, b in pairs:
        apart = (faces[a][:, :, None] != faces[b][:, None, :]).all(axis=(1, 2))
        first, second = corner[a[apart]], corner[b[apart]]
        through = np.zeros(len(first), dtype=bool)
        for one, other in ((first, second), (second, first)):
            for start, end in ((0, 1), (1, 2), (2, 0)):
                through |= _pierces(one[:, start], one[:, end], other)
        crossings += int(through.sum())
    return crossings


def _near_pairs(
    low: Float[np.ndarray, "f 3"], high: Float[np.ndarray, "f 3"]
) -> Iterator[tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]] | None:
    """Return the pairs of boxes that overlap, each once, some at a time; None where there are too many to look at."""
    if not len(low):
        return iter(())
    axis = int((high.max(axis=0) - low.min(axis=0)).argmax())
    order = low[:, axis].argsort(kind="stable")
    low, high = low[order], high[order]
    last = np.searchsorted(low[:, axis], high[:, axis], side="right")  # boxes that begin before this one ends
    count = np.maximum(last - np.arange(len(low)) - 1, 0)
    if count.sum() > MOST_PAIRS:
        return None

    def found() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin, end in _runs(count):
            some = count[begin:end]
            a = np.repeat(np.arange(begin, end), some)
            b = a + 1 + np.arange(some.sum()) - np.repeat(some.cumsum() - some, some)
            near = ((low[b] <= high[a]) & (low[a] <= high[b])).all(axis=1)
            yield order[a[near]], order[b[near]]

    return found()


def _runs(count: Int[np.ndarray, "n"]) -> Iterator[tuple[int, int]]:
    """Yield ranges, one after the other, that count up to `PAIRS_AT_ONCE` each, or are of one."""
    total, begin = count.cumsum(), 0
    while begin < len(count):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + PAIRS_AT_ONCE, side="right")))
        yield begin, end
        begin = end


def _pierces(
    start: Float[np.ndarray, "p 3"], end: Float[np.ndarray, "p 3"], triangle: Float[np.ndarray, "p 3 3"]
) -> Bool[np.ndarray, "p"]:
    """Return which segments pass through their triangle; those in its plane do not."""
    origin, along = triangle[:, 0], end - start
    u_edge, v_edge = triangle[:, 1] - origin, triangle[:, 2] - origin
    across = np.cross(along, v_edge)
    determinant = (u_edge * across).sum(axis=1)
    scale = np.linalg.norm(along, axis=1) * np.linalg.norm(u_edge, axis=1) * np.linalg.norm(v_edge, axis=1)
    crosses = np.abs(determinant) > 1e-9 * scale
    inverse = 1 / np.where(crosses, determinant, 1.0)
    offset = start - origin
    u = (offset * across).sum(axis=1) * inverse
    turned = np.cross(offset, u_edge)
    v = (along * turned).sum(axis=1) * inverse
    t = (v_edge * turned).sum(axis=1) * inverse
    return crosses & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)


def _atlas(mesh: Mesh, faces: Int[np.ndarray, "f 3"], area: Float[np.ndarray, "f"]) -> Atlas | None:
    """Return how the texture coordinates lie; `faces` with vertices that count as one where they are at one place."""
    if mesh.uv is None or not area.sum() > 0:
        return None
    uv = mesh.uv.detach().cpu().double()
    corner = uv[mesh.faces.cpu()].numpy()
    if not np.isfinite(corner).all():
        raise InputError("`mesh` must have finite texture coordinates; they hold NaN or infinite numbers.")
    outside = ((corner < -1e-6) | (corner > 1 + 1e-6)).any(axis=(1, 2))
    covered, twice = _covered(uv, mesh.faces.cpu())
    sizes = [ATLAS**2 if m.texture is None else m.texture.image[..., 0].numel() for m in mesh.materials]
    texels = np.array(sizes)[mesh.material_index().cpu().numpy()]
    u, v = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    in_atlas = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / 2
    flat = area <= 0
    density = np.sqrt(in_atlas * texels / np.where(flat, 1.0, area))
    sparse, median, dense = _quantiles(density, area, (0.1, 0.5, 0.9))
    return Atlas(
        coverage=float(covered.mean()),
        overlap=float(twice.sum() / max(covered.sum(), 1)),
        outside=float(area[outside].sum() / area.sum()),
        texels_per_unit=median,
        uneven=dense / max(sparse, 1e-12),
        seams=_seams(mesh, faces, corner),
    )


def _covered(uv: Float[torch.Tensor, "k 2"], faces: Int[torch.Tensor, "f 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Return which texels of the square lie in a face, and which in two or more."""
    box = uv[faces].clamp(0, 1)
    extent = box.amax(dim=1) - box.amin(dim=1)
    size = max(16, min(ATLAS, int((MOST_TEXELS / max(float(extent.prod(dim=1).sum()), 1e-9)) ** 0.5)))
    texels = (extent * size + 2).prod(dim=1).long().numpy()  # at most
    covered, often = np.zeros(size**2, dtype=bool), np.zeros(size**2, dtype=np.int64)
    for begin, end in _runs(texels):
        row, column, _, weight = rasterize_uv(uv, faces[begin:end], size=size)
        texel = (row * size + column).numpy()
        covered[texel] = True
        within = (weight > 1e-6).all(dim=1).numpy()  # a texel on an edge is of both faces
        often += np.bincount(texel[within], minlength=size**2)
    return covered, often > 1


def _quantiles(
    values: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"], shares: tuple[float, ...]
) -> list[float]:
    """Return the values that these shares of the weight lie below."""
    order = values.argsort(kind="stable")
    total = weights[order].cumsum()
    return [float(values[order[min(np.searchsorted(total, share * total[-1]), len(order) - 1)]]) for share in shares]


def _seams(mesh: Mesh, faces: Int[np.ndarray, "f 3"], corner: Float[np.ndarray, "f 3 2"]) -> float:
    """Return the share of the length of edges between two faces at which their texture coordinates differ."""
    places = mesh.vertices.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()]
    ends, at, length = [], [], []
    for one, other in ((0, 1), (1, 2), (2, 0)):
        forward = faces[:, one] < faces[:, other]
        ends.append(np.where(forward[:, None], faces[:, [one, other]], faces[:, [other, one]]))
        there = np.concatenate([corner[:, one], corner[:, other]], axis=1)
        back = np.concatenate([corner[:, other], corner[:, one]], axis=1)
        at.append(np.where(forward[:, None], there, back))
        length.append(np.linalg.norm(places[:, one] - places[:, other], axis=1))
    edges, where, long = np.concatenate(ends), np.concatenate(at), np.concatenate(length)
    _, edge, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    order = edge.reshape(-1).argsort(kind="stable")
    first = (count.cumsum() - count)[count == 2]
    one, other = order[first], order[first + 1]
    differ = np.abs(where[one] - where[other]).max(axis=1) > 1e-5
    return float(long[one][differ].sum() / max(long[one].sum(), 1e-12))
