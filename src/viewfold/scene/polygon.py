"""Polygons into triangles: convex ones as fans, all others by ear clipping, so that no notch is filled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


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
    corner = points[polygons]
    edge = np.roll(corner, -1, axis=1) - corner
    turn = np.cross(np.roll(edge, 1, axis=1), edge)
    normal = np.cross(corner, np.roll(corner, -1, axis=1)).sum(1)
    scale = (edge**2).sum(2).max(1, keepdims=True) * np.linalg.norm(normal, axis=1, keepdims=True)
    facing = (turn * normal[:, None]).sum(2)
    hollow = np.flatnonzero((facing < -1e-9 * scale).any(1))
    if n > 4:  # a star turns one way at each corner and yet crosses itself: it goes round more than once
        rounds = _turns(edge, normal)
        hollow = np.union1d(hollow, np.flatnonzero(rounds > 1.5))
    convex = np.setdiff1d(np.arange(len(polygons)), hollow)
    corners, owners = [np.tile(fan, (len(convex), 1))], [np.repeat(convex, n - 2)]
    for index in hollow:
        ears = _clip(corner[index], normal[index])
        corners.append(ears if len(ears) else fan)
        owners.append(np.full(len(corners[-1]), index))
    return np.concatenate(corners), np.concatenate(owners)


def _turns(edge: Float[np.ndarray, "f n 3"], normal: Float[np.ndarray, "f 3"]) -> Float[np.ndarray, "f"]:
    """Return how many times each polygon goes round its normal."""
    before = np.roll(edge, 1, axis=1)
    sine = (np.cross(before, edge) * normal[:, None]).sum(2)
    cosine = (before * edge).sum(2) * np.linalg.norm(normal, axis=1, keepdims=True)
    return np.abs(np.arctan2(sine, cosine).sum(1)) / (2 * np.pi)


def _clip(corner: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "3"]) -> Int[np.ndarray, "t 3"]:
    import mapbox_earcut

    length = np.linalg.norm(normal)
    if not length > 0:
        return np.zeros((0, 3), np.int64)
    normal = normal / length
    across = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    across /= np.linalg.norm(across)
    flat = np.stack([corner @ across, corner @ np.cross(normal, across)], axis=1)
    ears = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], np.uint32)).reshape(-1, 3).astype(np.int64)
    a, b, c = flat[ears].transpose(1, 0, 2)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    ears[area < 0] = ears[area < 0][:, [0, 2, 1]]  # the way round that the polygon goes
    return ears
