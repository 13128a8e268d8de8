"""Volume rendering: pictures of a field, differentiable in everything that the field holds.

Plain functions over a callable field.  Quadrature after Max, "Optical models for direct volume rendering", 1995 (NeRF
equation 3): a sample that stands for a length d of the ray has opacity 1 - exp(-density d), and is seen through the
transmittance of the samples before it (`composite`).

Speed comes from evaluating the field at few samples: rays that miss the sphere are dropped, samples in cells that the
occupancy grid calls empty are dropped, and a first pass without gradients drops what lies behind an opaque surface.
Colour and gradients are computed for the rest, a few samples a ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.field import Bounded, Field, Oriented, differences, lattice
from viewfold.scene.rendering import RaySamples, Rendering

SCENE_RADIUS = 0.55
"""Rays are sampled inside this sphere about the origin: the object's radius of 0.5 and a margin."""

MIN_TRANSMITTANCE = 1e-3
"""Samples that less light than this reaches are dropped: they change no pixel by more than this."""

OCCUPIED_DENSITY = 0.5
"""A cell that is thinner than this throughout is empty: one step of 1.1/64 through it absorbs under 1 %."""


@dataclass(frozen=True, kw_only=True)
class OccupancyGrid:
    """Which cells of a coarse grid about the origin may hold something; a snapshot of a field."""

    cells: Bool[Tensor, "z y x"]
    """True where the density somewhere in the cell, or in a neighbour, passes the threshold."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        field: Field,
        *,
        resolution: int = 48,
        threshold: float = OCCUPIED_DENSITY,
        dilation: int = 1,
        device: torch.device | str = "cpu",
    ) -> OccupancyGrid:
        """Find the cells where a field may be dense; refresh every ten or twenty steps of an optimisation.

        A `Bounded` field gives its own maxima, on its own device, so that nothing is lost however thin it is.  Any
        other is sampled on `device` at the corners of all cells, and what is thinner than a cell may slip between them.
        `dilation` cells about everything found stay open, so that a surface can grow into them between two snapshots.
        """
        if isinstance(field, Bounded):
            peak = field.peak_density(resolution, radius=SCENE_RADIUS)[None, None]
        else:
            nodes = resolution + 1
            density = field.density(lattice(nodes, radius=SCENE_RADIUS, device=device))
            peak = functional.max_pool3d(density.reshape(1, 1, nodes, nodes, nodes), kernel_size=2, stride=1)
        peak = functional.max_pool3d(peak, kernel_size=2 * dilation + 1, stride=1, padding=dilation)
        return cls(cells=peak[0, 0] > threshold)

    def at(self, points: Float[Tensor, "*p 3"]) -> Bool[Tensor, "*p"]:
        """Return for points inside the cube about the scene's sphere whether their cell may hold something."""
        flat = points.reshape(-1, 3)
        return self.along(flat, torch.zeros_like(flat), flat.new_zeros(len(flat), 1)).reshape(points.shape[:-1])

    def along(
        self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], distance: Float[Tensor, "r s"]
    ) -> Bool[Tensor, "r s"]:
        """Return the same for points at distances along rays, an axis at a time and without making the points."""
        n_cells = self.cells.shape[0]
        scale = n_cells / (2 * SCENE_RADIUS)
        first, each = (origins + SCENE_RADIUS) * scale, directions * scale
        index = torch.zeros((), dtype=torch.int32, device=distance.device)
        for axis in (2, 1, 0):
            cell = torch.addcmul(first[:, axis, None], each[:, axis, None], distance)
            index = index * n_cells + cell.to(torch.int32).clamp_(0, n_cells - 1)
        return self.cells.flatten().index_select(0, index.reshape(-1)).reshape(distance.shape)

    @property
    def fraction(self) -> float:
        """The share of cells that may hold something."""
        return float(self.cells.float().mean())


