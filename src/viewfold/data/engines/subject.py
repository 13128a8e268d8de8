"""What an engine is given to draw, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.engines.settings import RenderSettings
from viewfold.errors import AssetError
from viewfold.scene.framing import Frame, Framing
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One object in front of the cameras."""

    uid: str
    """Its name, from which random light comes."""

    mesh: Mesh
    """In its place, as our reader reads it."""

    framing: Framing
    """What brought it there from the coordinates of the file."""

    path: Path | None = None
    """The file, for an engine that reads files itself; None has it written first."""

    @classmethod
    def of(cls, asset: Path | Mesh, *, frame: Frame = "sphere", uid: str | None = None) -> Subject:
        """Read and frame a file, or frame a mesh.

        Raises:
            AssetError: the file cannot be used.
            InputError: nothing to frame.
        """
        mesh = load_mesh(asset) if isinstance(asset, Path) else asset
        framing = Framing.of(mesh, frame)
        path = asset if isinstance(asset, Path) else None
        return cls(uid=uid or (path.stem if path else ""), mesh=framing.apply(mesh), framing=framing, path=path)

    def facts(self) -> dict[str, Any]:
        """Return what a manifest wants to know of the mesh: faces, textures, bounds in the file's coordinates."""
        center = torch.tensor(self.framing.center)
        low, high = (bound / self.framing.scale + center for bound in self.mesh.vertices.aminmax(dim=0))
        return {
            "faces": len(self.mesh.faces),
            "textures": sum(material.texture is not None for material in self.mesh.materials),
            "bounds": [low.tolist(), high.tolist()],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What every engine returns, one per camera; row 0 is the top."""

    rgba: Float[Tensor, "v 4 h w"]
    """sRGB in [0, 1], straight alpha: the object's own colour at its edges too."""

    depth: Float[Tensor, "v 1 h w"]
    """Distance along the camera's axis, averaged over the covered part of the pixel; 0 where nothing is."""

    normal: Float[Tensor, "v 3 h w"]
    """Unit, world frame, facing the camera; 0 where nothing is."""

    notes: Mapping[str, Any] = field(default_factory=dict)
    """What meta.json is to say of this drawing beyond the settings."""


class EngineLost(AssetError):
    """The program that draws died over an asset; it may have been the asset's fault or not."""


@runtime_checkable
class Engine(Protocol):
    """Draws one object after the other, until it is closed."""

    @property
    def version(self) -> str:
        """The name and version of the program that draws."""
        ...

    def draw(self, subject: Subject, cameras: Cameras, settings: RenderSettings) -> Pictures:
        """Return the pictures; depth and normals may be zeros where the settings do not ask for them.

        Raises:
            AssetError: the object has something that this engine cannot draw, or cannot be read.
        """
        ...

    def close(self) -> None:
        """End what it has started."""
        ...
