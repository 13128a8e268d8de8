"""Framing: the map between the coordinates of somebody's file and the place about the origin where cameras look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import OBJECT_RADIUS
from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh

Frame = Literal["sphere", "cube"]
"""What an object just fits into, about the origin: a sphere of radius 0.5, or a cube of side 1."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The map from the coordinates of a file to the place where cameras look: (p - center) * scale."""

    center: tuple[float, float, float]
    scale: float

    @classmethod
    def of(cls, mesh: Mesh, frame: Frame) -> Framing:
        """Return the map that centres the bounding box of what can be seen at the origin and makes it just fit.

        frame "sphere": the farthest vertex comes to lie at 0.5; "cube": the longest side of the box becomes 1.

        Raises:
            InputError: no face, or no extent.
        """
        if not len(mesh.faces):
            raise InputError("`mesh` must have at least one face to be framed; it is empty.")
        seen = mesh.faces[mesh.visible()]
        if not len(seen):
            raise InputError("`mesh` must have a face that can be seen to be framed; all of them are invisible.")
        used = mesh.vertices[seen.flatten().unique()].double()
        low, high = used.amin(0), used.amax(0)
        center = (low + high) / 2
        half = (used - center).norm(dim=-1).max() if frame == "sphere" else (high - low).max() / 2
        if float(half) == 0:
            raise InputError("`mesh` must have an extent to be framed; all of its vertices coincide.")
        x, y, z = center.tolist()
        return cls(center=(x, y, z), scale=OBJECT_RADIUS / float(half))

    def apply(self, mesh: Mesh) -> Mesh:
        """Return the mesh in its place."""
        center = torch.tensor(self.center, dtype=torch.float64, device=mesh.vertices.device)
        return replace(mesh, vertices=((mesh.vertices.double() - center) * self.scale).float())

    def inverse(self) -> Float[Tensor, "4 4"]:
        """Return the map back to the file's coordinates, in float64."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3] /= self.scale
        matrix[:3, 3] = torch.tensor(self.center, dtype=torch.float64)
        return matrix
