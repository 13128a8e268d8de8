"""OpenEXR pictures as Blender writes them for us: one part, lines without compression.

Follows "The OpenEXR File Layout" (openexr.com).  Others' files are refused, not guessed at.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from viewfold import limits
from viewfold.errors import AssetError

_MAGIC, _TILED_OR_PARTS = 20000630, 0x200 | 0x800 | 0x1000
_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Return the channels of a picture by name, each "h w" float32.

    Raises:
        AssetError: the file is damaged, or not of the kind above.
    """
    try:
        data = path.read_bytes()
        return _read(data)
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise AssetError(f"`{path.name}` from Blender cannot be read: {error}.") from error


def _read(data: bytes) -> dict[str, np.ndarray]:
    magic, version = struct.unpack_from("<ii", data)
    if magic != _MAGIC or version & _TILED_OR_PARTS:
        raise ValueError("it is not an OpenEXR file of one part in lines")
    header, at = _header(data, 8)
    if header["compression"] != b"\0":
        raise ValueError("it is compressed")
    left, top, right, bottom = struct.unpack("<iiii", header["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels = _channels(header["channels"])
    line = np.dtype([("y", "<i4"), ("bytes", "<i4"), *((name, kind, (width,)) for name, kind in channels)])
    if not 0 < width * height <= limits.PICTURE_PIXELS or len(data) != at + 8 * height + line.itemsize * height:
        raise ValueError(f"it has {len(data)} bytes, which do not hold {width} x {height} pixels")
    lines = np.frombuffer(data, line, height, at + 8 * height)
    order = np.argsort(lines["y"])
    return {name: lines[name][order].astype(np.float32) for name, _ in channels}


def _header(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """Return the attributes by name, and where the table of lines begins."""
    found: dict[str, bytes] = {}
    while data[at] != 0:
        name, at = _word(data, at)
        _, at = _word(data, at)
        (size,) = struct.unpack_from("<i", data, at)
        if size < 0:
            raise ValueError("an attribute has a negative size")
        found[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found, at + 1


def _channels(table: bytes) -> list[tuple[str, np.dtype]]:
    """Return the names and types of the channels, in the order of the file."""
    found, at = [], 0
    while table[at] != 0:
        name, at = _word(table, at)
        kind, _, across, down = struct.unpack_from("<iiii", table, at)
        if (across, down) != (1, 1):
            raise ValueError("a channel has fewer samples than pixels")
        found.append((name, _TYPES[kind]))
        at += 16
    return found


def _word(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8"), end + 1
