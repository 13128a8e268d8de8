"""Polygons into triangles: convex ones as fans, all others by ear clipping, so that no notch is filled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_AT_ONCE = 2**14
"""Polygons whose turns are computed together: as many as the processor's cache holds."""


def triangulate(points: Float[np.ndarray, "k 3"], polygons: Int[np.ndarray, "f n"]) -> tuple[np.ndarray, np.ndarray]:
    """Return (corners, polygon) of each triangle of polygons with `n` corners each.

    Corners are columns of `polygons`, 0 to n - 1: "t 3".  A polygon is convex if each of its corners turns the way of
    its normal (Newell's) and it goes round once; others are projected along it and clipped ear by ear (mapbox_earcut, a
    port of Mapbox's).  What crosses itself or has no area is cut as a fan: it has no right form.
    """
    n = polygons.shape[1]
    fan = np.stack([np.zeros(n - 2, np.int64), np.arange(1, n - 1), np.arange(2, n)], axis=1)
    if n == 3 or not len(polygons):
        return np.tile(fan, (len(polygons), 1)), np.repeat(np.arange(len(polygons)), n - 2)
    hollow = np.concatenate([
        start + _hollow(points[polygons[start : start + _AT_ONCE]]) for start in range(0, len(polygons), _AT_ONCE)
    ])  # fmt: skip
    convex = np.ones(len(polygons), bool)
    convex[hollow] = False
    convex = np.flatnonzero(convex)
    corners, owners = [np.tile(fan, (len(convex), 1))], [np.repeat(convex, n - 2)]
    for index in hollow.tolist():
        ears = _clip(points[polygons[index]])
        corners.append(ears if len(ears) else fan)
        owners.append(np.full(len(corners[-1]), index))
    return np.concatenate(corners), np.concatenate(owners)


def _hollow(corner: Float[np.ndarray, "f n 3"]) -> Int[np.ndarray, "h"]:
    """Return which polygons are not convex."""
    edge, normal = _edges(corner)
    turn = _cross(np.roll(edge, 1, axis=1), edge)
    scale = np.einsum("fnk,fnk->fn", edge, edge).max(1) * np.linalg.norm(normal, axis=1)
    facing = np.einsum("fnk,fk->fn", turn, normal)
    hollow = facing.min(1) < -1e-9 * scale
    if corner.shape[1] > 4:  # a star turns one way at each corner and yet crosses itself: it goes round more than once
        hollow |= _turns(edge, normal) > 1.5
    return np.flatnonzero(hollow)


def _edges(corner: Float[np.ndarray, "f n 3"]) -> tuple[Float[np.ndarray, "f n 3"], Float[np.ndarray, "f 3"]]:
    """Return the edges of polygons, and their normals by Newell, twice the area long."""
    corner = corner - corner[:, :1]  # far from the origin, products of coordinates would drown the area
    after = np.roll(corner, -1, axis=1)
    return after - corner, _cross(corner, after).sum(1)


def _cross(a: Float[np.ndarray, "f n 3"], b: Float[np.ndarray, "f n 3"]) -> Float[np.ndarray, "f n 3"]:
    """Return the cross products (by columns; `np.cross` on rows of three is much slower)."""
    ax, ay, az, bx, by, bz = *(a[..., i] for i in range(3)), *(b[..., i] for i in range(3))
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=2)


def _cross_one(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Return the cross product of two vectors (`np.cross` takes twenty times as long)."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def _turns(edge: Float[np.ndarray, "f n 3"], normal: Float[np.ndarray, "f 3"]) -> Float[np.ndarray, "f"]:
    """Return how many times each polygon goes round its normal."""
    before = np.roll(edge, 1, axis=1)
    sine = np.einsum("fnk,fk->fn", _cross(before, edge), normal)
    cosine = np.einsum("fnk,fnk->fn", before, edge) * np.linalg.norm(normal, axis=1, keepdims=True)
    return np.abs(np.arctan2(sine, cosine).sum(1)) / (2 * np.pi)


def _clip(corner: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "t 3"]:
    import mapbox_earcut

    corner = corner - corner[:1]
    normal = _edges(corner[None])[1][0]
    length = np.linalg.norm(normal)
    if not length > 0:
        return np.zeros((0, 3), np.int64)
    normal = normal / length
    across = _cross_one(normal, np.eye(3)[np.argmin(np.abs(normal))])
    across /= np.linalg.norm(across)
    flat = np.stack([corner @ across, corner @ _cross_one(normal, across)], axis=1)
    ears = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], np.uint32)).reshape(-1, 3).astype(np.int64)
    a, b, c = flat[ears].transpose(1, 0, 2)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    ears[area < 0] = ears[area < 0][:, [0, 2, 1]]  # the way round that the polygon goes
    return ears
