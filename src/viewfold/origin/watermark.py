"""An invisible mark of 32 bits in a picture's brightness, which most copies of the picture still carry.

Each bit is the parity of one number (spread-transform dither modulation, Chen and Wornell, IEEE Trans. IT 47(4),
2001): the projection of a few low-frequency coefficients of the picture's own DCT on a fixed row of signs, moved to the
nearest point of a lattice that stands for a 0 or a 1.  The DCT is that of the whole picture, not of blocks: coefficient
(i, j) is i half-waves down and j across whatever the number of pixels, so that the mark survives a resize without a
search, and a picture of 64 px has as many coefficients for it as a large one.  16 more bits check the 32.

    p = sum_i sign_i DCT(brightness)_i / sqrt(h w)                       projection of one bit's coefficients
    o = (dither + bit / 2) step                                          its lattice, half a step further for a 1
    p <- o + step round((p - o) / step)                                  to embed
    bit = 1 where cos(2 pi (p / step - dither)) < 0                      to read

It says where a picture came from to those who ask; it is no lock.  Whoever knows this file can remove it, and a crop, a
turn or a mirror destroys it: docs/weights.md has what was measured.  Knows no model and no file.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.errors import InputError

PAYLOAD_BITS, CHECK_BITS = 32, 16

LOWEST, HIGHEST = 5, 24
"""The band of the mark: coefficients (i, j) with `LOWEST` <= hypot(i, j) < `HIGHEST` half-waves a picture."""

FINE, COARSE, COARSE_UP_TO = 0.6 / 255, 1.0 / 255, 128
"""Lattice steps of a coefficient over the root of the number of pixels, and the edge up to which the coarse one is.

A small picture has fewer pixels for JPEG's noise to average out.  The change is about step^2 x 48 / 12 per pixel.
"""

ROUNDS = 8
"""Times that the change is made: clipping at black and white takes a part of it back."""

MIN_EDGE = 48
"""Smaller pictures have too few coefficients to carry a mark."""

DOUBTFUL = 4
"""Bits nearest to a boundary, tried both ways until the check holds."""

MIN_AGREEMENT = 0.3
"""Mean of cos(4 pi distance / step) over the bits: 1 on the lattice, 0 +- 0.1 in a picture without a mark."""

_LUMA = (0.299, 0.587, 0.114)
_KEY = b"viewfold watermark 1"


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """Which coefficients carry which bit."""

    row: Int[Tensor, "bits n"]
    column: Int[Tensor, "bits n"]
    sign: Float[Tensor, "bits n"]
    """Unit norm per bit."""
    dither: Float[Tensor, "bits"]
    """Offset of each bit's lattice in steps, so that a flat picture reads as noise."""


def embed(rgb: Float[Tensor, "v 3 h w"], payload: int) -> Float[Tensor, "v 3 h w"]:
    """Return sRGB pictures in [0, 1] that carry `payload`, a number of 32 bits, each.

    Raises:
        InputError: the payload does not fit, or the pictures are smaller than `MIN_EDGE`.
    """
    if not 0 <= payload < 2**PAYLOAD_BITS:
        raise InputError(f"`payload` must be a number of {PAYLOAD_BITS} bits; got {payload}.")
    height, width = rgb.shape[-2:]
    if min(height, width) < MIN_EDGE:
        raise InputError(f"`rgb` must be at least {MIN_EDGE} px on each side; got {width} x {height}.")
    step = COARSE if min(height, width) <= COARSE_UP_TO else FINE
    pattern = _pattern()
    number = payload << CHECK_BITS | _check(payload)
    bits = torch.tensor([number >> i & 1 for i in range(PAYLOAD_BITS + CHECK_BITS)])
    offset = (pattern.dither + bits / 2) * step
    marked = rgb.float().cpu()
    lattice = ((_project(marked) - offset) / step).round() * step + offset
    for _ in range(ROUNDS):
        missing = (lattice - _project(marked))[..., None] * pattern.sign
        change = marked.new_zeros(len(marked), HIGHEST, HIGHEST)
        change[:, pattern.row, pattern.column] = missing * math.sqrt(height * width)
        marked = (marked + (_basis(height).T @ change @ _basis(width))[:, None]).clamp(0, 1)
    return marked.to(rgb)


def read(rgb: Float[Tensor, "3 h w"]) -> int | None:
    """Return the payload that a picture carries, or None if it carries none.

    With phase = p / step - dither, a lattice step is believed where the mean of cos(4 pi phase) over the bits reaches
    `MIN_AGREEMENT`.  A picture without a mark is taken for one with a mark about once in a million (docs/weights.md).
    """
    pattern = _pattern()
    projection = _project(rgb.float().cpu()[None])[0]
    for step in (FINE, COARSE):
        phase = (projection / step - pattern.dither) % 1
        if float((4 * math.pi * phase).cos().mean()) < MIN_AGREEMENT:
            continue
        towards_one = -(2 * math.pi * phase).cos()
        number = sum(1 << i for i, value in enumerate(towards_one.tolist()) if value > 0)
        doubtful = towards_one.abs().argsort()[:DOUBTFUL].tolist()
        for flips in itertools.product((0, 1), repeat=DOUBTFUL):
            tried = number ^ sum(flip << i for flip, i in zip(flips, doubtful, strict=True))
            if _check(tried >> CHECK_BITS) == tried & (2**CHECK_BITS - 1):
                return tried >> CHECK_BITS
    return None


def _project(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v bits"]:
    pattern = _pattern()
    height, width = rgb.shape[-2:]
    brightness = torch.einsum("vchw,c->vhw", rgb, rgb.new_tensor(_LUMA))
    coefficient = _basis(height) @ brightness @ _basis(width).T / math.sqrt(height * width)
    return (coefficient[:, pattern.row, pattern.column] * pattern.sign).sum(dim=-1)


def _basis(n: int) -> Float[Tensor, "k n"]:
    """Return the first rows of the orthonormal DCT-II of n samples; those that n samples cannot tell apart are 0."""
    k, x = torch.arange(HIGHEST)[:, None], torch.arange(n)
    return torch.cos(math.pi / n * k * (x + 0.5)) * math.sqrt(2 / n) * ((k > 0) & (k < n))


@functools.cache
def _pattern() -> _Pattern:
    """Draw the pattern from a hash, which no library's next version changes."""
    grid = torch.arange(HIGHEST)
    radius = torch.hypot(*torch.meshgrid(grid.float(), grid.float(), indexing="ij"))
    row, column = ((radius >= LOWEST) & (radius < HIGHEST)).nonzero().unbind(1)
    words = hashlib.shake_256(_KEY).digest(4 * 2 * len(row))
    number = torch.tensor([int.from_bytes(words[i : i + 4], "big") for i in range(0, len(words), 4)])
    order, rest = number[: len(row)].argsort(), number[len(row) :]
    n_bits = PAYLOAD_BITS + CHECK_BITS
    each = len(row) // n_bits
    chosen = order[: n_bits * each].reshape(n_bits, each)
    sign = ((rest[: n_bits * each] & 1) * 2.0 - 1).reshape(n_bits, each) / math.sqrt(each)
    dither = (rest[:n_bits] >> 1).float() / 2**31
    return _Pattern(row=row[chosen], column=column[chosen], sign=sign, dither=dither)


def _check(payload: int) -> int:
    return zlib.crc32(payload.to_bytes(PAYLOAD_BITS // 8, "big")) & (2**CHECK_BITS - 1)
