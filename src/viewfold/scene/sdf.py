"""A representation: signed distance and colour in a dense voxel grid, drawn without fog (NeuS).

A density may be a fog that only looks like a surface from where the pictures were taken; a distance has its surface
where it is zero, and nowhere else.  `SignedDistanceGrid` is drawn by scene/section.py, kept a distance by its own loss,
and meshed at the level zero itself, so that no threshold is searched for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.distance import curvature, distance_to_border, eikonal
from viewfold.scene.field import BOX_RADIUS, differences, lattice
from viewfold.scene.level import extract_zero_level
from viewfold.scene.regularize import total_variation
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.section import render_sections
from viewfold.scene.surface import SurfaceResult, check_extraction, eight_sides
from viewfold.scene.volume import SCENE_RADIUS, OccupancyGrid
from viewfold.scene.voxel import MAX_RESOLUTION, cell_peaks, checked_detail, interpolate, resample

COARSEST = 8
"""Nodes along each axis that no share of the detail goes below."""

N_CELLS = 48
"""Cells along each axis of the scene that may be called empty."""

LEAST_DEPTH = 7.0
"""Where s f is larger, a surface absorbs less than e^-7 of the light, and a cell counts as empty."""

STEP_SHARE = 1.0
"""Share of the learning rate that a distance gets, in voxels: with 0.1, Adam moves a surface a tenth of a voxel."""

SHARPNESS_SHARE = 0.1
"""Share of the learning rate that the logarithm of the sharpness gets."""

SOFTEST, SHARPEST = 0.5, 20.0
"""`constrain` keeps the sharpness here, per voxel."""

BAND = 3.0
"""The loss keeps distances true within this many voxels of the surface."""


@dataclass(frozen=True, kw_only=True)
class SdfSettings:
    """How a grid of signed distances is made, drawn and kept plausible."""

    resolution: int = 64
    """Nodes along each axis at full detail."""

    samples: int = 48
    """Sections of a ray across the scene at full detail."""

    sharpness: float = 3.0
    """s of NeuS at first, per voxel: the surface is a layer of a third of a voxel.  It is learned from there on, and
    grows with the detail."""

    eikonal_weight: float = 0.1
    """Weight of (|grad f| - 1)^2 near the surface, which keeps f a distance (scene/distance.py)."""

    curvature_weight: float = 0.003
    """Weight of |laplacian f| voxel near the surface, which keeps it smooth."""

    color_weight: float = 0.004
    """Weight of the total variation of the colour logits."""

    kind: Literal["sdf"] = field(default="sdf", init=False)
    """Names the representation in records."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("resolution", 2, MAX_RESOLUTION),
            ("samples", 8, 1024),
            ("sharpness", SOFTEST, SHARPEST),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")

    def nodes(self, detail: float) -> int:
        """Return the nodes along each axis at a share of the detail."""
        return max(min(COARSEST, self.resolution), int(self.resolution * detail))

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> SignedDistanceGrid:
        """Return the distance to the border of a first guess, where it is half sure; see `RepresentationSettings`."""
        n = self.nodes(checked_detail(detail))
        inside, rgb = solid(lattice(n, device=device))
        distance = distance_to_border((inside > 0.5).reshape(n, n, n))
        color = rgb.clamp(0.02, 0.98).logit().T.reshape(1, 3, n, n, n).contiguous()
        made = SignedDistanceGrid(distance[None, None], color, settings=self)
        made.detail = detail
        return made


