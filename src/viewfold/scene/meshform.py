"""A representation: a closed triangle mesh that is optimised itself, its vertices and their colours.

It has no fog and no grid: pictures of it are exact at any distance, and its surface is the one that is exported.  Its
topology is that of the first guess, and stays: holes that the guess has not are never opened.  Drawn by scene/soft.py,
moved by large steps (scene/large_steps.py); the polish of a lift optimises one that was extracted from something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.large_steps import LargeSteps
from viewfold.scene.mesh import Mesh
from viewfold.scene.regularize import unevenness
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.sdf import SdfSettings
from viewfold.scene.soft import Topology, draw
from viewfold.scene.surface import SurfaceResult, check_extraction, decimate
from viewfold.scene.voxel import MAX_RESOLUTION, checked_detail

STEP_SHARE = 0.02
"""Share of the learning rate that vertices get, in world units: with 0.1 a spread vertex moves 0.002 in a step."""

COLOR_NEIGHBOURS = 3
"""Vertices whose colours are mixed at a point of the surface."""

CHUNK = 2**12


@dataclass(frozen=True, kw_only=True)
class MeshFormSettings:
    """How a mesh is made of a first guess, and kept plausible."""

    resolution: int = 48
    """Nodes along each axis of the grid that the first guess is meshed on."""

    faces: int = 6000
    """It begins with this number at most."""

    smoothness: float = 3.0
    """How far a step spreads over the mesh; see `scene.large_steps`."""

    evenness_weight: float = 10.0
    """Weight of `regularize.unevenness` of the vertices, which keeps faces from turning over."""

    kind: Literal["mesh"] = field(default="mesh", init=False)
    """Names the representation in records."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("resolution", 8, MAX_RESOLUTION),
            ("faces", 4, 10_000_000),
            ("smoothness", 0, 1e6),
            ("evenness_weight", 0, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high:g}; got {getattr(self, name)}.")

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> MeshForm:
        """Return the surface where a first guess is half sure, in its colours; `detail` changes nothing.

        Raises:
            FitError: nothing is inside.
        """
        checked_detail(detail)
        guess = SdfSettings(resolution=self.resolution).begin(solid, device=device)
        mesh = guess.to_mesh(resolution=self.resolution, max_faces=self.faces).mesh.to(device)
        return MeshForm(mesh, solid(mesh.vertices)[1], settings=self)


