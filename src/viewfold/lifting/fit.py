"""Fit a field to posed pictures of one object: the quick path from views to 3D, and where distillation starts.

The soft visual hull of the silhouettes says where to begin, so that a hundred steps suffice.  Pictures are compared
over random grounds, which makes a fog in the ground's colour useless; coverage is compared with the silhouettes; the
area of the surface is kept small, which rounds what no view has seen.  Coarse first, then fine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.foreground import Foreground, estimate_cameras, find_foreground, sample_pictures, visual_hull
from viewfold.lifting.regularize import total_variation
from viewfold.scene.field import DENSITY_SCALE, GridField, lattice
from viewfold.scene.volume import OccupancyGrid, render_volume
from viewfold.views import Views

Progress = Callable[[str, int, int], None]
"""progress(stage, step, total): called before each step and once at the end."""

LOGIT_INSIDE, LOGIT_OUTSIDE = 3.0, -8.0
"""Density logits where the soft hull is 1 and 0: opaque in two voxels, yet soft enough to be carved."""

COARSE_SHARE = 0.6
"""Share of the steps that is spent on the coarse grid, where a step costs a quarter."""

OCCUPANCY_EVERY = 10
"""Steps between two snapshots of which cells are empty."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a field is fitted to views."""

    resolution: int = 64
    """Nodes along each axis of the final grid; most steps use half of it."""

    steps: int = 80
    """Steps of the optimiser over both resolutions."""

    samples: int = 48
    """Samples along a ray across the scene, at the final resolution."""

    learning_rate: float = 0.1
    """Adam's, on logits of density and colour."""

    alpha_weight: float = 1.0
    """Weight of the squared difference between coverage and silhouette, beside 1 for colour."""

    area_weight: float = 0.05
    """Weight of the total variation of opacity: the area of the surface."""

    color_weight: float = 0.002
    """Weight of the total variation of the colour logits."""

    estimate_cameras: bool = False
    """Search a shared field of view by the silhouettes; for models that were trained at several."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("steps", 1, 100_000), ("samples", 8, 1024)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """A fitted field and what it was fitted to."""

    field: GridField

    views: Views
    """The pictures, with the cameras that the fit used."""

    foreground: Foreground

    loss: float
    """The last step's photometric loss."""


