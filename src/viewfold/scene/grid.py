"""A representation: density and colour in a dense voxel grid, interpolated between its nodes.

On a CPU trilinear interpolation of a dense grid is the cheapest encoder that PyTorch has; empty space costs nothing
because the renderer never evaluates it there.  `GridField` is a `Field` for the renderer and the extraction, and a
`Representation` for the flows, which see nothing of voxels and logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.blob import Blob
from viewfold.scene.field import BOX_RADIUS, lattice
from viewfold.scene.regularize import total_variation
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.surface import SurfaceResult, extract_surface
from viewfold.scene.texture import surface_color
from viewfold.scene.volume import OccupancyGrid, render_volume
from viewfold.scene.voxel import MAX_RESOLUTION, cell_peaks, check_resolution, checked_detail, interpolate, resample

DENSITY_SCALE = 25.0
"""Density per unit length where the softplus is 1; one step of 1.1/64 through it absorbs a third of the light."""

EMPTY_LOGIT = -8.0
"""The logit of empty space at first: density 0.008, so a ray through the whole box loses less than 1 % of its light."""

SOLID_LOGIT = 3.0
"""The logit where a first guess is sure of the inside: opaque in two voxels, yet soft enough to be carved."""

LOWEST_LOGIT, HIGHEST_LOGIT = -9.0, 5.0
"""`constrain` clamps density logits to these: opaque in a voxel or two, yet gradients can remove a floater."""


COARSEST = 8
"""Nodes along each axis that no share of the detail goes below."""


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """How a voxel grid is made, drawn and kept plausible."""

    resolution: int = 64
    """Nodes along each axis at full detail."""

    samples: int = 48
    """Samples along a ray across the scene at full detail."""

    area_weight: float = 0.05
    """Weight of the total variation of opacity: the area of the surface."""

    color_weight: float = 0.002
    """Weight of the total variation of the colour logits."""

    kind: Literal["grid"] = field(default="grid", init=False)
    """Names the representation in records."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 2, MAX_RESOLUTION), ("samples", 8, 1024)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")

    def nodes(self, detail: float) -> int:
        """Return the nodes along each axis at a share of the detail."""
        return max(min(COARSEST, self.resolution), int(self.resolution * detail))

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> GridField:
        """Return a grid whose nodes hold the first guess; see `RepresentationSettings`."""
        blob_radius = solid.radius if isinstance(solid, Blob) else 0
        made = GridField(resolution=self.nodes(checked_detail(detail)), blob_radius=blob_radius, settings=self)
        made.detail = detail
        if blob_radius > 0:
            return made.to(device)
        n = made.resolution
        inside, rgb = solid(lattice(n, device=device))
        density = EMPTY_LOGIT + (SOLID_LOGIT - EMPTY_LOGIT) * inside
        logits = torch.cat([density[:, None], rgb.clamp(0.02, 0.98).logit()], dim=1)
        made.grid = nn.Parameter(logits.T.reshape(1, 4, n, n, n).contiguous())
        return made


