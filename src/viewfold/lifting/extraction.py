"""From a representation to triangles: the stage between what is fitted and what is refined and painted."""

from __future__ import annotations

from dataclasses import dataclass

from viewfold.errors import InputError
from viewfold.lifting.distillation import Refined
from viewfold.lifting.observation import Observed
from viewfold.scene.representation import Representation
from viewfold.scene.surface import SurfaceResult


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """How the mesh is taken from the representation."""

    resolution: int = 96
    """Nodes along each axis at which the surface is sampled when it is extracted."""

    faces: int = 4000
    """The mesh is thinned out to this number."""

    texture_size: int = 512
    """Texels along each side."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("faces", 4, 10_000_000), ("texture_size", 16, 8192)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Extracted:
    """A surface, and what it was taken from."""

    surface: SurfaceResult
    representation: Representation
    observed: Observed


def extract(refined: Refined, *, settings: MeshSettings) -> Extracted:
    """Take the surface, where the representation is.

    Raises:
        FitError: it is empty or not finite.
    """
    made = refined.representation.to_mesh(resolution=settings.resolution, max_faces=settings.faces)
    return Extracted(surface=made, representation=refined.representation, observed=refined.observed)
