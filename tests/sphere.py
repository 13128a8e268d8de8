"""A second representation, as unlike a grid as can be: a sphere of one colour, known by four numbers, drawn exactly.

No field, no module, nothing to skip: what works with it and with the grid reaches inside neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.field import lattice
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.surface import SurfaceResult

SHARPNESS = 60.0
"""How fast coverage falls at the outline, per unit of length, so that the radius has a gradient."""


@dataclass(frozen=True, kw_only=True)
class SphereSettings:
    """How a sphere begins."""

    shrink: float = 0.7
    """The first radius, as a share of the guess's."""

    kind: str = field(default="sphere", init=False)

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> Sphere:
        inside, rgb = solid(lattice(24, device=device))
        volume = float(inside.mean()) * 1.2**3
        color = (rgb * inside[:, None]).sum(dim=0) / inside.sum()
        return Sphere(self.shrink * (3 * volume / (4 * math.pi)) ** (1 / 3), color.clamp(0.05, 0.95))


class Sphere:
    """Centred at the origin; `calls` records what was asked of it."""

    def __init__(self, radius: float, color: Tensor) -> None:
        self.radius, self.color = (x.requires_grad_() for x in (color.new_tensor(radius), color.detach().clone()))
        self.calls: list[str] = []

    @property
    def device(self) -> torch.device:
        return self.color.device

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        self.calls.append(f"render at {quality:g}")
        origins, directions = cameras.rays(size)
        along = -(origins * directions).sum(dim=-1, keepdim=True)
        gap = (origins + along * directions).norm(dim=-1)
        alpha = ((self.radius - gap) * SHARPNESS).sigmoid()[:, None]
        flat = torch.zeros_like(alpha)
        return Rendering(
            rgb=alpha * self.color[:, None, None], alpha=alpha, depth=flat, normal=flat.expand(-1, 3, -1, -1)
        )

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """A radius is a tenth of what a logit is."""
        return [
            {"params": [self.radius], "lr": learning_rate / 10},
            {"params": [self.color], "lr": learning_rate},
        ]

    def prior_loss(self) -> Tensor:
        return 1e-4 * (self.radius.square() + self.color.square().sum())

    @torch.no_grad()
    def constrain(self) -> None:
        self.calls.append("constrain")
        self.radius.clamp_(0.01, 0.55)
        self.color.clamp_(0, 1)

    def refresh(self) -> None:
        self.calls.append("refresh")

    def set_detail(self, share: float) -> None:
        """Nothing to refine; new tensors, as others would have: who goes on with an old optimiser moves nothing."""
        self.calls.append(f"detail {share:g}")
        self.radius, self.color = (x.detach().clone().requires_grad_() for x in (self.radius, self.color))

    def snapshot(self) -> tuple[float, list[float]]:
        return float(self.radius.detach()), self.color.tolist()

    @torch.no_grad()
    def restore(self, snapshot: Any) -> None:
        self.calls.append("restore")
        self.radius.fill_(snapshot[0])
        self.color.copy_(self.color.new_tensor(snapshot[1]))

    def state(self) -> dict[str, Any]:
        return {"radius": self.radius.detach(), "color": self.color.detach()}

    def resume(self, state: dict[str, Any]) -> None:
        self.restore((float(state["radius"]), state["color"].tolist()))

    def is_finite(self) -> bool:
        return bool(self.radius.isfinite() & self.color.isfinite().all())

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        import trimesh

        ball = trimesh.creation.icosphere(subdivisions=3, radius=float(self.radius.detach()))
        mesh = Mesh(vertices=torch.tensor(ball.vertices).float(), faces=torch.tensor(ball.faces).long())
        return SurfaceResult(
            mesh=mesh, threshold=0.0, silhouette_iou=1.0, components_found=1, components_kept=1, watertight=True
        )

    def surface_color(self, points: Tensor, normals: Tensor) -> Tensor:
        return self.color.detach().expand(len(points), 3)

    def to(self, device: torch.device | str) -> Sphere:
        self.radius, self.color = (x.detach().to(device).requires_grad_() for x in (self.radius, self.color))
        return self
