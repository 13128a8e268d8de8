"""`transforms.json` as nerfstudio, instant-ngp, their converters from COLMAP, and Blender's NeRF scenes write it.

Above `lens`, below `views`, which opens the pictures.  Each key that bears on what a picture shows is honoured or
refused by name; docs/conventions.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from viewfold import limits
from viewfold.capture.lens import Lens
from viewfold.errors import AssetError

RADIAL = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE")

_LENS = ("camera_model", "is_fisheye", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2")
_ANGLES = {"camera_angle_x": "fl_x", "camera_angle_y": "fl_y"}
_FOREIGN = (
    "k5", "k6", "s1", "s2", "s3", "s4", "tau_x", "tau_y", "rolling_shutter", "x_fov", "y_fov", "fov_x", "fov_y",
    "ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4", "latlong", "equirectangular", "orthographic",
    "mask_path", "time", "driver_parameters", "camera_to_worlds_end", "transform_matrix_start", "transform_matrix_end",
)  # fmt: skip
"""What would change the picture and is not read; zero and false say nothing."""

_ROTATION = 1e-3
"""How far a pose's axes may be from equal lengths and right angles; six decimals leave 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One line of the file: a picture, where its camera stood, and what is said of its lens."""

    file: str
    """As written, with "/" between folders; its suffix may be missing."""
    world_from_camera: Float[np.ndarray, "4 4"]
    """Rigid (float64), OpenGL's axes; a scale of all axes alike, which changes no picture, is taken out."""
    said: Mapping[str, Any]
    """Keys of `Lens`, the frame's before the document's."""

    def lens(self, width: int, height: int) -> Lens:
        """Return the lens in pixels of the picture that was found.

        Raises:
            AssetError: the lens is not said, of another kind, or of a picture of another shape.
        """
        try:
            return _lens(self.said, width, height)
        except AssetError as error:
            raise AssetError(f"`{self.file}` {error}") from error
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise AssetError(f"`{self.file}` must have a lens of finite numbers: {error}.") from error


def read_frames(document: Mapping[str, Any]) -> list[Frame]:
    """Return the frames of a file, in its order.

    Raises:
        AssetError: there are none or too many, a pose is not rigid, or something is said that is not read.
    """
    if "frames" not in document and isinstance(document.get("views"), list):
        document = {"frames": [_as_frame(view) for view in document["views"]]}
    frames = document.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise AssetError("it must hold `frames`, a list of objects.")
    if not 1 <= len(frames) <= limits.VIEWS:
        raise AssetError(f"it must list 1 to {limits.VIEWS} frames; got {len(frames)}.")
    _refuse_foreign(document)
    found = []
    for index, frame in enumerate(frames):
        _refuse_foreign(frame)
        file = frame.get("file_path")
        if not isinstance(file, str) or not file or "\0" in file:
            raise AssetError(f"frame {index} must have a `file_path`; got {file!r:.80}.")
        try:
            pose = np.array(frame["transform_matrix"], dtype=np.float64)
            pose = _rigid(pose)
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            raise AssetError(f"the `transform_matrix` of `{file}` {_pose_fault(error)}.") from error
        found.append(Frame(file=_plain(file), world_from_camera=pose, said=_said(document, frame)))
    return found


def _as_frame(view: Any) -> Any:
    """Return a view of a render's meta.json as transforms.json has it; what is no view is refused as no frame is."""
    if not isinstance(view, Mapping) or not isinstance(view.get("fov_deg"), int | float):
        return None
    pose = view.get("world_from_camera")
    rows = [pose[row : row + 4] for row in range(0, 16, 4)] if isinstance(pose, list) and len(pose) == 16 else pose
    angle = math.radians(view["fov_deg"])
    return {"file_path": view.get("file"), "transform_matrix": rows, "camera_angle_x": angle}


def caption_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first caption of a render's meta.json as a prompt; nothing for other files."""
    captions = document.get("captions") if "frames" not in document else None
    first = captions[0] if isinstance(captions, list) and captions else None
    return {"prompt": first} if isinstance(first, str) else {}


def _pose_fault(error: Exception) -> str:
    if isinstance(error, ValueError) and str(error).startswith(("must", "mirrors")):
        return str(error)
    return "must be 4 x 4 (or 3 x 4) finite numbers"