class MeshForm(nn.Module):
    """A closed mesh: spread vertices u, of which the vertices are (I + smoothness L)^-1 u, and a colour logit each."""

    def __init__(
        self,
        mesh: Mesh,
        colors: Float[Tensor, "k 3"],
        *,
        settings: MeshFormSettings | None = None,
        farthest: float = math.inf,
    ) -> None:
        """Begin with a mesh and the sRGB colours of its vertices, on one device.

        Args:
            mesh: closed; its own colours are not looked at.
            colors: in [0, 1].
            settings: see `MeshFormSettings`.
            farthest: how far a vertex may move in all, in world units.

        Raises:
            InputError: a mesh that is not closed.
        """
        super().__init__()
        self.settings, self.farthest = settings or MeshFormSettings(), farthest
        self.first: Tensor
        self.register_buffer("first", mesh.vertices, persistent=False)  # a buffer moves along
        self.topology = Topology.of(mesh.faces)
        self.steps = LargeSteps(self.topology.ends, len(mesh.vertices), smoothness=self.settings.smoothness)
        self.spread = nn.Parameter(self.steps.spread(mesh.vertices))
        self.tint = nn.Parameter(colors.clamp(0.02, 0.98).logit())

    @property
    def device(self) -> torch.device:
        """Where the vertices lie."""
        return self.spread.device

    def to(self, device: torch.device | str) -> MeshForm:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move it, in place."""
        self.topology = self.topology.to(device)
        return super().to(device)

    def vertices(self) -> Float[Tensor, "k 3"]:
        """Return the vertices, none further from where it was than it may and all in the box; differentiable."""
        moved = self.steps.gather(self.spread) - self.first
        if self.farthest < math.inf:
            length = moved.norm(dim=-1, keepdim=True)
            moved = moved * (self.farthest / length.clamp_min(self.farthest))
        return (self.first + moved).clamp(-BOX_RADIUS, BOX_RADIUS)

    @torch.no_grad()
    def finished(self) -> Float[Tensor, "k 3"]:
        """Return the vertices, those of faces that turned over put back to where they were."""
        vertices, faces = self.vertices(), self.topology.faces
        before = _normals(self.first, faces)
        for _ in range(len(faces)):
            turned = (before * _normals(vertices, faces)).sum(dim=-1) < 0
            if not bool(turned.any()):
                break
            corner = faces[turned].flatten().unique()
            if torch.equal(vertices[corner], self.first[corner]):
                break  # flat from the beginning
            vertices = vertices.index_copy(0, corner, self.first[corner])
        return vertices

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
        """Draw it; nothing is random and `quality` changes nothing."""
        return draw(self.vertices(), self.tint.sigmoid(), self.topology, cameras, size=size, normals=normals)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the spread vertices at a small share of the rate, and the colours."""
        return [
            {"params": [self.spread], "lr": STEP_SHARE * learning_rate},
            {"params": [self.tint], "lr": learning_rate},
        ]

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return the weighted unevenness of the vertices; NaN if a number is not finite."""
        uneven = unevenness(self.vertices(), self.topology.ends)
        return self.settings.evenness_weight * uneven + 0 * (self.tint.sum() + self.spread.sum())

    def constrain(self) -> None:
        """Do nothing: `vertices` stays in the box, and any logit is a colour."""

    def refresh(self) -> None:
        """Do nothing: what is drawn is a mesh."""

    def set_detail(self, share: float) -> None:
        """Do nothing: a mesh has the vertices that it has."""
        checked_detail(share)

    def snapshot(self) -> list[Tensor]:
        """Return copies of vertices and colours."""
        return [value.detach().clone() for value in (self.spread, self.tint)]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        """Copy a snapshot into them."""
        if snapshot[0].shape != self.spread.shape:
            raise InputError(
                f"`snapshot` must be of the detail that the mesh has, {len(self.spread)} vertices; got "
                f"{len(snapshot[0])}."
            )
        for value, kept in zip((self.spread, self.tint), snapshot, strict=True):
            value.copy_(kept)

    def state(self) -> dict[str, Any]:
        """Return a snapshot; the first mesh is made of the first guess again."""
        return {"snapshot": self.snapshot()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to it."""
        self.restore(state["snapshot"])

    def is_finite(self) -> bool:
        """Look at every number."""
        return bool(self.spread.isfinite().all()) and bool(self.tint.isfinite().all())

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Return the mesh itself, or thinned out where it has more faces; `resolution` changes nothing."""
        check_extraction(resolution, max_faces)
        mesh = Mesh(vertices=self.finished().cpu(), faces=self.topology.faces.cpu())
        pieces = _pieces(self.topology, len(mesh.vertices))
        return SurfaceResult(
            mesh=decimate(mesh, max_faces=max_faces),
            threshold=0.0,
            silhouette_iou=1.0,
            components_found=pieces,
            components_kept=pieces,
            watertight=True,
            fine=mesh,
        )

    @torch.no_grad()
    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Return the colours of the nearest vertices, mixed by the inverse of their squared distances."""
        vertices, colors, found = self.vertices(), self.tint.sigmoid(), []
        for some in points.split(CHUNK):
            distance, near = torch.cdist(some, vertices).topk(COLOR_NEIGHBOURS, largest=False)
            weight = 1 / (distance.square() + 1e-8)
            found.append((colors[near] * weight[..., None]).sum(1) / weight.sum(1, keepdim=True))
        return torch.cat(found) if found else points.new_zeros(0, 3)


def _normals(vertices: Float[Tensor, "k 3"], faces: Tensor) -> Float[Tensor, "f 3"]:
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def _pieces(topology: Topology, n_vertices: int) -> int:
    """Return how many pieces a mesh is in."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = topology.ends.cpu().numpy().T
    joined = coo_matrix((np.ones(len(a)), (a, b)), shape=(n_vertices, n_vertices))
    return int(connected_components(joined, directed=False, return_labels=False))
