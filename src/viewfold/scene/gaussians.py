"""A representation: 3D Gaussians, drawn by our own rasteriser, or by gsplat's where it is installed and CUDA is there.

For viewing and export: splat viewers draw thousands of them in a millisecond.  As a surface they are softer than a grid
or a signed distance, and score distillation on splats is known to be worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.scene.field import BOX_RADIUS, lattice
from viewfold.scene.gaussian.cloud import C0, Gaussians
from viewfold.scene.gaussian.cuda import draw_fast
from viewfold.scene.gaussian.field import CloudField
from viewfold.scene.gaussian.projection import LEAST_ALPHA
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.surface import SurfaceResult, check_extraction, eight_sides, extract_surface
from viewfold.scene.texture import surface_color
from viewfold.scene.voxel import MAX_RESOLUTION, checked_detail

PARAMETERS = ("mean", "log_scale", "rotation", "opacity_logit", "color_logit")

SHARES = {"mean": 0.3, "log_scale": 0.6, "rotation": 0.2, "opacity_logit": 1.0, "color_logit": 1.0}
"""Of the learning rate, for each parameter; a mean's is in multiples of the spacing at first."""

COLOR_NODES = 96
"""Nodes along each axis at which colours are added up for the points of a surface."""

COARSEST = 8
"""Nodes along each axis that no share of the detail goes below."""

LEAST_OPACITY = 0.02
"""A change of detail drops Gaussians that are thinner, and an export those that no viewer would draw (1/255)."""

BORDER_SIZE, INNER_SIZE = 0.4, 0.8
"""Standard deviations at first, in spacings: together they are opaque, and hardly wider than the first guess."""

SPLIT = 1.6
"""The two halves of a Gaussian have its length divided by this (Kerbl et al. 2023, section 5.2)."""


