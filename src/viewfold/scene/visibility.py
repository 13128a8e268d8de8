"""Which face is seen at each sample of a picture: triangles in homogeneous coordinates, one scatter, no OpenGL.

An edge of a triangle is a linear function of the pixel whatever lies behind the camera (Olano & Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997), so that faces that cross the near plane need no clipping.  Every
triangle is cut into rows, every row into the exact run of samples that it covers, and one scatter keeps the nearest
face of each sample.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.errors import AssetError

NEAR = 0.01
"""Nothing closer to the camera than this is drawn (world lengths; objects have a radius of 0.5)."""

OVERDRAW = 2000
"""Faces over each other, on average over the picture, that are drawn; hair and foliage have some hundreds."""

_FACES_AT_ONCE = 2**18
_SAMPLES_AT_ONCE = 2**19
"""Bounds on working memory, small enough to stay in a processor's cache."""

Within = tuple[Tensor, Tensor]


def nearest_faces(
    screen: Float[Tensor, "v k 3"],
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
    nearest = torch.zeros(len(screen) * n_pixels**2, dtype=torch.int64, device=screen.device)
    total = len(faces) if among is None else len(among)
    left = OVERDRAW * len(nearest)
    for start in range(0, total, _FACES_AT_ONCE):
        index = torch.arange(start, min(start + _FACES_AT_ONCE, total), device=faces.device)
        index = index if among is None else among[index]
        left = _draw(nearest, screen, faces[index], index, n_pixels, within, left)
    return nearest


def _draw(
    nearest: Tensor, screen: Tensor, faces: Tensor, index: Tensor, n_pixels: int, within: Within | None, left: int
) -> int:
    """Keep the larger key at each sample that the faces cover; return how many samples may still be drawn."""
    # Axes below: corner or edge first, so that each is contiguous; n runs over (view, face) pairs, r over their rows.
    corners = screen.permute(2, 0, 1)[:, :, faces.T]  # xyw v corner f
    x, y, w = (c.permute(1, 0, 2).flatten(1) for c in corners)  # corner n
    infront = (w > NEAR).all(0)
    row = y / w
    top = torch.where(infront, row.amin(0), -1.0).clamp(0, n_pixels).ceil()
    bottom = torch.where(infront, row.amax(0), float(n_pixels)).clamp(-1, n_pixels - 1).floor()
    column = x / w
    inside = (bottom >= top) & (w > NEAR).any(0)
    inside &= ~infront | ((column.amax(0) >= 0) & (column.amin(0) <= n_pixels - 1))
    keep = inside.nonzero()[:, 0]
    if not len(keep):
        return left
    x, y, w, top, bottom = x[:, keep], y[:, keep], w[:, keep], top[keep], bottom[keep]
    # Edge i faces corner i: E(column, row) = a column + b row + c.  Written out, not `cross`: a fused multiply-add
    # would spoil E of a shared edge being the exact negative of its neighbour's, which is what leaves no gaps.
    j, k = [1, 2, 0], [2, 0, 1]
    a = y[j] * w[k] - w[j] * y[k]
    b = w[j] * x[k] - x[j] * w[k]
    c = x[j] * y[k] - y[j] * x[k]
    volume = x[0] * a[0] + y[0] * b[0] + w[0] * c[0]
    turn = torch.where(volume < 0, -1.0, 1.0)
    plane = [q.sum(0) / torch.where(volume == 0, math.inf, volume) for q in (a, b, c)]  # 1 / depth
    a = a * turn
    a = torch.where(a == 0, 1e-200, a)  # a level edge: its run starts at -huge or at +huge
    slope, intercept, opens = -(b * turn) / a, -(c * turn) / a, a > 0
    limit = 1 / w.clamp(min=NEAR)
    low, high = torch.where((w > NEAR).all(0), limit.amin(0), 0.0), limit.amax(0)

    n_rows = torch.where(volume == 0, 0, (bottom - top + 1).long())
    for some in _blocks(n_rows):
        pair = torch.arange(some.start, some.stop, device=keep.device).repeat_interleave(n_rows[some])
        begin = n_rows[some].cumsum(0) - n_rows[some] - top[some].long()
        r = torch.arange(len(pair), device=keep.device) - begin[pair - some.start]
        at = slope.index_select(1, pair).mul_(r).add_(intercept.index_select(1, pair))
        opening = opens.index_select(1, pair)
        first = torch.where(opening, at, -1.0).amax(0).clamp_(0, n_pixels).ceil_()
        last = torch.where(opening, float(n_pixels), at).amin(0).clamp_(-1, n_pixels - 1).floor_()
        hit = (last >= first).nonzero()[:, 0]
        pair, r, first, last = pair[hit], r[hit], first[hit], last[hit]
        base = plane[1][pair] * r + plane[2][pair]
        least, most = low[pair], high[pair]
        inv_left = torch.minimum(torch.maximum(plane[0][pair] * first + base, least), most)
        inv_right = torch.minimum(torch.maximum(plane[0][pair] * last + base, least), most)
        count = (last - first).long() + 1
        slant = ((inv_right - inv_left) / (count - 1).clamp(min=1)).float()
        view, face = keep[pair] // len(faces), index[keep[pair] % len(faces)]
        where = (view * n_pixels + r) * n_pixels + first.long()
        left -= int(count.sum())
        if left < 0:
            raise AssetError(
                f"its faces lie on one another {OVERDRAW} times over, all of the picture on average. Simplify it first."
            )
        _scatter(nearest, where, count, inv_left.float(), slant, face, within)
    return left


def _scatter(
    nearest: Tensor, where: Tensor, count: Tensor, inverse: Tensor, slant: Tensor, face: Tensor, within: Within | None
) -> None:
    """Write runs of samples: `count` of them from `where` on, 1 / depth from `inverse` on by `slant`."""
    for some in _blocks(count):
        n = count[some]
        run = torch.arange(len(n), device=n.device).repeat_interleave(n)
        offset = torch.arange(len(run), device=n.device) - (n.cumsum(0) - n)[run]
        depth = torch.addcmul(inverse[some][run], slant[some][run], offset.float()).clamp_(1e-20, 1 / NEAR)
        key = (depth.view(torch.int32).long() << 32).bitwise_or_(face[some][run])
        at = offset.add_(where[some][run])
        if within is not None:
            key = torch.where((key > within[0][at]) & (key < within[1][at]), key, 0)
        nearest.scatter_reduce_(0, at, key, "amax")


def _blocks(count: Int[Tensor, "p"]) -> list[slice]:
    """Cut a list into slices whose counts sum to about `_SAMPLES_AT_ONCE` at most."""
    total = count.cumsum(0)
    if not len(count) or int(total[-1]) <= _SAMPLES_AT_ONCE:
        return [slice(0, len(count))]
    marks = torch.arange(_SAMPLES_AT_ONCE, int(total[-1]), _SAMPLES_AT_ONCE, device=count.device)
    cuts = [0, *torch.searchsorted(total, marks).unique().tolist(), len(count)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b > a]