class GridField(nn.Module):
    """A dense voxel grid of one density logit and three colour logits, interpolated trilinearly.

    Density is DENSITY_SCALE softplus(logit) with softplus(x) = log(1 + e^x): interpolating before the activation lets a
    coarse grid hold a sharp surface (Sun et al., DVGO, 2022).  Colour is 1 / (1 + e^-logit), sRGB.  Density outside the
    box is zero.
    """

    def __init__(self, *, resolution: int = 48, blob_radius: float = 0.3, settings: GridSettings | None = None) -> None:
        """Make a soft grey ball.

        Args:
            resolution: nodes along each axis, 2 to 512.
            blob_radius: where the first ball's logit crosses zero, in world units; 0 starts from empty space.
            settings: of drawing and plausibility; None: the usual ones, with `resolution` as full detail.

        Raises:
            InputError: a number out of range.
        """
        super().__init__()
        check_resolution(resolution)
        if not 0 <= blob_radius <= BOX_RADIUS:
            raise InputError(f"`blob_radius` must lie between 0 and {BOX_RADIUS}; got {blob_radius}.")
        grid = torch.zeros(1, 4, resolution, resolution, resolution)
        grid[0, 0] = EMPTY_LOGIT
        if blob_radius > 0:
            logit = Blob(radius=blob_radius).logit(lattice(resolution))
            grid[0, 0] = logit.reshape(resolution, resolution, resolution).clamp(min=EMPTY_LOGIT)
        self.grid = nn.Parameter(grid)
        self.settings = settings or replace(GridSettings(), resolution=resolution)
        self.detail = 1.0
        self.register_buffer("occupied", None, persistent=False)  # a buffer moves with the grid

    @property
    def resolution(self) -> int:
        """The number of nodes along each axis."""
        return self.grid.shape[-1]

    @property
    def voxel(self) -> float:
        """The distance between two nodes, in world units."""
        return 2 * BOX_RADIUS / (self.resolution - 1)

    @property
    def device(self) -> torch.device:
        """Where the grid lies."""
        return self.grid.device

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length at world points; a quarter of the cost of the full call."""
        return self._activate(interpolate(self.grid[:, :1], points)[:, 0], points)

    def forward(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1] at world points."""
        logits = interpolate(self.grid, points)
        return self._activate(logits[:, 0], points), logits[:, 1:].sigmoid()

    @torch.no_grad()
    def peak_density(self, n_cells: int, *, radius: float) -> Float[Tensor, "z y x"]:
        """Return no less than the largest density in each cell, and little more; see `Bounded`.

        The softplus rises, so the peak of the logits is that of the density.
        """
        return DENSITY_SCALE * functional.softplus(cell_peaks(self.grid[0, 0], n_cells, radius=radius))

    def upsample(self, resolution: int) -> None:
        """Interpolate onto a grid of another resolution, in place: coarse to fine.

        `grid` becomes a new parameter, so make the optimiser anew.
        """
        self.grid = nn.Parameter(resample(self.grid.detach(), resolution))

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
        """Draw the volume; `generator` draws the place of each sample in its step."""
        n_samples = max(2, int(self.settings.samples * self.detail * quality))
        occupancy = None if self.occupied is None else OccupancyGrid(cells=self.occupied)
        return render_volume(
            self, cameras, size=size, n_samples=n_samples, occupancy=occupancy, generator=generator, normals=normals
        )

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the grid of logits as one group."""
        return [{"params": [self.grid], "lr": learning_rate}]

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return the weighted area of the surface and roughness of the colour.

            area_weight TV(1 - exp(-density voxel)) resolution + color_weight TV(colour logits)

        The total variation of opacity, per unit of volume, is the area between empty and opaque space.
        """
        density = DENSITY_SCALE * functional.softplus(self.grid[:, :1])
        opacity = -torch.expm1(-density * self.voxel)
        area = total_variation(opacity) * self.resolution  # per unit of volume, whatever the resolution
        return self.settings.area_weight * area + self.settings.color_weight * total_variation(self.grid[:, 1:])

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp the density logits."""
        self.grid[:, :1].clamp_(LOWEST_LOGIT, HIGHEST_LOGIT)

    def refresh(self) -> None:
        """Find the cells that may hold something."""
        self.occupied = OccupancyGrid.of(self).cells

    def set_detail(self, share: float) -> None:
        """Interpolate onto a share of the nodes, and take that share of the samples."""
        self.detail = checked_detail(share)
        if self.settings.nodes(share) != self.resolution:
            self.upsample(self.settings.nodes(share))
        self.refresh()

    def snapshot(self) -> Tensor:
        """Return a copy of the grid."""
        return self.grid.detach().clone()

    @torch.no_grad()
    def restore(self, snapshot: Tensor) -> None:
        """Copy a snapshot into the grid."""
        if snapshot.shape != self.grid.shape:
            raise InputError(
                f"`snapshot` must be of the detail that the grid has, {self.resolution} nodes along each axis; got "
                f"{snapshot.shape[-1]}. Take another after `set_detail`."
            )
        self.grid.copy_(snapshot)
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
        """Look at every logit."""
        return bool(torch.isfinite(self.grid.detach()).all())

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Extract the surface by marching cubes."""
        return extract_surface(self, resolution=resolution, max_faces=max_faces, device=self.device)

    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Composite the volume from just outside to just inside."""
        return surface_color(self, points, normals)

    @staticmethod
    def _activate(logit: Float[Tensor, "p"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        inside = points.detach().abs().amax(dim=-1) <= BOX_RADIUS
        return DENSITY_SCALE * functional.softplus(logit) * inside