@dataclass(frozen=True, kw_only=True)
class GaussianSettings:
    """How a cloud of Gaussians is made and kept plausible.

    It begins with a Gaussian at each node of a grid near the border of the first guess, and at every second node
    inside.  The optimiser's own numbers belong to each Gaussian, so their count stays while it runs: it changes in
    `set_detail` alone, after which the optimiser is made anew.  There those that became transparent are dropped, and
    those that pictures pulled at are split, until a surface would have as many as the detail asks for.
    """

    resolution: int = 48
    """Nodes along each axis of the grid that a cloud begins on, at full detail; their spacing is the first size."""

    most: int = 50_000
    """Gaussians that there are at most; a finer grid is thinned out to it, evenly."""

    opacity: float = 0.8
    """Of each at first, where the first guess is sure."""

    size_weight: float = 0.01
    """Weight of sizes beyond four spacings, and of lengths beyond four times the width: needles and fogs."""

    kind: Literal["gaussians"] = field(default="gaussians", init=False)
    """Names the representation in records."""

    def __post_init__(self) -> None:
        ranges = (
            ("resolution", COARSEST, MAX_RESOLUTION),
            ("most", 1, 5_000_000),
            ("opacity", LEAST_OPACITY, 0.99),
            ("size_weight", 0.0, 1e3),
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")

    def nodes(self, detail: float) -> int:
        """Return the nodes along each axis at a share of the detail."""
        return max(COARSEST, int(self.resolution * detail))

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> GaussianCloud:
        """Return Gaussians that fill the first guess; see `RepresentationSettings`."""
        n = self.nodes(checked_detail(detail))
        points = lattice(n, device=device)
        inside, rgb = solid(points)
        chosen, border = _near_border((inside > 0.5).reshape(n, n, n))
        if not bool(chosen.any()):
            chosen[inside.argmax()] = True
        chosen = chosen.nonzero()[:, 0]
        chosen = chosen[:: -(-len(chosen) // self.most)]
        spacing = 2 * BOX_RADIUS / (n - 1)
        size = spacing * torch.where(border[chosen], BORDER_SIZE, INNER_SIZE)
        rotation = points.new_zeros(len(chosen), 4)
        rotation[:, 0] = 1
        made = GaussianCloud(
            mean=points[chosen].contiguous(),
            log_scale=size.log()[:, None].expand(-1, 3).contiguous(),
            rotation=rotation,
            opacity_logit=(self.opacity * inside[chosen].clamp_min(0.5)).logit(),
            color_logit=rgb[chosen].clamp(0.02, 0.98).logit(),
            settings=self,
        )
        made.detail, made.spacing = detail, spacing
        return made


class GaussianCloud(nn.Module):
    """Gaussians whose colour is the same from everywhere."""

    mean: nn.Parameter
    log_scale: nn.Parameter
    rotation: nn.Parameter
    opacity_logit: nn.Parameter
    color_logit: nn.Parameter
    pulled: Tensor

    def __init__(
        self,
        *,
        mean: Float[Tensor, "g 3"],
        log_scale: Float[Tensor, "g 3"],
        rotation: Float[Tensor, "g 4"],
        opacity_logit: Float[Tensor, "g"],
        color_logit: Float[Tensor, "g 3"],
        settings: GaussianSettings | None = None,
    ) -> None:
        """Take the numbers of `Gaussians`, but for the colour, which is sRGB 1 / (1 + e^-logit)."""
        super().__init__()
        self.settings = settings or GaussianSettings()
        self._put(mean, log_scale, rotation, opacity_logit, color_logit)
        self.detail = 1.0
        self.spacing = 2 * BOX_RADIUS / (self.settings.resolution - 1)

    def _put(self, *values: Tensor) -> None:
        """Take new parameters, and forget what was seen of the old ones."""
        for name, value in zip(PARAMETERS, values, strict=True):
            setattr(self, name, nn.Parameter(value.detach()))
        self.register_buffer("pulled", torch.zeros_like(self.opacity_logit.detach()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the numbers lie."""
        return self.mean.device

    def gaussians(self) -> Gaussians:
        """Return them as they are drawn and kept in files; differentiable in the parameters."""
        color = ((self.color_logit.sigmoid() - 0.5) / C0)[:, None]
        return Gaussians(
            mean=self.mean,
            log_scale=self.log_scale,
            rotation=self.rotation,
            opacity_logit=self.opacity_logit,
            sh=color,
        )

    def export(self) -> Gaussians:
        """Return those that anybody would see, on the CPU, without gradients."""
        made = self.gaussians().to("cpu")
        return made[made.is_finite() & (made.opacity() >= LEAST_ALPHA)]

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
        """Draw the cloud; nothing is random, and there is one quality.  Normals are those of the shortest axes."""
        return draw_fast(self.gaussians(), cameras, size=size, normals=normals)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return each parameter as a group of its own."""
        rates = SHARES | {"mean": SHARES["mean"] * self.spacing}
        return [{"params": [getattr(self, name)], "lr": learning_rate * rates[name]} for name in PARAMETERS]

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return how far sizes lie beyond what a surface needs, weighted.

        size_weight mean(relu(log(longest / (4 spacing)))^2 + relu(log(longest / (4 middle)))^2)
        """
        _, middle, longest = self.log_scale.sort(dim=1).values.unbind(dim=1)
        large = functional.relu(longest - math.log(4 * self.spacing))
        needle = functional.relu(longest - middle - math.log(4))
        rest = self.mean.sum() + self.rotation.sum() + self.opacity_logit.sum() + self.color_logit.sum()
        return self.settings.size_weight * (large.square() + needle.square()).mean() + 0 * (rest + self.log_scale.sum())

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp places to the box, sizes to a thousandth of it and all of it, and opacities."""
        self.mean.clamp_(-BOX_RADIUS, BOX_RADIUS)
        self.log_scale.clamp_(math.log(BOX_RADIUS / 1000), math.log(BOX_RADIUS))
        self.opacity_logit.clamp_(-6, 6)

    @torch.no_grad()
    def refresh(self) -> None:
        """Note how much the last pictures pulled at each Gaussian; what is drawn does not change."""
        if self.mean.grad is not None:
            self.pulled += self.mean.grad.norm(dim=1).nan_to_num()

    @torch.no_grad()
    def set_detail(self, share: float) -> None:
        """Drop what is transparent, and split what pictures pulled at, for more detail than there was.

        A surface holds (new / old)^2 as many: each round at most doubles them, along their longest axes, those that
        were pulled at most first.  Less detail keeps what there is.
        """
        before, self.detail = self.detail, checked_detail(share)
        seen = self.pulled > 0
        if share <= before or not bool(seen.any()):
            return
        values, pulled = self.snapshot(), self.pulled
        keep = values[3].sigmoid() >= LEAST_OPACITY
        if bool(keep.any()):
            values, pulled = [value[keep] for value in values], pulled[keep]
        for _ in range(round(2 * math.log2(share / before))):
            room = min(self.settings.most - len(pulled), int((pulled > 0).sum()))
            chosen = pulled.argsort(descending=True)[: max(room, 0)]
            first, second = _halves(values, chosen)
            for value, one in zip(values, first, strict=True):
                value[chosen] = one
            values = [torch.cat([value, other]) for value, other in zip(values, second, strict=True)]
            pulled = torch.cat([pulled, pulled[chosen]])
        self.spacing *= before / share
        self._put(*values)

    def snapshot(self) -> list[Tensor]:
        """Return copies of all parameters."""
        return [getattr(self, name).detach().clone() for name in PARAMETERS]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        """Copy a snapshot into the cloud."""
        if snapshot[0].shape != self.mean.shape:
            raise InputError(
                f"`snapshot` must be of the detail that the cloud has, {len(self.mean)} Gaussians; got "
                f"{len(snapshot[0])}. Take another after `set_detail`."
            )
        for name, kept in zip(PARAMETERS, snapshot, strict=True):
            getattr(self, name).copy_(kept)

    def state(self) -> dict[str, Any]:
        """Return a snapshot, how far they lie apart, and what pulled at them: that decides which are split."""
        return {"snapshot": self.snapshot(), "pulled": self.pulled, "spacing": self.spacing, "detail": self.detail}

    def resume(self, state: dict[str, Any]) -> None:
        """Take all of it; there may be more or fewer Gaussians than now, for splitting changes their number."""
        self._put(*(value.to(self.device) for value in state["snapshot"]))
        self.pulled = state["pulled"].to(self.device)
        self.spacing, self.detail = state["spacing"], state["detail"]

    def is_finite(self) -> bool:
        """Look at every number."""
        return all(bool(torch.isfinite(p.detach()).all()) for p in self.parameters())

    @torch.no_grad()
    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Extract the surface of their sum (scene/gaussian/field.py) by marching cubes."""
        check_extraction(resolution, max_faces)
        if not self.is_finite():
            raise FitError("the Gaussians must be finite; they hold NaN or infinity. Fit again with a lower rate.")
        cameras = eight_sides(self.device)
        return extract_surface(
            CloudField(self.gaussians(), resolution=resolution),
            resolution=resolution,
            max_faces=max_faces,
            renders=self.render(cameras, size=64),
            cameras=cameras,
            device=self.device,
        )

    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Composite their sum from just outside to just inside."""
        return surface_color(CloudField(self.gaussians(), resolution=COLOR_NODES), points, normals)


def _near_border(inside: Bool[Tensor, "z y x"]) -> tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]]:
    """Return which nodes begin with a Gaussian, and which of them lie at the border of a solid.

    Those at the border, and of the others every second along each axis.
    """
    outside = (~inside).float()[None, None]
    border = inside & (functional.max_pool3d(outside, kernel_size=3, stride=1, padding=1)[0, 0] > 0)
    sparse = torch.zeros_like(inside)
    sparse[::2, ::2, ::2] = True
    return (border | (inside & sparse)).flatten(), border.flatten()


def _halves(values: list[Tensor], chosen: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the two halves of Gaussians along their longest axes, half a standard deviation to either side."""
    mean, log_scale, rotation, opacity, color = (value[chosen] for value in values)
    whole = Gaussians(mean=mean, log_scale=log_scale, rotation=rotation, opacity_logit=opacity, sh=color[:, None])
    longest = log_scale.argmax(dim=1, keepdim=True)
    axis = whole.axes().gather(2, longest[:, None].expand(-1, 3, 1))[..., 0]
    step = axis * log_scale.gather(1, longest).exp() / 2
    shorter = log_scale.scatter_add(1, longest, torch.full_like(longest, -math.log(SPLIT), dtype=log_scale.dtype))
    return [mean + step, shorter, rotation, opacity, color], [mean - step, shorter, rotation, opacity, color]