def fit_views(
    views: Views,
    *,
    settings: FitSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Fit a grid to views of one object on a plain ground, where the views are.

    Raises:
        FitError: no object in a view, views that share no volume, or a fit that diverged.
    """
    settings = settings or FitSettings()
    progress = progress or (lambda stage, step, total: None)
    foreground = find_foreground(views)
    if settings.estimate_cameras:
        views = replace(views, cameras=estimate_cameras(views, foreground))
    size, total = views.rgb.shape[-1], views.rgb.new_zeros(())
    photometric = total
    field = hull_field(views, foreground, resolution=max(8, settings.resolution // 2))
    n_coarse = round(COARSE_SHARE * settings.steps)
    for first, last, shrink in ((0, n_coarse, 2), (n_coarse, settings.steps, 1)):
        if shrink == 1:
            field.upsample(settings.resolution)
        target = Target.of(views, foreground, size=max(8, size // shrink))
        optimizer = torch.optim.Adam([field.grid], lr=settings.learning_rate, betas=(0.9, 0.99))
        occupancy = OccupancyGrid.of(field)
        for step in range(first, last):
            progress("fit", step, settings.steps)
            if step % OCCUPANCY_EVERY == 0:
                occupancy = OccupancyGrid.of(field)
                _check(total, step)
            photometric = target.loss(
                field, n_samples=settings.samples // shrink, occupancy=occupancy, settings=settings, generator=generator
            )
            total = photometric + shape_loss(field, settings)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    _check(total, settings.steps)
    progress("fit", settings.steps, settings.steps)
    return Reconstruction(field=field, views=views, foreground=foreground, loss=float(photometric.detach()))


def _check(loss: Tensor, step: int) -> None:
    """Refuse a loss that is not finite; asked every few steps, because the host has to wait for it.

    A field of NaN renders as nothing at all, which is finite; the area of its surface, in `loss`, is not.
    """
    if not float(loss.detach()) < float("inf"):
        raise FitError(
            f"the fit must stay finite; its loss was {float(loss.detach())} by step {step}. Try another seed."
        )


def shape_loss(field: GridField, settings: FitSettings) -> Float[Tensor, ""]:
    """Return the weighted area of the surface and roughness of the colour."""
    density = DENSITY_SCALE * torch.nn.functional.softplus(field.grid[:, :1])
    opacity = -torch.expm1(-density * field.voxel)
    area = total_variation(opacity) * field.resolution  # per unit of volume, whatever the resolution
    return settings.area_weight * area + settings.color_weight * total_variation(field.grid[:, 1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Pictures, coverage and cameras at one size, ready to be compared with renders."""

    rgb: Float[Tensor, "v 3 h w"]
    """Opaque, over `background`."""

    alpha: Float[Tensor, "v 1 h w"]
    certainty: Float[Tensor, "v 1 h w"]
    background: Float[Tensor, "v 3"]
    cameras: Cameras

    @classmethod
    def of(cls, views: Views, foreground: Foreground, *, size: int) -> Target:
        """Shrink the views to `size` pixels by averaging."""

        def shrink(pictures: Tensor) -> Tensor:
            return pictures if pictures.shape[-1] == size else interpolate(pictures, size=(size, size), mode="area")

        return cls(
            rgb=shrink(views.over(foreground.background)),
            alpha=shrink(foreground.alpha),
            certainty=shrink(foreground.certainty),
            background=foreground.background,
            cameras=views.cameras,
        )

    def loss(
        self,
        field: GridField,
        *,
        n_samples: int,
        occupancy: OccupancyGrid,
        settings: FitSettings,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of colour, over a random ground per view, and of coverage."""
        rendered = render_volume(
            field,
            self.cameras,
            size=self.rgb.shape[-1],
            n_samples=n_samples,
            occupancy=occupancy,
            generator=generator,
        )
        ground = torch.rand(len(self.rgb), 3, 1, 1, generator=generator).to(self.rgb)
        expected = self.rgb + (1 - self.alpha) * (ground - self.background[:, :, None, None])
        color = (self.certainty * (rendered.over(ground) - expected).square()).mean()
        coverage = (self.certainty * (rendered.alpha - self.alpha).square()).mean()
        return color + settings.alpha_weight * coverage


def hull_field(views: Views, foreground: Foreground, *, resolution: int) -> GridField:
    """Return the soft visual hull of the silhouettes, coloured by the views that face each point.

    Raises:
        FitError: the silhouettes share no volume.
    """
    points = lattice(resolution, device=views.rgb.device)
    known = torch.where(foreground.certainty < 1, torch.ones_like(foreground.alpha), foreground.alpha)
    hull = visual_hull(known, views.cameras, points)
    if float(hull.max()) < 0.5:
        raise FitError(
            "`views` must show one object from their cameras; the silhouettes share no volume. Try a new seed."
        )
    color = _facing_color(views.over(foreground.background), views.cameras, points).clamp(0.02, 0.98).logit()
    density = LOGIT_OUTSIDE + (LOGIT_INSIDE - LOGIT_OUTSIDE) * hull
    field = GridField(resolution=resolution, blob_radius=0)
    grid = torch.cat([density[:, None], color], dim=1).T.reshape(1, 4, resolution, resolution, resolution)
    field.grid = torch.nn.Parameter(grid.contiguous())
    return field


def _facing_color(
    rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, points: Float[Tensor, "p 3"]
) -> Float[Tensor, "p 3"]:
    """Return the views' colours at points, each view weighted by how squarely it faces that side of the object."""
    colors = sample_pictures(rgb, cameras, points)
    toward = torch.nn.functional.normalize(cameras.position, dim=-1)
    outward = torch.nn.functional.normalize(points, dim=-1)
    weight = torch.einsum("vi,pi->vp", toward, outward).clamp_min(0).pow(4) + 1e-4
    return torch.einsum("vp,vpc->pc", weight / weight.sum(dim=0), colors)
