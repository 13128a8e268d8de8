"""Pinhole cameras: pose and field of view, orbits, rays, projection, and the 16 numbers that MVDream's network takes.

Sits below everything: pictures, renderers, data and the pipeline all share this one type.  It knows no pixels.

Frames (docs/conventions.md).  World: z up, right-handed.  Camera: OpenGL, looks down -z, +y up, +x right.
Azimuth 0 looks at the object from -y and grows counter-clockwise seen from above (90 is +x); elevation up is positive.
This is MVDream's own frame, so `Cameras.code` needs no change of axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError

OBJECT_RADIUS = 0.5
"""Assets are scaled to a bounding sphere of this radius about the origin."""

FRAMING = 1.25
"""`distance=None` is FRAMING x OBJECT_RADIUS / tan(fov / 2): the sphere fills 80-90 % of the frame, never cropped."""


VERTICAL = 1e-6
"""A camera whose line of sight has a smaller horizontal part than this, of 1, looks straight down or up."""


def framing_distance(fov_deg: float) -> float:
    """Return the distance that frames an object of radius 0.5: 1.25 x 0.5 / tan(fov / 2), see `FRAMING`."""
    return FRAMING * OBJECT_RADIUS / math.tan(math.radians(fov_deg) / 2)


def _per_view(value: float | Sequence[float] | Tensor, n_views: int, name: str) -> Float[Tensor, "v"]:
    tensor = torch.as_tensor(value, dtype=torch.float64).flatten()
    if tensor.numel() not in (1, n_views):
        raise InputError(f"`{name}` must be one number or one per view ({n_views}); got {tensor.numel()}.")
    if not torch.isfinite(tensor).all():
        raise InputError(f"`{name}` must be finite; got {tensor[~torch.isfinite(tensor)][0]}.")
    return tensor.expand(n_views)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cameras:
    """A set of pinhole cameras with square pixels and square images, the principal point at the centre."""

    world_from_camera: Float[Tensor, "v 4 4"]
    """Rigid transforms that take camera coordinates to world coordinates (float32)."""

    fov_deg: Float[Tensor, "v"]
    """Full field of view, the same across and down, in degrees (float32)."""

    def __post_init__(self) -> None:
        self._check_shapes()
        pose, fov = self.world_from_camera, self.fov_deg
        if not bool(torch.isfinite(pose).all()):
            raise InputError("`world_from_camera` must be finite; it holds NaN or infinity.")
        if not bool(((fov > 0) & (fov < 180)).all()):
            raise InputError(f"`fov_deg` must lie between 0 and 180; got {fov.tolist()}.")

    def _check_shapes(self) -> None:
        pose, fov = self.world_from_camera, self.fov_deg
        if pose.ndim != 3 or pose.shape[1:] != (4, 4) or pose.shape[0] == 0:
            raise InputError(f"`world_from_camera` must have the shape (views, 4, 4); got {tuple(pose.shape)}.")
        if fov.shape != pose.shape[:1]:
            raise InputError(f"`fov_deg` must have the shape ({pose.shape[0]},); got {tuple(fov.shape)}.")

    @classmethod
    def _of_checked(cls, world_from_camera: Tensor, fov_deg: Tensor) -> Cameras:
        """Return cameras of numbers that were checked: to look at them again would make the host wait for a device."""
        made = object.__new__(cls)
        object.__setattr__(made, "world_from_camera", world_from_camera)
        object.__setattr__(made, "fov_deg", fov_deg)
        made._check_shapes()
        return made

    @classmethod
    def orbit(
        cls,
        n_views: int,
        *,
        elevation_deg: float | Sequence[float] = 15.0,
        azimuth_deg: float = 0.0,
        span_deg: float = 360.0,
        fov_deg: float = 40.0,
        distance: float | None = None,
    ) -> Cameras:
        """Place cameras on a circle about the z axis, all looking at the origin.

        Args:
            n_views: how many, 1 to 256.
            elevation_deg: height above the horizon, one number or one per view, -89.9 to 89.9.
            azimuth_deg: of the first view; 0 is the front (-y), 90 is +x.
            span_deg: angle covered; the end point is left out, so 360 spreads the views evenly.
            fov_deg: full field of view.
            distance: from the origin; None frames an object of radius 0.5.

        Raises:
            InputError: a number out of range.
        """
        if not 1 <= n_views <= 256:
            raise InputError(f"`n_views` must lie between 1 and 256; got {n_views}.")
        azimuth = azimuth_deg + span_deg * torch.arange(n_views, dtype=torch.float64) / n_views
        return cls.at(elevation_deg=elevation_deg, azimuth_deg=azimuth, fov_deg=fov_deg, distance=distance)

    @classmethod
    def at(
        cls,
        *,
        elevation_deg: float | Sequence[float] | Tensor,
        azimuth_deg: float | Sequence[float] | Tensor,
        fov_deg: float = 40.0,
        distance: float | None = None,
    ) -> Cameras:
        """Place one camera per (elevation, azimuth), all looking at the origin; see `orbit` for units and ranges."""
        n_views = max(torch.as_tensor(elevation_deg).numel(), torch.as_tensor(azimuth_deg).numel())
        elevation = _per_view(elevation_deg, n_views, "elevation_deg").deg2rad()
        azimuth = _per_view(azimuth_deg, n_views, "azimuth_deg").deg2rad()
        steep = elevation.rad2deg()[elevation.rad2deg().abs() > 89.9 + 1e-9]
        if len(steep):
            raise InputError(f"`elevation_deg` must lie between -89.9 and 89.9; got {steep[0]:.6g}.")
        if not 0 < fov_deg < 180:
            raise InputError(f"`fov_deg` must lie between 0 and 180; got {fov_deg}.")
        distance = framing_distance(fov_deg) if distance is None else distance
        if not (math.isfinite(distance) and distance > 0):
            raise InputError(f"`distance` must be positive; got {distance}.")
        backward = torch.stack(
            [elevation.cos() * azimuth.sin(), -elevation.cos() * azimuth.cos(), elevation.sin()], dim=-1
        )
        return cls.look_at(distance * backward, fov_deg=fov_deg)

    @classmethod
    def look_at(
        cls, position: Float[Tensor, "v 3"], *, target: Sequence[float] = (0.0, 0.0, 0.0), fov_deg: float = 40.0
    ) -> Cameras:
        """Place cameras at world positions, looking at `target` with the world's z axis up in the picture.

        Straight above or below the target, where z is no direction in the picture, +x is on its right, as from azimuth
        0: the top of the picture is +y from above and -y from below.

        Raises:
            InputError: a position at the target itself.
        """
        position = position.to("cpu", torch.float64)
        backward = position - torch.as_tensor(target, dtype=torch.float64)
        if not bool((backward.norm(dim=-1) > 0).all()):
            raise InputError(f"`position` must not be at the target, {tuple(target)}; one is. Move the camera away.")
        backward = torch.nn.functional.normalize(backward, dim=-1)
        z, x = torch.eye(3, dtype=torch.float64)[[2, 0]].unbind()
        level = torch.linalg.cross(z.expand_as(backward), backward)
        sideways = x - backward[:, :1] * backward  # x, less what of it points at the camera
        right = torch.where(level.norm(dim=-1, keepdim=True) > VERTICAL, level, sideways)
        right = torch.nn.functional.normalize(right, dim=-1)
        pose = torch.eye(4, dtype=torch.float64).repeat(len(position), 1, 1)
        pose[:, :3, 0] = right
        pose[:, :3, 1] = torch.linalg.cross(backward, right)
        pose[:, :3, 2] = backward
        pose[:, :3, 3] = position
        return cls(world_from_camera=pose.float(), fov_deg=torch.full((len(position),), float(fov_deg)))

    def __len__(self) -> int:
        return self.world_from_camera.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        index = [index] if isinstance(index, int) else index
        return self._of_checked(self.world_from_camera[index], self.fov_deg[index])

    @classmethod
    def cat(cls, sets: Sequence[Cameras]) -> Cameras:
        """Join several sets, in order."""
        return cls._of_checked(torch.cat([s.world_from_camera for s in sets]), torch.cat([s.fov_deg for s in sets]))

    def per_object(self, n_objects: int, n_views: int) -> Cameras:
        """Return the cameras of every view of several objects, those of an object one after the other ("b v" flat).

        A set of `n_views` is that of every object; one of `n_objects * n_views` is each object's own already.

        Raises:
            InputError: their number is neither.
        """
        if len(self) == n_objects * n_views:
            return self
        if len(self) != n_views:
            raise InputError(
                f"`cameras` must be {n_views}, the same for all objects, or {n_objects * n_views}, those of each of "
                f"{n_objects} objects one after the other; got {len(self)}."
            )
        return self._of_checked(self.world_from_camera.repeat(n_objects, 1, 1), self.fov_deg.repeat(n_objects))

    def to(self, device: torch.device | str) -> Cameras:
        """Return the same cameras on another device."""
        return self._of_checked(self.world_from_camera.to(device), self.fov_deg.to(device))

    @property
    def position(self) -> Float[Tensor, "v 3"]:
        """The centres of projection in the world."""
        return self.world_from_camera[:, :3, 3]

    @property
    def elevation_deg(self) -> Float[Tensor, "v"]:
        """The angle of each centre above the horizontal plane through the origin, asin(z / |p|)."""
        return torch.asin((self.position[:, 2] / self.position.norm(dim=-1)).clamp(-1, 1)).rad2deg()

    @property
    def azimuth_deg(self) -> Float[Tensor, "v"]:
        """The azimuth of each centre, atan2(x, -y), 0 to 360; 0 is -y, 90 is +x."""
        return torch.atan2(self.position[:, 0], -self.position[:, 1]).rad2deg() % 360

    def code(self) -> Float[Tensor, "v 16"]:
        """Return MVDream's camera code: the row-major [R, p / |p|; 0, 1] of the pose [R, p; 0, 1].

        Source: MVDream `get_camera` and `normalize_camera`; field of view and distance are not part of it.
        """
        pose = self.world_from_camera.clone()
        pose[:, :3, 3] = pose[:, :3, 3] / (pose[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8)
        return pose.flatten(1)

    def rays(self, size: int) -> tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w 3"]]:
        """Return origins and unit directions, in the world, through the centres of `size` x `size` pixels.

            d = R (x tan(fov / 2), y tan(fov / 2), -1), normalised;  x = (2 j + 1) / size - 1,  y = 1 - (2 i + 1) / size

        Row 0 is the top of the picture.
        """
        half = (self.fov_deg.deg2rad() / 2).tan()
        grid = (torch.arange(size, device=half.device, dtype=torch.float32) + 0.5) / size * 2 - 1
        y, x = torch.meshgrid(-grid, grid, indexing="ij")
        local = torch.stack([x, y, torch.zeros_like(x)], dim=-1)[None] * half[:, None, None, None]
        local = torch.nn.functional.normalize(local - torch.tensor([0.0, 0.0, 1.0], device=half.device), dim=-1)
        directions = torch.einsum("vij,vhwj->vhwi", self.world_from_camera[:, :3, :3], local)
        return self.position[:, None, None].expand_as(directions), directions

    def project(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "v p 2"], Float[Tensor, "v p"]]:
        """Return picture coordinates in [-1, 1] (x right, y up; the frame's edge is 1) and depth along the axis.

            q = R^T (point - position),   depth = -q_z,   (x, y) = (q_x, q_y) / (depth tan(fov / 2))

        Points behind a camera have a depth of zero or less; their coordinates mean nothing.
        """
        relative = points[None] - self.position[:, None]
        local = torch.einsum("vji,vpj->vpi", self.world_from_camera[:, :3, :3], relative)
        depth = -local[..., 2]
        half = (self.fov_deg.deg2rad() / 2).tan()[:, None]
        safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
        return local[..., :2] / (safe * half)[..., None], depth