class SignedDistanceGrid(nn.Module):
    """A dense voxel grid of a signed distance in world units and three colour logits, interpolated trilinearly.

    The sharpness s of its surface is e^log_sharpness / voxel, learned.  Colour is 1 / (1 + e^-logit), sRGB.
    """

    def __init__(
        self,
        distance: Float[Tensor, "1 1 k k k"],
        color: Float[Tensor, "1 3 k k k"],
        *,
        settings: SdfSettings | None = None,
    ) -> None:
        """Take distances and colour logits at the nodes of the box, along z, y, x, and how they are drawn."""
        super().__init__()
        self.settings = settings or SdfSettings(resolution=distance.shape[-1])
        self.signed_distance, self.color_logit = nn.Parameter(distance), nn.Parameter(color)
        self.log_sharpness = nn.Parameter(distance.new_full((), math.log(self.settings.sharpness)))
        self.detail = 1.0
        self.register_buffer("occupied", None, persistent=False)  # a buffer moves with the grid

    @property
    def resolution(self) -> int:
        """The number of nodes along each axis."""
        return self.signed_distance.shape[-1]

    @property
    def voxel(self) -> float:
        """The distance between two nodes, in world units."""
        return 2 * BOX_RADIUS / (self.resolution - 1)

    @property
    def device(self) -> torch.device:
        """Where the grid lies."""
        return self.signed_distance.device

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        """NeuS's s, per unit length."""
        return self.log_sharpness.exp() / self.voxel

    def distance(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the signed distance at world points."""
        return interpolate(self.signed_distance, points)[:, 0]

    def color(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Return the sRGB colour in [0, 1] at world points."""
        return interpolate(self.color_logit, points).sigmoid()

    # What the flows see: see `Representation` for what each promises.

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        """Draw the surface; `generator` draws where the sections of each ray begin."""
        return render_sections(
            self,
            cameras,
            sharpness=self.sharpness,
            size=size,
            n_sections=self._sections(quality),
            occupancy=None if self.occupied is None else OccupancyGrid(cells=self.occupied),
            generator=generator,
            normals=normals,
            step=self.voxel / 2,
        )

    def _sections(self, quality: float) -> int:
        return max(2, int(self.settings.samples * self.detail * quality))

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return distances, whose rate is in voxels, colours, and the sharpness."""
        return [
            {"params": [self.signed_distance], "lr": learning_rate * STEP_SHARE * self.voxel},
            {"params": [self.color_logit], "lr": learning_rate},
            {"params": [self.log_sharpness], "lr": learning_rate * SHARPNESS_SHARE},
        ]

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return how far it is from a distance, and how rough surface and colour are, weighted.

        eikonal_weight eikonal(f) + curvature_weight curvature(f) + color_weight TV(colour logits)
        """
        values, settings, voxel = self.signed_distance[0, 0], self.settings, self.voxel
        return (
            settings.eikonal_weight * eikonal(values, voxel=voxel, within=BAND * voxel)
            + settings.curvature_weight * curvature(values, voxel=voxel, within=BAND * voxel)
            + settings.color_weight * total_variation(self.color_logit)
            + 0 * self.log_sharpness  # NaN shows
        )

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp the sharpness, and distances to the width of the box."""
        self.log_sharpness.clamp_(math.log(SOFTEST), math.log(SHARPEST))
        self.signed_distance.clamp_(-2 * BOX_RADIUS, 2 * BOX_RADIUS)

    @torch.no_grad()
    def refresh(self) -> None:
        """Find the cells that hold a surface, or may soon: all of the inside among them, which nobody sees."""
        lowest = -cell_peaks(-self.signed_distance[0, 0], N_CELLS, radius=SCENE_RADIUS)
        occupied = (lowest < LEAST_DEPTH / self.sharpness).to(lowest)[None, None]
        dilation = 1 + N_CELLS // (2 * self._sections(1.0))  # a section's ends may lie in other cells than its middle
        occupied = functional.max_pool3d(occupied, kernel_size=2 * dilation + 1, stride=1, padding=dilation)
        self.occupied = occupied[0, 0] > 0

    def set_detail(self, share: float) -> None:
        """Interpolate onto a share of the nodes, and take that share of the sections; s grows with the nodes."""
        self.detail = checked_detail(share)
        n = self.settings.nodes(share)
        if n != self.resolution:
            self.signed_distance = nn.Parameter(resample(self.signed_distance.detach(), n))
            self.color_logit = nn.Parameter(resample(self.color_logit.detach(), n))
        self.refresh()

    def snapshot(self) -> list[Tensor]:
        """Return copies of all parameters."""
        return [p.detach().clone() for p in self.parameters()]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        """Copy a snapshot into the grid."""
        if snapshot[0].shape != self.signed_distance.shape:
            raise InputError(
                f"`snapshot` must be of the detail that the grid has, {self.resolution} nodes along each axis; got "
                f"{snapshot[0].shape[-1]}. Take another after `set_detail`."
            )
        for p, kept in zip(self.parameters(), snapshot, strict=True):
            p.copy_(kept)
        self.refresh()

    def state(self) -> dict[str, Any]:
        """Return a snapshot, and the cells that are drawn, which were found some steps ago."""
        return {"snapshot": self.snapshot(), "occupied": self.occupied}

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to both."""
        self.restore(state["snapshot"])
        occupied = state["occupied"]
        self.occupied = None if occupied is None else occupied.to(self.device)

    def is_finite(self) -> bool:
        """Look at every number."""
        return all(bool(torch.isfinite(p.detach()).all()) for p in self.parameters())

    @torch.no_grad()
    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Extract the level zero by marching cubes: no threshold, no smoothing of what is sampled."""
        check_extraction(resolution, max_faces)
        distance = torch.cat([self.distance(points) for points in lattice(resolution, device=self.device).split(2**19)])
        cameras = eight_sides(self.device)
        return extract_zero_level(
            distance.reshape(resolution, resolution, resolution),
            renders=self.render(cameras, size=64),
            cameras=cameras,
            max_faces=max_faces,
        )

    @torch.no_grad()
    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Return the colour of the surface under each point, a Newton step away: p - f grad f / |grad f|^2."""
        gradient = differences(self.distance, points, step=self.voxel / 2)
        shift = self.distance(points)[:, None] * gradient / gradient.square().sum(dim=-1, keepdim=True).clamp(min=1e-4)
        return self.color(points - shift.clamp(-2 * self.voxel, 2 * self.voxel))
