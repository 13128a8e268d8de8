"""Closed solids that toys are built from: boxes, lathes, ellipsoids, tubes and extrusions.

Every function returns a `Solid` whose surface is watertight and whose faces wind counter-clockwise seen from outside.
Plain NumPy in float64: a toy of two thousand faces takes about a millisecond.  Nothing here knows colours or kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Number = float | int

Points = NDArray[np.float64] | Sequence[Sequence[Number]]
"""Points (m, 3) along a curve."""

_CORNERS = [[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed triangle surface: vertices (k, 3) and faces (f, 3)."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    def at(self, x: Number = 0.0, y: Number = 0.0, z: Number = 0.0) -> Solid:
        """Return the solid moved by (x, y, z)."""
        return Solid(self.vertices + np.array([x, y, z]), self.faces)

    def scaled(self, x: Number = 1.0, y: Number = 1.0, z: Number = 1.0) -> Solid:
        """Return the solid stretched along the axes; a negative product of factors turns the faces round."""
        faces = self.faces if x * y * z > 0 else self.faces[:, ::-1]
        return Solid(self.vertices * np.array([x, y, z]), faces)

    def turned(self, *, x: Number = 0.0, y: Number = 0.0, z: Number = 0.0) -> Solid:
        """Return the solid turned about the x, then the y, then the z axis, in degrees, counter-clockwise."""
        vertices = self.vertices
        for axis, degrees in enumerate((x, y, z)):
            if degrees:
                vertices = vertices @ _rotation(axis, degrees).T
        return Solid(vertices, self.faces)


def _rotation(axis: int, degrees: Number) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _strip(rings: int, n: int, *, wrap: bool = False) -> NDArray[np.int64]:
    """Return the faces of a grid of `rings` closed rings of `n` points; `wrap` joins the last ring to the first."""
    ring, step = np.meshgrid(np.arange(rings if wrap else rings - 1), np.arange(n), indexing="ij")
    above, beside = (ring + 1) % rings, (step + 1) % n
    a, b, c, d = (i * n + j for i, j in ((ring, step), (ring, beside), (above, beside), (above, step)))
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _capped(
    rings: NDArray[np.float64],
    bottom: Sequence[Number] | NDArray[np.float64],
    top: Sequence[Number] | NDArray[np.float64],
) -> Solid:
    """Close a stack of rings (m, n, 3), counter-clockwise seen from above, with one point at either end."""
    vertices = np.concatenate([rings.reshape(-1, 3), np.array([bottom, top], dtype=np.float64)])
    return Solid(vertices, _capped_faces(*rings.shape[:2]))


@cache
def _capped_faces(m: int, n: int) -> NDArray[np.int64]:
    """Return the faces of `m` rings of `n` points, and of the fans to the two points after them."""
    step = np.arange(n)
    beside = (step + 1) % n
    low = np.stack([np.full(n, m * n), beside, step], -1)
    high = np.stack([np.full(n, m * n + 1), (m - 1) * n + step, (m - 1) * n + beside], -1)
    faces = np.concatenate([_strip(m, n), low, high])
    faces.setflags(write=False)  # shared by all solids of these numbers
    return faces


def lathe(profile: Sequence[tuple[Number, Number]], *, n: int = 24) -> Solid:
    """Turn a profile of (radius, z), from the bottom's axis up round the outside to the top's axis, about z."""
    points = np.array([p for p in profile if p[0] > 1e-9], dtype=np.float64)
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    rings = np.concatenate(
        [points[:, None, :1] * circle[None], np.broadcast_to(points[:, None, 1:], (len(points), n, 1))], axis=-1
    )
    return _capped(rings, (0, 0, profile[0][1]), (0, 0, profile[-1][1]))


def cylinder(radius: Number, height: Number, *, top: Number | None = None, n: int = 20) -> Solid:
    """Stand a cylinder, or a cut cone with the radius `top`, on z = 0."""
    return lathe([(radius, 0.0), (radius if top is None else top, height)], n=n)


def cone(radius: Number, height: Number, *, n: int = 20) -> Solid:
    """Stand a cone on z = 0."""
    return lathe([(radius, 0.0), (0.0, height)], n=n)


def ellipsoid(x: Number, y: Number | None = None, z: Number | None = None, *, n: int = 18) -> Solid:
    """Return an ellipsoid of these half-axes about the origin; one number makes a sphere."""
    polar = np.linspace(0, np.pi, n // 2 + 2)[1:-1]
    profile = [(0.0, -1.0), *zip(np.sin(polar).tolist(), (-np.cos(polar)).tolist(), strict=True), (0.0, 1.0)]
    return lathe(profile, n=n).scaled(x, x if y is None else y, x if z is None else z)


def box(x: Number, y: Number, z: Number, *, bevel: Number = 0.0, taper: tuple[Number, Number] = (1.0, 1.0)) -> Solid:
    """Return a box of these edges about the origin.

    Args:
        x, y, z: full edge lengths.
        bevel: width that the chamfers cut from every edge.
        taper: factors on the x and y of the top compared with the bottom.
    """
    half = np.array([x, y, z]) / 2
    bevel = min(bevel, 0.45 * float(half.min()) * 2)
    signs = np.array(_CORNERS)
    if bevel <= 0:
        vertices = signs * half
        quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    else:
        inset = half[None] - bevel * (1 - np.eye(3))
        vertices = (signs[:, None] * inset[None]).reshape(24, 3)
        faces = _bevelled_faces()
    scale = 1 + (np.array(taper) - 1) * (vertices[:, 2:] / z + 0.5)
    return Solid(np.concatenate([vertices[:, :2] * scale, vertices[:, 2:]], -1), np.array(faces, dtype=np.int64))


@cache
def _bevelled_faces() -> list[tuple[int, int, int]]:
    """Return the 44 faces of a chamfered box; vertex 3 c + a is the one of corner c that lies on face axis a."""
    signs = np.array(_CORNERS)
    corner = {tuple(s): i for i, s in enumerate(signs.tolist())}

    def loop(points: list[tuple[tuple[int, ...], int]], outward: NDArray[np.float64]) -> list[tuple[int, int, int]]:
        where = np.array([np.array(s) * (1 - 0.3 * (1 - np.eye(3)[a])) for s, a in points])
        turn = np.cross(where[1] - where[0], where[2] - where[0]) @ outward
        index = [3 * corner[s] + a for s, a in (points if turn > 0 else points[::-1])]
        return [(index[0], index[i], index[i + 1]) for i in range(1, len(index) - 1)]

    def sign(**at: int) -> tuple[int, ...]:
        return tuple(at[axis] for axis in "abc")

    faces: list[tuple[int, int, int]] = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3

        def place(i: int, j: int, k: int, order: tuple[int, int, int] = (axis, u, v)) -> tuple[int, ...]:
            spot = [0, 0, 0]
            for slot, value in zip(order, (i, j, k), strict=True):
                spot[slot] = value
            return sign(a=spot[0], b=spot[1], c=spot[2])

        for s in (-1, 1):
            around = [place(s, *jk) for jk in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            faces += loop([(p, axis) for p in around], np.array(place(s, 0, 0), dtype=np.float64))
            for t in (-1, 1):  # the chamfer between faces u = s and v = t, along `axis`
                ends = place(-1, s, t), place(1, s, t)
                ring = [(ends[0], u), (ends[1], u), (ends[1], v), (ends[0], v)]
                faces += loop(ring, np.array(place(0, s, t), dtype=np.float64))
    for s in corner:
        faces += loop([(s, 0), (s, 1), (s, 2)], np.array(s, dtype=np.float64))
    return faces


def tube(points: Points, radius: Number | Sequence[Number], *, n: int = 10, closed: bool = False) -> Solid:
    """Sweep a circle along a curve of points (m, 3); `radius` may differ at every point; `closed` joins the ends."""
    path = np.asarray(points, dtype=np.float64)
    forward = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    side = np.cross(forward[0], np.eye(3)[np.argmin(np.abs(forward[0]))])
    sides = []
    for ahead in forward:  # carry one side vector along the curve, so that the rings do not twist
        side = side - ahead * (side @ ahead)
        side = side / np.linalg.norm(side)
        sides.append(side)
    across = np.array(sides)
    angle = 2 * np.pi * np.arange(n) / n
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(path))[:, None, None]
    spokes = (
        np.cos(angle)[None, :, None] * across[:, None]
        + np.sin(angle)[None, :, None] * np.cross(forward, across)[:, None]
    )
    rings = path[:, None] + radii * spokes
    if closed:
        return Solid(rings.reshape(-1, 3), _strip(len(path), n, wrap=True))
    return _capped(rings, path[0], path[-1])


def arc(radius: Number, start: Number, stop: Number, *, n: int = 12, squash: Number = 1.0) -> NDArray[np.float64]:
    """Return points (n, 3) on an arc in the xz plane from `start` to `stop` degrees; `squash` scales its x."""
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([squash * radius * np.cos(angle), np.zeros(n), radius * np.sin(angle)], -1)


def torus(radius: Number, thickness: Number, *, n: int = 24) -> Solid:
    """Return a ring in the xy plane: `radius` to the middle of a tube of the radius `thickness`."""
    angle = 2 * np.pi * np.arange(n) / n
    return tube(np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], -1), thickness, closed=True)


def loft(rings: NDArray[np.float64]) -> Solid:
    """Close a stack of rings (m, n, 3), each counter-clockwise seen from the end of the stack, at their means."""
    stack = np.asarray(rings, dtype=np.float64)
    return _capped(stack, stack[0].mean(0), stack[-1].mean(0))


def extrude(outline: Sequence[tuple[Number, Number]], thickness: Number) -> Solid:
    """Thicken a simple polygon of (x, z) points along y, by half of `thickness` to either side."""
    flat = np.array(outline, dtype=np.float64)
    if _area(flat) < 0:
        flat = flat[::-1]
    n, triangles = len(flat), np.array(_ears(flat), dtype=np.int64)
    front = np.stack([flat[:, 0], np.full(n, -thickness / 2), flat[:, 1]], -1)
    back = front * np.array([1, -1, 1])
    step, beside = np.arange(n), (np.arange(n) + 1) % n
    walls = np.concatenate([np.stack([step, step + n, beside], -1), np.stack([beside, step + n, beside + n], -1)])
    return Solid(np.concatenate([front, back]), np.concatenate([triangles, triangles[:, ::-1] + n, walls]))


def _area(flat: NDArray[np.float64]) -> float:
    ahead = np.roll(flat, -1, 0)
    return float(0.5 * (flat[:, 0] * ahead[:, 1] - ahead[:, 0] * flat[:, 1]).sum())


def _ears(flat: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Cut a counter-clockwise polygon into triangles, ear by ear."""

    def cross(o: int, a: int, b: int) -> float:
        u, v = flat[a] - flat[o], flat[b] - flat[o]
        return float(u[0] * v[1] - u[1] * v[0])

    left, triangles = list(range(len(flat))), []
    while len(left) > 3:
        for i, b in enumerate(left):
            a, c = left[i - 1], left[(i + 1) % len(left)]
            others = [p for p in left if p not in (a, b, c)]
            inside = any(min(cross(a, b, p), cross(b, c, p), cross(c, a, p)) >= 0 for p in others)
            if cross(a, b, c) > 1e-12 and not inside:
                break
        else:  # only slivers are left: cut any
            i, (a, b, c) = 1, (left[0], left[1], left[2])
        triangles.append((a, b, c))
        left.pop(i)
    return [*triangles, (left[0], left[1], left[2])]
