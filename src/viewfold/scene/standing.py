"""How a finished thing stands in its file: how tall it is, in metres, and where the file's origin lies in it.

Everything before works in a sphere of radius 0.5 about the origin.  What is exported may be scaled and moved at the
very end; what is measured of the file is brought back first, so that figures are of the object that was exported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.framing import Framing
from viewfold.scene.mesh import Mesh

Origin = Literal["base", "centre"]
"""Where the origin lies: in the middle of the base (half way along x and y, at the lowest z) or of the bounding box."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Size and place of an exported thing; the default changes nothing."""

    height: float | None = None
    """Of the bounding box along z, in metres, the unit of glTF and USD.  None: as it is, some 0.6 to 1.0."""

    origin: Origin | None = None
    """None: where it is, the centre of the sphere that the thing was fitted into."""

    framing: Framing | None = None
    """What brought a given mesh to where it was worked on; it is undone before anything else."""

    def __post_init__(self) -> None:
        if self.height is not None and not (0 < self.height < math.inf):
            raise InputError(f"`height` must be a positive number of metres; got {self.height}.")
        if self.origin is not None and self.origin not in get_args(Origin):
            raise InputError(f"`origin` must be {' or '.join(get_args(Origin))}; got {self.origin!r}.")

    def matrix(self, mesh: Mesh) -> Float[Tensor, "4 4"]:
        """Return the scaling and translation that make a mesh stand so, on the CPU, in float64.

            x' = s (x - c)          s = height / (z_max - z_min), c the new origin

        of x in the coordinates of its file, if it was framed.  Without an origin the old one stays where it is in the
        mesh: c = 0.

        Raises:
            InputError: a height for a mesh that has none, being flat or empty.
        """
        used = mesh.vertices[mesh.faces.flatten().unique()].cpu().double()
        if not len(used):
            raise InputError("`mesh` must have at least one face to stand; it is empty.")
        back = torch.eye(4, dtype=torch.float64) if self.framing is None else self.framing.inverse()
        used = used @ back[:3, :3].T + back[:3, 3]
        low, high = used.amin(0), used.amax(0)
        extent = float(high[2] - low[2])
        if self.height is not None and extent == 0:
            raise InputError("`height` must be left out for a mesh that lies flat: it has no extent along z.")
        scale = 1.0 if self.height is None else self.height / extent
        center = torch.zeros(3, dtype=torch.float64)
        if self.origin is not None:
            center = (low + high) / 2
        if self.origin == "base":
            center[2] = low[2]
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3] *= scale
        matrix[:3, 3] = -scale * center
        return matrix @ back

    def apply(self, mesh: Mesh) -> Mesh:
        """Return the mesh as it stands; the same object if nothing changes."""
        return mesh if self == Standing() else mesh.transform(self.matrix(mesh))

    def undo(self, exported: Mesh, mesh: Mesh) -> Mesh:
        """Return an exported mesh in the frame of the one that it was made from."""
        return exported if self == Standing() else exported.transform(torch.linalg.inv(self.matrix(mesh)))
