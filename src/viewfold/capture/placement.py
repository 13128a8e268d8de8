"""Where the object is that photographs show, and how large: our flows expect it about the origin, of radius 0.5.

Beside `transforms`, whose files leave both to their writers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from viewfold.camera import FRAMING, OBJECT_RADIUS
from viewfold.errors import AssetError

OFF_CENTRE, OFF_SCALE = 0.1, 1.25
"""An object so far from the origin, or so much larger or smaller than ours, is moved and scaled."""

_MARGIN = 1.05
"""By how much an object may be larger than its outlines say."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A sphere about the object, in the file's own frame and unit."""

    center: Float[np.ndarray, "3"]
    radius: float

    @property
    def is_ours(self) -> bool:
        """Whether the object is where and as large as we expect it."""
        near = float(np.linalg.norm(self.center)) <= OFF_CENTRE * OBJECT_RADIUS * 2
        return near and 1 / OFF_SCALE <= self.radius / OBJECT_RADIUS <= OFF_SCALE

    @property
    def scale(self) -> float:
        """Our unit in the file's: a length of theirs times this is ours."""
        return OBJECT_RADIUS / self.radius

    def applied(self, poses: Float[np.ndarray, "v 4 4"]) -> Float[np.ndarray, "v 4 4"]:
        """Return the poses about the object, in our unit."""
        moved = poses.copy()
        moved[:, :3, 3] = (poses[:, :3, 3] - self.center) * self.scale
        return moved


def find_object(
    poses: Float[np.ndarray, "v 4 4"],
    half: Float[np.ndarray, "v"],
    *,
    framed: Float[np.ndarray, "v"] | None = None,
    outlines: list[Bool[np.ndarray, "h w"]] | None = None,
) -> Placement:
    """Return where the object is.

    With outlines (where pictures have alpha) its centre is where the rays through their middles meet, its radius how
    far the rays of their pixels pass from there.  Without, it is where the cameras' axes meet, and fills the frames as
    our cameras' `FRAMING` has it.

    Args:
        poses: world from camera, OpenGL.
        half: tangents of half the fields of view of the pictures.
        framed: of what the photographer saw, where the pictures were made wider; `half` by default.

    Raises:
        AssetError: the cameras do not look at one place.
    """
    rays = [np.array([[0.0, 0.0]])] * len(poses) if outlines is None else [_covered(o) for o in outlines]
    middles = np.stack([(r.min(0) + r.max(0)) / 2 for r in rays]) * half[:, None]
    center = _nearest(poses[:, :3, 3], _world(poses, middles))
    ahead = -np.einsum("vi,vi->v", center - poses[:, :3, 3], poses[:, :3, 2])
    if not (ahead > 0).all():
        raise AssetError(
            f"its cameras must look at one object; {int((ahead <= 0).sum())} of {len(poses)} have the place where the "
            "others' axes meet behind them. Keep the pictures of one object, taken from around it."
        )
    filling = float(np.median(ahead * (half if framed is None else framed))) / FRAMING
    if outlines is None:
        return Placement(center=center, radius=filling)
    passing = [
        _distance(poses[i : i + 1], rays[i] * half[i], center).max() for i in range(len(poses)) if len(rays[i]) > 1
    ]
    return Placement(center=center, radius=float(max(passing)) * _MARGIN if passing else filling)


def _covered(outline: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Return picture coordinates in [-1, 1], y up, of the rim of an outline's rows; its middle alone if it is empty."""
    found = []
    for row in np.flatnonzero(outline.any(axis=1)):
        columns = np.flatnonzero(outline[row])
        found += [(columns[0], row), (columns[-1] + 1, row), (columns[0], row + 1), (columns[-1] + 1, row + 1)]
    if not found:
        return np.zeros((1, 2))
    height, width = outline.shape
    return np.array(found, dtype=np.float64) / [width, height] * [2, -2] + [-1, 1]


def _world(poses: np.ndarray, rays: Float[np.ndarray, "v 2"]) -> Float[np.ndarray, "v 3"]:
    """Return unit directions in the world of one ray (x right, y up, 1 ahead) a view."""
    local = np.concatenate([rays, -np.ones((len(rays), 1))], axis=1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    return np.einsum("vij,vj->vi", poses[:, :3, :3], local)


def _nearest(origins: np.ndarray, directions: np.ndarray) -> Float[np.ndarray, "3"]:
    """Return the point that is nearest to all lines, in least squares; of parallel ones, that nearest to the origin."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    total = across.sum(axis=0)
    value = np.einsum("vij,vj->i", across, origins)
    if np.linalg.eigvalsh(total)[0] > 1e-4 * len(origins):
        return np.linalg.solve(total, value)
    along = np.einsum("vi,vi->v", -origins, directions)[:, None]
    return (origins + along * directions).mean(axis=0)


def _distance(pose: Float[np.ndarray, "1 4 4"], rays: Float[np.ndarray, "n 2"], point: np.ndarray) -> np.ndarray:
    """Return how far rays of one camera pass from a point."""
    directions = _world(np.repeat(pose, len(rays), axis=0), rays)
    relative = point - pose[0, :3, 3]
    along = directions @ relative
    return np.linalg.norm(relative - along[:, None] * directions, axis=1)
