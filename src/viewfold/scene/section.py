"""Pictures of a signed distance: rays in sections, each as opaque as the surface within it says (NeuS).

Source: Wang et al., "NeuS", 2021.  With Phi_s(f) = 1 / (1 + e^(-s f)), a section of a ray over which the distance falls
from f_i to f_{i+1} has the opacity (equation 13)

    alpha_i = max((Phi_s(f_i) - Phi_s(f_{i+1})) / Phi_s(f_i), 0)

so its optical depth is -log(1 - alpha_i) = max(softplus(-s f_{i+1}) - softplus(-s f_i), 0).  Depths of sections end to
end add up to that of the whole, however long the sections are: a sharp surface needs no more of them than a soft one,
where a density would slip between its samples.  That is why distances have a renderer of their own beside
scene/volume.py; what makes that one fast is done here too, in its words: rays that miss, empty cells, and what lies
behind an opaque surface are dropped before gradients are computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.field import differences
from viewfold.scene.rendering import RaySamples, Rendering
from viewfold.scene.volume import MIN_TRANSMITTANCE, SCENE_RADIUS, OccupancyGrid, composite_packed, intersect_sphere

MIN_DEPTH = 1e-4
"""Sections of a smaller optical depth are dropped: a ray of 50 of them loses less than 1 % of its light."""


@runtime_checkable
class DistanceField(Protocol):
    """What is drawn: a signed distance, negative inside, and a colour at every point."""

    def distance(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the signed distance in world units."""
        ...

    def color(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Return the sRGB colour in [0, 1]."""
        ...


def section_depth(
    before: Float[Tensor, "*p"], after: Float[Tensor, "*p"], sharpness: float | Float[Tensor, ""]
) -> Float[Tensor, "*p"]:
    """Return the optical depth -log(1 - alpha) of sections of a ray (NeuS equation 13; see the top of the file).

    Args:
        before, after: signed distance where a section begins and ends, in world units.
        sharpness: s, per unit length: the surface is a layer of opacity about 1 / s thick.
    """
    return (functional.softplus(-sharpness * after) - functional.softplus(-sharpness * before)).clamp(min=0)


def render_sections(
    field: DistanceField,
    cameras: Cameras,
    *,
    sharpness: float | Float[Tensor, ""],
    size: int,
    n_sections: int = 64,
    occupancy: OccupancyGrid | None = None,
    generator: torch.Generator | None = None,
    normals: bool = False,
    step: float = 0.01,
) -> Rendering:
    """Render a signed distance; differentiable in the field and in `sharpness`, not in the cameras.

    A section's colour and depth are those of the place in it where the distance, taken as linear, is nearest to zero.

    Args:
        field: distance and colour inside the sphere of radius 0.55; what it cuts is closed there.
        cameras: where from; pictures lie on their device.
        sharpness: see `section_depth`.
        size: pixels along each side, 1 to 4096.
        n_sections: across the sphere's diameter, 2 to 4096; every ray uses the same length of 1.1 / n_sections.
        occupancy: cells outside which a section's middle is not looked at; None looks everywhere.
        generator: draws where a ray's first section begins; None: where the ray enters.
        normals: also render normals, for four more distances a section, and return the samples; otherwise zero.
        step: of the differences that give normals, in world units.

    Returns:
        As `render_volume` does.

    Raises:
        InputError: a number out of range.
    """
    if not 1 <= size <= 4096:
        raise InputError(f"`size` must lie between 1 and 4096; got {size}.")
    if not 2 <= n_sections <= 4096:
        raise InputError(f"`n_sections` must lie between 2 and 4096; got {n_sections}.")
    origins, directions = (x.reshape(-1, 3) for x in cameras.rays(size))
    near, far = intersect_sphere(origins, directions)
    hit = (far > near).nonzero()[:, 0]
    rays = _Rays(origins=origins[hit], directions=directions[hit], delta=2 * SCENE_RADIUS / n_sections)
    sections = _cut(rays, near[hit], far[hit], n_sections, occupancy=occupancy, generator=generator)
    sections = _visible(field, rays, sections, sharpness)
    forward = -cameras.world_from_camera[:, :3, 2].repeat_interleave(size * size, dim=0)
    cosine = (directions * forward).sum(dim=-1)[hit]
    ray, channels, samples = _shade(field, rays, sections, sharpness, cosine, hit, step=step if normals else None)
    image = origins.new_zeros(origins.shape[0], 8).index_copy(0, hit[ray], channels)
    image = image.reshape(len(cameras), size, size, 8).permute(0, 3, 1, 2)
    return Rendering(rgb=image[:, :3], alpha=image[:, 3:4], depth=image[:, 4:5], normal=image[:, 5:], samples=samples)


@dataclass(frozen=True, kw_only=True)
class _Rays:
    """Those that meet the scene, and the length of a section."""

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    delta: float

    def at(self, ray: Int[Tensor, "p"], distance: Float[Tensor, "p"]) -> Float[Tensor, "p 3"]:
        """Return points at distances along rays."""
        return torch.addcmul(self.origins.index_select(0, ray), self.directions.index_select(0, ray), distance[:, None])


@dataclass(frozen=True, kw_only=True)
class _Sections:
    """The sections to evaluate, packed, from near to far: ray, place among all sections of that ray, and its start."""

    ray: Int[Tensor, "p"]
    place: Int[Tensor, "p"]
    start: Float[Tensor, "p"]

    def __getitem__(self, kept: Bool[Tensor, "p"]) -> _Sections:
        index = kept.nonzero()[:, 0]
        return replace(self, ray=self.ray[index], place=self.place[index], start=self.start[index])

    def slot(self) -> Int[Tensor, "p"]:
        """Return the place of each among those of its ray that are left."""
        first = torch.ones_like(self.ray, dtype=torch.bool)
        first[1:] = self.ray[1:] != self.ray[:-1]
        index = torch.arange(len(self.ray), device=self.ray.device)
        return index - torch.where(first, index, 0).cummax(dim=0).values if len(index) else index

    def ends(self, field: DistanceField, rays: _Rays) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
        """Return the distance where each begins and ends; what two sections share is evaluated once.

        With j_i the number of sections up to the i-th that do not begin where the one before ended, the i-th begins
        at shared end i + j_i (counted from zero: less one) and ends at the next.
        """
        apart = torch.ones_like(self.ray, dtype=torch.bool)
        apart[1:] = (self.ray[1:] != self.ray[:-1]) | (self.place[1:] != self.place[:-1] + 1)
        begin = torch.arange(len(self.ray), device=self.ray.device) + apart.cumsum(dim=0) - 1
        n_ends = int(begin[-1]) + 2 if len(begin) else 0
        where = self.start.new_zeros(n_ends).index_copy(0, begin + 1, self.start + rays.delta)
        where = where.index_copy(0, begin, self.start)
        ray = self.ray.new_zeros(n_ends).index_copy(0, begin + 1, self.ray).index_copy(0, begin, self.ray)
        distance = field.distance(rays.at(ray, where))
        return distance[begin], distance[begin + 1]


@torch.no_grad()
def _cut(
    rays: _Rays,
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    n_sections: int,
    *,
    occupancy: OccupancyGrid | None,
    generator: torch.Generator | None,
) -> _Sections:
    """Cut rays into sections, one more than fits because the first may begin early, and drop those in empty cells."""
    place = torch.arange(n_sections + 1, device=near.device)
    start = near[:, None] + place * rays.delta
    if generator is not None:
        early = torch.rand(len(near), 1, generator=generator, device=generator.device).to(near.device)
        start = start - early * rays.delta
    keep = start < far[:, None]
    if occupancy is not None:
        keep &= occupancy.along(rays.origins, rays.directions, start + rays.delta / 2)
    ray, place = keep.nonzero(as_tuple=True)
    return _Sections(ray=ray, place=place, start=start[ray, place])


def _depth(
    field: DistanceField, rays: _Rays, sections: _Sections, sharpness: float | Float[Tensor, ""]
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
    """Return each section's optical depth, and the place in it, 0 to 1, where the distance is nearest to zero.

    Before a ray's first section lies empty space, whatever the distance there: what the scene's sphere cuts is closed.
    """
    before, after = sections.ends(field, rays)
    opened = functional.softplus(-sharpness * before) * (sections.place > 0)
    depth = (functional.softplus(-sharpness * after) - opened).clamp(min=0)
    with torch.no_grad():
        crossing = torch.where(before > after, (before / (before - after)).clamp(0, 1), 0)
    return depth, crossing


@torch.no_grad()
def _visible(field: DistanceField, rays: _Rays, sections: _Sections, sharpness: float | Float[Tensor, ""]) -> _Sections:
    """Drop the sections that no light reaches, and those that take none."""
    depth, _ = _depth(field, rays, sections, sharpness)
    transmittance = composite_packed(depth, sections.ray, sections.slot(), len(rays.origins), 1.0)[1]
    return sections[(transmittance > MIN_TRANSMITTANCE) & (depth > MIN_DEPTH)]


def _shade(
    field: DistanceField,
    rays: _Rays,
    sections: _Sections,
    sharpness: float | Float[Tensor, ""],
    cosine: Float[Tensor, "r"],
    pixel: Int[Tensor, "r"],
    *,
    step: float | None,
) -> tuple[Int[Tensor, "q"], Float[Tensor, "q 8"], RaySamples | None]:
    """Composite colour, alpha, expected depth and, with a step, normals.

    Returns the rays that saw anything, their channels, and with normals the samples.
    """
    ray, rank = torch.unique_consecutive(sections.ray, return_inverse=True)
    depth, crossing = _depth(field, rays, sections, sharpness)
    slot = sections.slot()
    weight = composite_packed(depth, rank, slot, len(ray), 1.0)[0][:, None]
    distance = sections.start + crossing * rays.delta
    points = rays.at(sections.ray, distance)
    normal = points.new_zeros(points.shape)
    if step is not None:
        normal = functional.normalize(differences(field.distance, points, step=step), dim=-1, eps=1e-8)
    along, rgb = (distance * cosine[sections.ray])[:, None], field.color(points)
    channels = weight * torch.cat([rgb, torch.ones_like(along), along, normal], dim=-1)
    total = channels.new_zeros(len(ray), 8).index_add(0, rank, channels)
    mean_depth = total[:, 4:5] / total[:, 3:4].clamp(min=1e-6)
    kept = None
    if step is not None:
        kept = RaySamples(
            pixel=pixel[sections.ray],
            weight=weight[:, 0],
            rgb=rgb,
            position=points,
            distance=distance,
            normal=normal,
            direction=rays.directions[sections.ray],
            n_rays=len(ray),
        )
    return ray, torch.cat([total[:, :4], mean_depth, total[:, 5:]], dim=-1), kept