def _rigid(pose: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "4 4"]:
    """Return a pose without its scale; ValueError if it is none."""
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all() or np.abs(pose).max() > 1e12:
        raise ValueError("must be 4 x 4 (or 3 x 4) finite numbers")
    if len(pose) == 4 and not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError("must have 0, 0, 0, 1 in its last row")
    axes = pose[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() <= 0 or lengths.max() > lengths.min() * (1 + _ROTATION):
        raise ValueError("must scale all axes alike, as a camera's pose does")
    u, _, v = np.linalg.svd(axes / lengths.mean())
    rotation = u @ v
    if np.abs(rotation - axes / lengths.mean()).max() > _ROTATION:
        raise ValueError("must hold axes at right angles, as a camera's pose does")
    if np.linalg.det(rotation) < 0:
        raise ValueError("mirrors the picture, which no camera does: negate one axis of the world or of the camera")
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, pose[:3, 3]
    return result


def _said(document: Mapping[str, Any], frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a frame's lens; an angle of its own counts more than the document's focal length."""
    said = {key: document[key] for key in (*_LENS, *_ANGLES) if key in document}
    for angle, focal in _ANGLES.items():
        if angle in frame:
            said.pop(focal, None)
        if focal in frame:
            said.pop(angle, None)
    return said | {key: frame[key] for key in (*_LENS, *_ANGLES) if key in frame}


def _refuse_foreign(said: Mapping[str, Any]) -> None:
    for key in _FOREIGN:
        value = said.get(key)
        if value and not (isinstance(value, list) and not any(value)):
            hint = ": put the mask into the pictures' alpha" if key == "mask_path" else ""
            raise AssetError(f"it has `{key}`, which is not read{hint}. Undistort the pictures, or remove the key.")


def _lens(said: Mapping[str, Any], width: int, height: int) -> Lens:
    model = _model(said)
    w, h = _number(said.get("w", width), "w"), _number(said.get("h", height), "h")
    if not (w > 0 and h > 0) or abs(w * height - h * width) > 0.5 * max(w + width, h + height):
        raise AssetError(f"must have the shape that is said, {w:g} x {h:g}; the picture has {width} x {height}.")
    fl_x, fl_y = (_focal(said, axis, size) for axis, size in (("x", w), ("y", h)))
    fl_x, fl_y = fl_y if fl_x is None else fl_x, fl_x if fl_y is None else fl_y
    if fl_x is None or fl_y is None:
        raise AssetError("must have a focal length: `fl_x` in pixels, or `camera_angle_x` in radians.")
    k1, k2, k3, k4 = (_number(said.get(f"k{i}", 0), f"k{i}") for i in range(1, 5))
    p = _number(said.get("p1", 0), "p1"), _number(said.get("p2", 0), "p2")
    if model == "radial" and k4:
        raise AssetError("has `k4` without a fisheye: programs differ in what that means. Undistort the pictures.")
    if model == "fisheye" and any(p):
        raise AssetError("has `p1` or `p2` beside a fisheye, which has none. Undistort the pictures.")
    cx, cy = _number(said.get("cx", w / 2), "cx"), _number(said.get("cy", h / 2), "cy")
    if not (0 <= cx <= w and 0 <= cy <= h):
        raise AssetError(f"must have its axis (`cx`, `cy`) in the picture; got {cx:g}, {cy:g} of {w:g} x {h:g}.")
    lens = Lens(
        width=1, height=1, fl_x=fl_x / w, fl_y=fl_y / h, cx=cx / w, cy=cy / h, model=model, k=(k1, k2, k3, k4), p=p
    )
    return lens.of_size(width, height)


def _model(said: Mapping[str, Any]) -> Any:
    name = said.get("camera_model", "OPENCV_FISHEYE" if said.get("is_fisheye") else "OPENCV")
    if name in RADIAL:
        return "fisheye" if said.get("is_fisheye") else "radial"
    if name in FISHEYE:
        return "fisheye"
    raise AssetError(f"must have a `camera_model` of {', '.join((*RADIAL, *FISHEYE))}; got {name!r:.60}.")


def _focal(said: Mapping[str, Any], axis: str, size: float) -> float | None:
    """Return a focal length in pixels, from itself or from the angle of view; None where neither is said."""
    if (focal := said.get(f"fl_{axis}")) is not None:
        focal = _number(focal, f"fl_{axis}")
        if not size * 1e-3 <= focal <= size * 1e4:
            raise AssetError(f"must have a `fl_{axis}` in pixels of its {size:g}; got {focal:g}.")
        return focal
    if (angle := said.get(f"camera_angle_{axis}")) is None:
        return None
    angle = _number(angle, f"camera_angle_{axis}")
    if not 1e-4 < angle < math.pi * 0.999:
        raise AssetError(f"must have a `camera_angle_{axis}` in radians, between 0 and pi; got {angle:g}.")
    return 0.5 * size / math.tan(angle / 2)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AssetError(f"must have a number as `{name}`; got {value!r:.60}.")
    if abs(value) > limits.LENS_NUMBER:
        raise AssetError(f"must have a `{name}` of at most {limits.LENS_NUMBER:g}; got {value:g}.")
    return float(value)


def _plain(file: str) -> str:
    """Return a path with "/" between folders, as Windows does not write it."""
    return str(PurePosixPath(file.replace("\\", "/")))
