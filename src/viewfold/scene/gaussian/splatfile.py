"""Files of splats: PLY in the layout of the released 3D Gaussian Splatting, which viewers and engines read.

    x y z  nx ny nz  f_dc_0..2  f_rest_0..  opacity  scale_0..2  rot_0..3            each a little-endian float32

Normals are zero and unread; scales are natural logarithms, opacity is a logit, rotations are quaternions (w, x, y, z),
colours coefficients of real spherical harmonics, all red ones of f_rest before all green ones.  Such a file says
nothing of its frame: what we write keeps ours (z up, front towards -y, as our mesh PLYs), and what we read keeps its
own, which after COLMAP is any.  Many viewers take y for down: turn it there.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from viewfold import limits
from viewfold.errors import AssetError, InputError
from viewfold.label import UNLABELLED, Label
from viewfold.scene.assetfile import read_file
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.ply import Table, read_tables
from viewfold.store import atomic_write

PLAIN = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1",
         "rot_2", "rot_3")  # fmt: skip
NORMALS = ("nx", "ny", "nz")

REST = re.compile(r"f_rest_\d+")

LARGEST = 40.0
"""Of a logarithm of a scale: the square of e to it is finite in float32."""


def write_splats(path: str | Path, gaussians: Gaussians, *, label: Label = UNLABELLED) -> Path:
    """Write a cloud as a PLY of splats, whole or not at all.  Returns `path`.

    Args:
        path: of the file, ending in .ply.
        gaussians: on any device.
        label: metadata, as a comment of the file.

    Raises:
        InputError: another suffix, or a number that is not finite.
        OutputError: the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise InputError(f"`path` must end in .ply; got '{path.name}'.")
    data = splat_bytes(gaussians, label=label)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def splat_bytes(gaussians: Gaussians, *, label: Label = UNLABELLED) -> bytes:
    """Return the file that `write_splats` writes.

    Raises:
        InputError: a number is not finite.
    """
    gaussians = gaussians.to("cpu")
    if not bool(gaussians.is_finite().all()):
        raise InputError("`gaussians` must be finite to be written; they hold NaN or infinity. Fit again.")
    rest = gaussians.sh[:, 1:].mT.flatten(1)
    rotation = torch.nn.functional.normalize(gaussians.rotation, dim=-1)
    columns = (
        gaussians.mean,
        torch.zeros_like(gaussians.mean),
        gaussians.sh[:, 0],
        rest,
        gaussians.opacity_logit[:, None],
        gaussians.log_scale,
        rotation,
    )
    names = [*PLAIN[:3], *NORMALS, *PLAIN[3:6], *(f"f_rest_{i}" for i in range(rest.shape[1])), *PLAIN[6:]]
    comment = [f"comment {label.comment()}"] if label.comment() else []
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *comment,
        f"element vertex {len(gaussians)}",
        *(f"property float {name}" for name in names),
        "end_header\n",
    ]
    return "\n".join(header).encode() + torch.cat(columns, dim=1).numpy().astype("<f4").tobytes()


def read_splats(path: str | Path) -> Gaussians:
    """Read a PLY of splats, of ours or of others: binary or ascii, properties in any order.

    A warning says what was left out: colours of degree 2 and higher, properties that belong to no splat, other
    elements, splats that are not finite or lie out of bounds.

    Raises:
        AssetError: it is missing, damaged or too large, or holds no splats.
    """
    path, remarks = Path(path), []
    try:
        data = read_file(path, limits.MESH_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, on damaged numbers; they are checked afterwards
            made = _read(data, remarks)
    except AssetError as error:
        raise AssetError(f"`{path}` cannot be used: {error}") from error
    except OSError as error:
        raise AssetError(f"`{path}` cannot be read: {error.strerror or error}. Check the name.") from error
    except MemoryError as error:
        raise AssetError(f"`{path}` cannot be read: it needs more memory than there is. Thin it out first.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise AssetError(f"`{path}` cannot be read as a PLY of splats: {reason}. Export it again.") from error
    for remark in remarks:
        warnings.warn(f"`{path}`: {remark}", stacklevel=2)
    return made


def _read(data: bytes, remarks: list[str]) -> Gaussians:
    tables, _ = read_tables(data)
    vertex = tables.pop("vertex", {})
    missing = [name for name in PLAIN if not isinstance(vertex.get(name), np.ndarray)]
    if missing:
        raise AssetError(f"it must hold splats; its vertices have no `{missing[0]}`. Export it as 3D Gaussians.")
    count = len(vertex["x"])
    if not 0 < count <= limits.SPLATS:
        raise AssetError(f"it must hold 1 to {limits.SPLATS} splats; it has {count}. Export it again.")
    rest = _rest(vertex, remarks)
    if tables:
        remarks.append(f"left out elements that are no splats: {_some(tables)}")
    if others := [name for name in vertex if name not in (*PLAIN, *NORMALS) and not REST.fullmatch(name)]:
        remarks.append(f"left out properties that are no splat's: {_some(others)}")
    plain = torch.from_numpy(np.stack([vertex[name] for name in PLAIN], axis=1).astype(np.float32))
    place, color, opacity, scale, rotation = plain.split([3, 3, 1, 3, 4], dim=1)
    made = Gaussians(
        mean=place,
        log_scale=scale,
        rotation=rotation,
        opacity_logit=opacity[:, 0],
        sh=torch.cat([color[:, None], rest], dim=1),
    )
    length = rotation.norm(dim=1)
    bounded = (place.abs().amax(dim=1) <= limits.MESH_EXTENT) & (scale.abs().amax(dim=1) <= LARGEST)
    usable = made.is_finite() & bounded & (length > 1e-12) & length.isfinite()
    if not bool(usable.any()):
        raise AssetError("none of its splats is finite. Export it again.")
    if not bool(usable.all()):
        remarks.append(f"left out {int((~usable).sum())} splats of {count} that are not finite or out of bounds")
    return made[usable]


def _rest(vertex: Table, remarks: list[str]) -> torch.Tensor:
    """Return the coefficients of degree 1, "g 3 3", or none of them."""
    count = sum(1 for name in vertex if REST.fullmatch(name))
    each = count // 3
    names = [f"f_rest_{channel * each + i}" for i in range(3) for channel in range(3)] if each >= 3 else []
    if count % 3 or each not in (0, 3, 8, 15, 24) or any(not isinstance(vertex.get(n), np.ndarray) for n in names):
        raise AssetError(
            f"its colours must be of a whole degree, with 0, 9, 24, 45 or 72 numbers f_rest; it has {count}. Export it "
            "again."
        )
    if each > 3:
        remarks.append(f"left out the colours' degrees 2 to {round((each + 1) ** 0.5) - 1}; degrees 0 and 1 are kept")
    if not names:
        return torch.zeros(len(vertex["x"]), 0, 3)
    kept = np.stack([vertex[name] for name in names], axis=1).astype(np.float32)
    return torch.from_numpy(kept).reshape(-1, 3, 3)


def _some(names: Iterable[str]) -> str:
    """Return a few names, shortened, for a sentence."""
    listed = [name[:40] for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
