"""Which face is seen at each sample of a picture: triangles in homogeneous coordinates, one scatter, no OpenGL.

An edge of a triangle is a linear function of the pixel whatever lies behind the camera (Olano & Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997), so that faces that cross the near plane need no clipping.  Every
triangle is cut into rows, every row into the exact run of samples that it covers, and one scatter keeps the nearest
face of each sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.errors import AssetError

NEAR = 0.01
"""Nothing closer to the camera than this is drawn (world lengths; objects have a radius of 0.5)."""

OVERDRAW = 2000
"""Faces over each other, on average over the picture, that are drawn; hair and foliage have some hundreds."""

_FACES_AT_ONCE = 2**18
_SAMPLES_AT_ONCE = 2**16
"""Bounds on working memory; what is done with one block of samples stays in a processor's cache."""

_ASIDE = 1e-6
"""Samples beside its corners where a face may still be found, by rounding."""

Within = tuple[Tensor, Tensor]


def nearest_faces(
    screen: Float[Tensor, "3 v k"],
    faces: Int[Tensor, "f 3"],
    n_pixels: int,
    *,
    among: Int[Tensor, "g"] | None = None,
    within: Within | None = None,
) -> Int[Tensor, "p"]:
    """Return, per sample of all views, 0 or the key of the nearest face: (bits of 1 / depth as float32) << 32 | face.

    Args:
        screen: (column * depth, row * depth, depth) of the vertices, whole numbers being the centres of samples.
        n_pixels: samples along each side.
        among: the faces to draw; None draws all.
        within: keys that count, sample by sample: greater than the first, less than the second.

    Raises:
        AssetError: faces lie on one another so often that drawing them would take for ever.
    """
    nearest = torch.zeros(screen.shape[1] * n_pixels**2, dtype=torch.int64, device=screen.device)
    total = len(faces) if among is None else len(among)
    left = OVERDRAW * len(nearest)
    for start in range(0, total, _FACES_AT_ONCE):
        some = slice(start, min(start + _FACES_AT_ONCE, total))
        index = torch.arange(some.start, some.stop, device=faces.device) if among is None else among[some]
        pairs = _Pairs.of(screen, faces[some] if among is None else faces.index_select(0, index), n_pixels)
        left = _draw(nearest, pairs, index, n_pixels, within, left)
    return nearest


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Faces in views that may cover samples, n of them, one after the other."""

    view: Int[Tensor, "n"]
    face: Int[Tensor, "n"]
    """Among those that were given."""

    top: Float[Tensor, "n"]
    n_rows: Int[Tensor, "n"]
    starts: list[tuple[Tensor, Tensor]]
    ends: list[tuple[Tensor, Tensor]]
    """Lines (slope, intercept), column = slope row + intercept: a row's samples lie between the last start and the
    first end."""

    plane: tuple[Tensor, Tensor, Tensor]
    """1 / depth = p0 column + p1 row + p2."""

    low: Float[Tensor, "n"]
    high: Float[Tensor, "n"]
    """Bounds of 1 / depth."""

    @classmethod
    def of(cls, screen: Float[Tensor, "3 v k"], faces: Int[Tensor, "f 3"], n_pixels: int) -> _Pairs:
        """Return the pairs whose bounding box has a row and a column of samples."""
        # Axes: corner or edge first, so that each is contiguous.
        _, n_views, n_vertices = screen.shape
        first = torch.arange(n_views, device=faces.device)[:, None] * n_vertices
        place = (faces.T[:, None] + first).flatten()  # corner view f
        x, y, w = (q.flatten().index_select(0, place).view(3, -1) for q in screen)
        top, bottom, left, right = _bounds(x, y, w, n_pixels)
        inside = (bottom >= top) & (right >= left) & (w > NEAR).any(0)
        keep = inside.nonzero()[:, 0]
        x, y, w = (torch.stack([row.index_select(0, keep) for row in q]) for q in (x, y, w))
        top, bottom = top.index_select(0, keep), bottom.index_select(0, keep)
        a, b, c = edges(x, y, w)
        volume = x[0] * a[0] + y[0] * b[0] + w[0] * c[0]
        turn = torch.where(volume < 0, -1.0, 1.0)
        divisor = torch.where(volume == 0, math.inf, volume)
        plane = a.sum(0) / divisor, b.sum(0) / divisor, c.sum(0) / divisor
        a = a * turn
        a = torch.where(a == 0, 1e-200, a)  # a level edge: its run starts at -huge or at +huge
        slope, intercept, opens = -(b * turn) / a, -(c * turn) / a, a > 0
        flat = slope.new_zeros(())
        nearest = 1 / w.clamp(min=NEAR)
        return cls(
            view=keep // len(faces),
            face=keep % len(faces),
            top=top,
            n_rows=torch.where(volume == 0, 0, (bottom - top + 1).long()),
            starts=list(zip(torch.where(opens, slope, flat), torch.where(opens, intercept, -1.0), strict=True)),
            ends=list(zip(torch.where(opens, flat, slope), torch.where(opens, n_pixels, intercept), strict=True)),
            plane=plane,
            low=torch.where((w > NEAR).all(0), nearest.amin(0), 0.0),
            high=nearest.amax(0),
        )


def edges(x: Float[Tensor, "3 n"], y: Float[Tensor, "3 n"], w: Float[Tensor, "3 n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return E(column, row) = a column + b row + c of each edge, "3 n" each; edge i faces corner i.

    Args:
        x, y, w: the corners of n faces as `nearest_faces` has them; x = column * depth.
    """
    # Written out, not `cross`: a fused multiply-add would spoil E of a shared edge being the exact negative of its
    # neighbour's, which is what leaves no gaps.
    j, k = [1, 2, 0], [2, 0, 1]
    xj, yj, wj, xk, yk, wk = x[j], y[j], w[j], x[k], y[k], w[k]
    return yj * wk - wj * yk, wj * xk - xj * wk, xj * yk - yj * xk


