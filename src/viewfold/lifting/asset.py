"""The result of FLOW 2: a mesh, the representation that it was taken from, and what was measured of both; its files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.camera import Cameras
from viewfold.errors import InputError, ViewfoldError
from viewfold.formats import ANIMATIONS, MESHES
from viewfold.label import UNLABELLED, Label
from viewfold.picture import write_turntable
from viewfold.scene.export import check_mesh, mesh_files, write_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Representation
from viewfold.scene.standing import Standing
from viewfold.scene.usd import check_usd
from viewfold.store import check_output, complete_files, read_json, write_json
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

    standing: Standing = Standing()
    """How tall it is in its file, and where the file's origin is; `mesh` itself is as it was made."""

    def render(self, cameras: Cameras, *, size: int) -> Rendering:
        """Draw the mesh as a viewer shows it: in `Light()`, or as it is where light is painted in."""
        return rasterize(self.mesh, cameras, size=size)

    def save(self, path: str | Path, *, turntable: bool = True) -> Path:
        """Write a mesh (.glb, .obj, .ply, .stl, .usdz) with its report (.json) and turntable (.webp), or that alone.

        All files of the set appear, or none, over an older set too (`store.atomic_files`); parts and materials are
        called after the prompt; each file says what `label` does.  Returns `path`.

        Raises:
            InputError: another suffix, or what this kind cannot hold.
            MissingExtraError: a .usdz without usd-core.
            OutputError: the place cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() in ANIMATIONS:
            self._save_turntable(path)
            return path
        if path.suffix.lower() not in MESHES:
            known = ", ".join(MESHES + ANIMATIONS)
            raise InputError(f"`path` must end in one of {known}; got '{path.name}'.")
        mesh = self.standing.apply(self.mesh)
        check_mesh(mesh, path)
        with mesh_files(path, stale=_old_turntable) as temporary:
            write_mesh(mesh, temporary, label=self.label, name=self.prompt)
            shown = temporary.with_suffix(".webp").name if turntable else None
            if turntable:
                self._save_turntable(temporary.with_suffix(".webp"))
            write_json(temporary.with_suffix(".json"), {"prompt": self.prompt, "turntable": shown, **self.report})
        return path

    def _save_turntable(self, path: Path) -> None:
        cameras = Cameras.orbit(TURNTABLE_FRAMES, elevation_deg=15, fov_deg=float(self.views.cameras.fov_deg.mean()))
        frames = self.render(cameras, size=TURNTABLE_SIZE).over(GROUND)
        write_turntable(self.label.mark(frames), path, label=self.label)


def check_place(path: str | Path) -> None:
    """Fail before the work if an asset could not be saved at `path`; complete one there whose writer was killed.

    Raises:
        MissingExtraError: a .usdz without usd-core.
        OutputError: one of its places is taken by something else, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".usdz":
        check_usd()
    for place in (path, path.with_suffix(".webp"), path.with_suffix(".json")):
        check_output(place)
    complete_files(path)


def _old_turntable(path: Path) -> tuple[str, ...]:
    """Return the name of the turntable that the report beside `path` names, if it is one of ours."""
    try:
        named = read_json(path.with_suffix(".json")).get("turntable")
    except ViewfoldError:
        return ()
    ours = path.with_suffix(".webp").name
    return (ours,) if named == ours else ()
