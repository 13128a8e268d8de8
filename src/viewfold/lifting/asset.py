"""The result of FLOW 2: a mesh, the field that it was taken from, and what was measured of both."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.origin.record import payload
from viewfold.origin.watermark import embed
from viewfold.picture import write_turntable
from viewfold.scene.export import save_mesh
from viewfold.scene.field import GridField
from viewfold.scene.interchange import load_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.scene.volume import OccupancyGrid, render_volume
from viewfold.store import atomic_write
from viewfold.views import Views

MESH_SUFFIXES = (".glb", ".obj", ".ply")
TURNTABLE_SUFFIXES = (".webp", ".gif", ".mp4")
TURNTABLE_FRAMES = 36
TURNTABLE_SIZE = 192
GROUND = 1.0
"""The turntable's background, white."""

CHECK_VIEWS = 8
CHECK_SIZE = 96
"""The exported file is drawn from this many sides at this size and compared with the field."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asset3D:
    """A 3D object made from a prompt."""

    mesh: Mesh
    """Closed, coloured, z up, front towards -y."""

    field: GridField
    """What the mesh was extracted from; can be distilled further."""

    views: Views
    """The pictures that it was fitted to."""

    prompt: str
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Seconds per stage, memory, and how well the exported file stands for the field."""

    def render(self, cameras: Cameras, *, size: int) -> Rendering:
        """Draw the mesh in its own colours (light is painted in)."""
        return rasterize(self.mesh, cameras, size=size, light=None)

    def save(self, path: str | Path, *, turntable: bool = True) -> Path:
        """Write a mesh (.glb, .obj, .ply) with its report (.json) and turntable (.webp), or one turntable alone.

        Each file is complete or absent, and carries the record of provenance in `report`, if there is one.  Returns
        `path`.

        Raises:
            InputError: another suffix.
            OutputError: the place cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in TURNTABLE_SUFFIXES:
            self._save_turntable(path)
            return path
        if suffix not in MESH_SUFFIXES:
            known = ", ".join(MESH_SUFFIXES + TURNTABLE_SUFFIXES)
            raise InputError(f"`path` must end in one of {known}; got '{path.name}'.")
        save_mesh(self.mesh, path, record=self.report.get("provenance"))
        if turntable:
            self._save_turntable(path.with_suffix(".webp"))
        with atomic_write(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({"prompt": self.prompt, **self.report}, indent=1))
        return path

    def _save_turntable(self, path: Path) -> None:
        cameras = Cameras.orbit(TURNTABLE_FRAMES, elevation_deg=15, fov_deg=float(self.views.cameras.fov_deg.mean()))
        record = self.report.get("provenance")
        frames, mark = self.render(cameras, size=TURNTABLE_SIZE).over(GROUND), payload(record)
        write_turntable(frames if mark is None else embed(frames, mark), path, record=record)


@torch.no_grad()
def measure_export(mesh: Mesh, field: GridField, *, ground: torch.Tensor, like: Cameras) -> dict[str, float]:
    """Write the mesh as GLB, read it back, draw it, and compare with the field from sides of its own.

    Returns:
        `rerender_psnr_db`: of the file's picture against the field's, over pixels that the field covers by half;
        `silhouette_iou`: shared by all sides.
    """
    cameras = Cameras.orbit(
        CHECK_VIEWS,
        elevation_deg=[0.0, 30.0] * (CHECK_VIEWS // 2),
        azimuth_deg=22.5,
        fov_deg=float(like.fov_deg.mean()),
        distance=float(like.position.norm(dim=-1).mean()),
    )
    with tempfile.TemporaryDirectory() as folder:
        save_mesh(mesh, Path(folder) / "check.glb")
        exported = load_mesh(Path(folder) / "check.glb")
    drawn = rasterize(exported, cameras, size=CHECK_SIZE, light=None)
    device = field.grid.device
    occupancy = OccupancyGrid.of(field, device=device)
    truth = render_volume(field, cameras.to(device), size=CHECK_SIZE, n_samples=96, occupancy=occupancy).to("cpu")
    ground = ground.cpu()
    inside, outline = truth.alpha > 0.5, drawn.alpha > 0.5
    error = (truth.over(ground) - drawn.over(ground)).square().mean(dim=1, keepdim=True)[inside].mean()
    union = (inside | outline).sum().clamp_min(1)
    return {
        "rerender_psnr_db": round(float(-10 * error.clamp_min(1e-10).log10()), 2),
        "silhouette_iou": round(float((inside & outline).sum() / union), 4),
    }