def _bounds(x: Tensor, y: Tensor, w: Tensor, n_pixels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first and last row and column of samples that each face may cover."""
    row, column = y / w, x / w
    top, bottom, left, right = row.amin(0), row.amax(0), column.amin(0) - _ASIDE, column.amax(0) + _ASIDE
    infront = (w > NEAR).all(0)
    if not bool(infront.all()):  # where a face crosses the plane of the camera, its corners bound nothing
        top, left = (torch.where(infront, q, -1.0) for q in (top, left))
        bottom, right = (torch.where(infront, q, float(n_pixels)) for q in (bottom, right))
    first = [q.clamp(0, n_pixels).ceil() for q in (top, left)]
    last = [q.clamp(-1, n_pixels - 1).floor() for q in (bottom, right)]
    return first[0], last[0], first[1], last[1]


def _draw(
    nearest: Tensor, pairs: _Pairs, index: Int[Tensor, "g"], n_pixels: int, within: Within | None, left: int
) -> int:
    """Keep the larger key at each sample that the faces cover; return how many samples may still be drawn."""
    for some in _blocks(pairs.n_rows):
        n_rows = pairs.n_rows[some]
        pair, r = _spread(n_rows, some.start)
        r = pairs.top.index_select(0, pair).add_(r)
        first = _line(pairs.starts[0], pair, r)
        last = _line(pairs.ends[0], pair, r)
        for start, end in zip(pairs.starts[1:], pairs.ends[1:], strict=True):
            torch.maximum(first, _line(start, pair, r), out=first)
            torch.minimum(last, _line(end, pair, r), out=last)
        first.clamp_(0, n_pixels).ceil_()
        last.clamp_(-1, n_pixels - 1).floor_()
        hit = (last >= first).nonzero()[:, 0]
        pair, r, first, last = (q.index_select(0, hit) for q in (pair, r, first, last))
        count = last.sub(first).long().add_(1)
        left -= int(count.sum())
        if left < 0:
            raise AssetError(
                f"its faces lie on one another {OVERDRAW} times over, all of the picture on average. Simplify it first."
            )
        across, down, level = (q.index_select(0, pair) for q in pairs.plane)
        base = down.mul_(r).add_(level)
        low, high = pairs.low.index_select(0, pair), pairs.high.index_select(0, pair)
        inverse, end = (torch.minimum(torch.maximum(across * q + base, low), high) for q in (first, last))
        slant = ((end - inverse) / (last - first).clamp_(min=1)).float()
        where = pairs.view.index_select(0, pair).mul_(n_pixels).add_(r.long()).mul_(n_pixels).add_(first.long())
        face = index.index_select(0, pairs.face.index_select(0, pair))
        _scatter(nearest, where, count, inverse.float(), slant, face, within)
    return left


def _line(line: tuple[Tensor, Tensor], pair: Tensor, row: Tensor) -> Tensor:
    return line[0].index_select(0, pair).mul_(row).add_(line[1].index_select(0, pair))


def _spread(count: Int[Tensor, "n"], start: int = 0) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"]]:
    """Return `start`, `start` + 1, ..., each as often as `count` says, and the number of each among its like from 0."""
    end = count.cumsum(0)
    total = int(end[-1]) if len(count) else 0
    one = torch.repeat_interleave(count, output_size=total)
    offset = torch.arange(total, device=count.device).sub_((end - count).index_select(0, one))
    return one.add_(start) if start else one, offset


def _scatter(
    nearest: Tensor, where: Tensor, count: Tensor, inverse: Tensor, slant: Tensor, face: Tensor, within: Within | None
) -> None:
    """Write runs of samples: `count` of them from `where` on, 1 / depth from `inverse` on by `slant`."""
    for some in _blocks(count):
        run, at = _spread(count[some])
        depth = torch.addcmul(inverse[some].index_select(0, run), slant[some].index_select(0, run), at.float())
        key = depth.clamp_(1e-20, 1 / NEAR).view(torch.int32).long()
        key = key.bitwise_left_shift_(32).bitwise_or_(face[some].index_select(0, run))
        at.add_(where[some].index_select(0, run))
        if within is not None:
            key *= (key > within[0].index_select(0, at)) & (key < within[1].index_select(0, at))
        nearest.scatter_reduce_(0, at, key, "amax")


def _blocks(count: Int[Tensor, "p"]) -> list[slice]:
    """Cut a list into slices whose counts sum to about `_SAMPLES_AT_ONCE` at most."""
    total = count.cumsum(0)
    if not len(count) or int(total[-1]) <= _SAMPLES_AT_ONCE:
        return [slice(0, len(count))]
    marks = torch.arange(_SAMPLES_AT_ONCE, int(total[-1]), _SAMPLES_AT_ONCE, device=count.device)
    cuts = [0, *torch.searchsorted(total, marks).unique().tolist(), len(count)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b > a]