def composite(
    density: Float[Tensor, "r s"], delta: float | Float[Tensor, "r s"]
) -> tuple[Float[Tensor, "r s"], Float[Tensor, "r s"]]:
    """Return the weight of every sample, and the transmittance in front of it (Max 1995; NeRF equation 3).

        T_i = exp(-sum_{j<i} density_j delta_j)             transmittance
        w_i = T_i (1 - exp(-density_i delta_i))             weight

    Args:
        density: per unit length, ordered from near to far.
        delta: the length of ray that a sample stands for.

    A ray's alpha is the sum of its weights, its premultiplied colour the weighted sum of its colours.
    """
    depth = density * delta
    transmittance = torch.exp(depth - depth.cumsum(dim=-1))
    return transmittance * -torch.expm1(-depth), transmittance


def intersect_sphere(
    origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], *, radius: float = SCENE_RADIUS
) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Return where rays with unit directions enter and leave a sphere about the origin; near >= far where they miss.

    On the ray o + t d: t = -o.d -+ sqrt(radius^2 - |o - (o.d) d|^2).  A ray that starts inside enters at 0.
    """
    along = -(origins * directions).sum(dim=-1)
    closest = origins + along[:, None] * directions
    half = (radius**2 - closest.square().sum(dim=-1)).clamp(min=0).sqrt()
    return (along - half).clamp(min=0), along + half


def density_normal(field: Field, points: Float[Tensor, "p 3"], *, step: float = 0.01) -> Float[Tensor, "p 3"]:
    """Return unit normals -grad density / |grad density|, by `differences`."""
    return functional.normalize(-differences(field.density, points, step=step), dim=-1, eps=1e-8)


def render_volume(
    field: Field,
    cameras: Cameras,
    *,
    size: int,
    n_samples: int = 64,
    occupancy: OccupancyGrid | None = None,
    generator: torch.Generator | None = None,
    normals: bool = False,
) -> Rendering:
    """Render a field; differentiable in the field, not in the cameras.

    Args:
        field: density and colour inside the sphere of radius 0.55.
        cameras: where from; pictures lie on their device.
        size: pixels along each side, 1 to 4096.
        n_samples: across the sphere's diameter; every ray uses the same step of 1.1 / n_samples.
        occupancy: cells outside which the field is not evaluated; None evaluates it everywhere.
        generator: draws the place of each sample in its step, which makes the optical depth unbiased; None: the middle.
        normals: also render normals, and return the samples; otherwise they are zero.  A field that knows none (see
            `Oriented`) is asked for four more densities a sample.

    Returns:
        Colour and normals premultiplied; depth along the camera's axis, expected over what the ray hit, 0 where it hit
        nothing.

    Raises:
        InputError: a number out of range.
    """
    if not 1 <= size <= 4096:
        raise InputError(f"`size` must lie between 1 and 4096; got {size}.")
    if not 2 <= n_samples <= 4096:
        raise InputError(f"`n_samples` must lie between 2 and 4096; got {n_samples}.")
    origins, directions = (x.reshape(-1, 3) for x in cameras.rays(size))
    delta = 2 * SCENE_RADIUS / n_samples
    near, far = intersect_sphere(origins, directions)
    hit = (far > near).nonzero()[:, 0]
    packed = _march(
        field,
        origins[hit],
        directions[hit],
        near[hit],
        far[hit],
        delta,
        n_samples,
        occupancy=occupancy,
        generator=generator,
    )
    forward = -cameras.world_from_camera[:, :3, 2].repeat_interleave(size * size, dim=0)
    cosine = (directions * forward).sum(dim=-1)[hit]
    ray, channels, samples = _shade(field, packed, delta, cosine, directions[hit], hit, normals=normals)
    image = origins.new_zeros(origins.shape[0], 8).index_copy(0, hit[ray], channels)
    image = image.reshape(len(cameras), size, size, 8).permute(0, 3, 1, 2)
    return Rendering(rgb=image[:, :3], alpha=image[:, 3:4], depth=image[:, 4:5], normal=image[:, 5:], samples=samples)


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """The samples to evaluate, packed: ray index, place among that ray's samples, distance, position."""

    ray: Int[Tensor, "p"]
    slot: Int[Tensor, "p"]
    distance: Float[Tensor, "p"]
    points: Float[Tensor, "p 3"]

    def chosen(self, which: Int[Tensor, "q"]) -> _Samples:
        """Return some of them."""
        names = ("ray", "slot", "distance", "points")
        return _Samples(**{name: getattr(self, name).index_select(0, which) for name in names})


