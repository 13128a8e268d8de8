"""The result of FLOW 2: a mesh, the representation that it was taken from, and what was measured of both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.formats import ANIMATIONS, MESHES
from viewfold.label import UNLABELLED, Label
from viewfold.picture import write_turntable
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Representation
from viewfold.store import atomic_write, write_json
from viewfold.views import Views

TURNTABLE_FRAMES = 36
TURNTABLE_SIZE = 192
GROUND = 1.0
"""The turntable's background, white."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asset3D:
    """A 3D object made from a prompt."""

    mesh: Mesh
    """Closed, coloured, z up, front towards -y."""

    representation: Representation
    """What the mesh was extracted from; can be distilled further."""

    views: Views
    """The pictures that it was fitted to; of one that began as a blob, pictures of its own."""

    prompt: str
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Seconds per stage, memory, and how well the exported file stands for the representation."""

    label: Label = UNLABELLED
    """Metadata that its files carry: see `viewfold.label`."""

    def render(self, cameras: Cameras, *, size: int) -> Rendering:
        """Draw the mesh in its own colours (light is painted in)."""
        return rasterize(self.mesh, cameras, size=size, light=None)

    def save(self, path: str | Path, *, turntable: bool = True) -> Path:
        """Write a mesh (.glb, .obj, .ply) with its report (.json) and turntable (.webp), or one turntable alone.

        Each file is complete or absent, and says what `label` does.  Returns `path`.

        Raises:
            InputError: another suffix.
            OutputError: the place cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in ANIMATIONS:
            self._save_turntable(path)
            return path
        if suffix not in MESHES:
            known = ", ".join(MESHES + ANIMATIONS)
            raise InputError(f"`path` must end in one of {known}; got '{path.name}'.")
        save_mesh(self.mesh, path, label=self.label)
        if turntable:
            self._save_turntable(path.with_suffix(".webp"))
        with atomic_write(path.with_suffix(".json")) as temporary:
            write_json(temporary, {"prompt": self.prompt, **self.report})
        return path

    def _save_turntable(self, path: Path) -> None:
        cameras = Cameras.orbit(TURNTABLE_FRAMES, elevation_deg=15, fov_deg=float(self.views.cameras.fov_deg.mean()))
        frames = self.render(cameras, size=TURNTABLE_SIZE).over(GROUND)
        write_turntable(self.label.mark(frames), path, label=self.label)
