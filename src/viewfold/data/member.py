"""What a sample's members say, read with care: a stranger wrote them."""

from __future__ import annotations

import ast
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError

_MAGIC = b"\x93NUMPY"
_TYPES = {np.dtype(name).str: np.dtype(name) for name in ("<f2", "<f4", "<f8")}


def parse_meta(uid: str, content: bytes) -> dict[str, Any]:
    """Return a sample's captions, licence, author and cameras.

    Raises:
        AssetError: it is no JSON of a reasonable size, or has no captions.
    """
    if len(content) > limits.JSON_BYTES:
        raise AssetError(f"`{uid}.json` must have at most {limits.JSON_BYTES} bytes; it has {len(content)}.")
    try:
        meta = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AssetError(f"`{uid}.json` cannot be read: {error}.") from error
    captions = meta.get("captions") if isinstance(meta, dict) else None
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise AssetError(f"`{uid}.json` must hold captions, a list of texts.")
    return meta


def parse_captions(uid: str, meta: dict[str, Any]) -> list[str]:
    """Return a sample's captions; AssetError for those that no reader of prompts takes."""
    captions: list[str] = meta["captions"]
    if len(captions) > limits.SAMPLE_CAPTIONS:
        raise AssetError(f"`{uid}.json` must hold at most {limits.SAMPLE_CAPTIONS} captions; got {len(captions)}.")
    for caption in captions:
        if len(caption) > limits.PROMPT_CHARACTERS:
            raise AssetError(
                f"`{uid}.json` must hold captions of at most {limits.PROMPT_CHARACTERS} letters; got {len(caption)}."
            )
        try:
            caption.encode()
        except UnicodeEncodeError as error:
            raise AssetError(f"`{uid}.json` must hold captions of whole letters; got half of a pair.") from error
    return captions


def parse_cameras(uid: str, meta: dict[str, Any]) -> Cameras | None:
    """Return the cameras of a 3D sample; None for a 2D picture."""
    stored = meta.get("views")
    if not stored:
        return None
    try:
        poses = torch.tensor([camera["world_from_camera"] for camera in stored], dtype=torch.float32)
        fov = torch.tensor([float(camera["fov_deg"]) for camera in stored])
        return Cameras(world_from_camera=poses.reshape(-1, 4, 4), fov_deg=fov)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise AssetError(f"`{uid}.json` must hold cameras, poses and lenses: {error!r}.") from error


def parse_orbits(uid: str, meta: dict[str, Any]) -> int:
    """Return how many circles of cameras the views come from, one after the other."""
    render = meta.get("render", {})
    orbits = render.get("orbits", 1) if isinstance(render, dict) else 0
    if not isinstance(orbits, int) or not 1 <= orbits <= limits.SAMPLE_VIEWS:
        raise AssetError(f"`{uid}.json` must give at least 1 orbit; got {orbits!r}.")
    return orbits


@dataclass(frozen=True)
class Array:
    """How the numbers of a .npy member lie in it: from `start` on, one view after the other."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def view_bytes(self) -> int:
        """Bytes of one view."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def values(self, content: bytes) -> np.ndarray:
        """Return the numbers of the whole member."""
        return np.frombuffer(content, self.dtype, offset=self.start).reshape(self.shape)

    @classmethod
    def of(cls, name: str, content: bytes, *, axes: int) -> Array:
        """Read the header of a member, and nothing that it asks for is allocated.

        Raises:
            AssetError: it holds no floats of so many axes, or not as many as it says.
        """
        try:
            return cls._parsed(content, axes)
        except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, InputError) as error:
            reason = (str(error) or type(error).__name__).split("\n")[0][:160]
            words = "(v, c, h, w)" if axes == 4 else "(v, 2, c, h, w)"
            raise AssetError(f"`{name}` must hold floats {words}; got {reason}.") from error

    @classmethod
    def _parsed(cls, content: bytes, axes: int) -> Array:
        if content[:6] != _MAGIC or len(content) < 12:
            raise ValueError("no array of NumPy, or half of one; none is read with allow_pickle=False")
        long = content[6] > 1
        (length,) = struct.unpack_from("<I" if long else "<H", content, 8)
        start = (12 if long else 10) + length
        if length > limits.ARRAY_HEADER_BYTES or start > len(content):
            raise ValueError(f"a header of {length} bytes")
        header = ast.literal_eval(content[12 if long else 10 : start].decode("latin-1").strip())
        descr, shape = header["descr"], header["shape"]
        if not isinstance(descr, str) or descr not in _TYPES or header["fortran_order"]:
            order = "in Fortran's order" if header["fortran_order"] is True else "which allow_pickle=False may refuse"
            raise ValueError(f"an array of {str(descr)[:40]}, {order}")
        if not isinstance(shape, tuple) or len(shape) != axes or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"an array of {np.dtype(descr)} and the shape {str(shape)[:80]}")
        found = cls(start, _TYPES[descr], shape)
        if start + found.dtype.itemsize * math.prod(shape) != len(content):
            raise ValueError(f"{len(content) - start} bytes for an array of the shape {shape}")
        if shape[0] > limits.SAMPLE_VIEWS or max(shape) > 2**16 - 1:
            raise ValueError(f"an array of the shape {shape}")
        return found