@torch.no_grad()
def _march(
    field: Field,
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    delta: float,
    n_samples: int,
    *,
    occupancy: OccupancyGrid | None,
    generator: torch.Generator | None,
) -> _Samples:
    """Choose the samples that can change a pixel: inside, in an occupied cell, not behind an opaque surface."""
    step = torch.arange(n_samples, device=near.device, dtype=torch.float32)
    if generator is None:
        distance = near[:, None] + (step + 0.5) * delta
    else:
        jitter = torch.rand(near.shape[0], n_samples, generator=generator, device=generator.device).to(near.device)
        distance = near[:, None] + jitter.add_(step).mul_(delta)
    keep = distance < far[:, None]
    if occupancy is not None:
        keep &= occupancy.along(origins, directions, distance)
    ray, place = keep.nonzero(as_tuple=True)
    index = ray * n_samples + place
    distance = distance.reshape(-1).index_select(0, index)
    points = torch.addcmul(origins.index_select(0, ray), directions.index_select(0, ray), distance[:, None])
    slot = keep.cumsum(dim=1).reshape(-1).index_select(0, index) - 1
    samples = _Samples(ray=ray, slot=slot, distance=distance, points=points)
    transmittance = composite_packed(field.density(points), ray, slot, near.shape[0], delta)[1]
    return samples.chosen((transmittance > MIN_TRANSMITTANCE).nonzero()[:, 0])


def _shade(
    field: Field,
    samples: _Samples,
    delta: float,
    cosine: Float[Tensor, "r"],
    directions: Float[Tensor, "r 3"],
    pixel: Int[Tensor, "r"],
    *,
    normals: bool,
) -> tuple[Int[Tensor, "q"], Float[Tensor, "q 8"], RaySamples | None]:
    """Composite colour, alpha, expected depth and normals.

    Returns the rays that saw anything, their channels, and with normals the samples.
    """
    ray, rank = torch.unique_consecutive(samples.ray, return_inverse=True)
    density, rgb, normal = _evaluate(field, samples.points, normals=normals)
    weight = composite_packed(density, rank, samples.slot, ray.shape[0], delta)[0]
    depth = samples.distance * cosine.index_select(0, samples.ray)
    seen = [rgb, torch.ones_like(depth)[:, None], depth[:, None]] + ([] if normal is None else [normal])
    channels = weight[:, None] * torch.cat(seen, dim=-1)
    total = channels.new_zeros(ray.shape[0], channels.shape[1]).index_add(0, rank, channels)
    mean_depth = total[:, 4:5] / total[:, 3:4].clamp(min=1e-6)
    if normal is None:
        return ray, torch.cat([total[:, :4], mean_depth, torch.zeros_like(total[:, :3])], dim=-1), None
    kept = RaySamples(
        pixel=pixel.index_select(0, samples.ray),
        weight=weight,
        rgb=rgb,
        position=samples.points,
        distance=samples.distance,
        normal=normal,
        direction=directions.index_select(0, samples.ray),
        n_rays=len(ray),
    )
    return ray, torch.cat([total[:, :4], mean_depth, total[:, 5:]], dim=-1), kept


def _evaluate(
    field: Field, points: Float[Tensor, "p 3"], *, normals: bool
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"], Float[Tensor, "p 3"] | None]:
    """Return density, colour and, if they are asked for, normals: the field's own, or else by differences."""
    if normals and isinstance(field, Oriented):
        return field.with_normal(points)
    density, rgb = field(points)
    return density, rgb, density_normal(field, points) if normals else None


def composite_packed(
    density: Float[Tensor, "p"], row: Int[Tensor, "p"], slot: Int[Tensor, "p"], n_rows: int, delta: float
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
    """Return what `composite` does of packed samples, laid out as one row a ray, with zeros behind the last."""
    n_slots = int(slot.max()) + 1 if slot.numel() else 1
    index = row * n_slots + slot
    padded = density.new_zeros(n_rows * n_slots).index_copy(0, index, density).reshape(n_rows, n_slots)
    weight, transmittance = (x.reshape(-1).index_select(0, index) for x in composite(padded, delta))
    return weight, transmittance
