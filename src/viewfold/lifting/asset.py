"""The result of FLOW 2: a mesh, the representation that it was taken from, and what was measured of both; its files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from viewfold.camera import Cameras
from viewfold.errors import InputError, ViewfoldError
from viewfold.formats import ANIMATIONS, MESHES
from viewfold.label import UNLABELLED, Label
from viewfold.picture import check_mp4, write_turntable
from viewfold.scene.export import check_mesh, mesh_files, write_mesh
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.gaussian.splatfile import splat_bytes
from viewfold.scene.gaussians import GaussianCloud
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Representation
from viewfold.scene.standing import Standing
from viewfold.scene.usd import check_usd
from viewfold.store import check_output, complete_files, finite, read_json, write_json
from viewfold.views import Views

Turntable = Literal["webp", "mp4"]
"""What a turntable beside a mesh is written as."""

TURNTABLE_FRAMES = 36
TURNTABLE_SIZE = 192
GROUND = 1.0
"""The turntable's background, white."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asset3D:
    """A 3D object made from a prompt."""

    mesh: Mesh
    """Coloured, z up, front towards -y; closed, unless it was given."""

    representation: Representation | None
    """What the mesh was extracted from; can be distilled further.  None of a mesh that was given."""

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

    def save(self, path: str | Path, *, turntable: bool | Turntable = True, splats: bool = False) -> Path:
        """Write a mesh (.glb, .obj, .ply, .stl, .usdz) with its report (.json) and turntable, or that alone.

        All files of the set appear, or none, over an older set too (`store.atomic_files`); parts and materials are
        called after the prompt; each file says what `label` does.  Returns `path`.

        Args:
            path: of the mesh.
            turntable: beside a mesh, as .webp or .mp4; True is .webp.
            splats: also write the 3D Gaussians that the mesh was taken from, as NAME.splats.ply: z up, whatever the
                mesh's file has, and standing as it does.

        Raises:
            InputError: another suffix, what this kind cannot hold, or splats of what has none.
            MissingExtraError: a .usdz without usd-core, a .mp4 without imageio-ffmpeg.
            OutputError: the place cannot be written.
        """
        path = Path(path)
        if splats and path.suffix.lower() not in MESHES:
            raise InputError(f"`splats` must come with a mesh, {', '.join(MESHES)}; got '{path.name}'.")
        if path.suffix.lower() in ANIMATIONS:
            self._save_turntable(path)
            return path
        if path.suffix.lower() not in MESHES:
            known = ", ".join(MESHES + ANIMATIONS)
            raise InputError(f"`path` must end in one of {known}; got '{path.name}'.")
        mesh = self.standing.apply(self.mesh)
        check_mesh(mesh, path)
        cloud = self._splats() if splats else None
        with mesh_files(path, stale=_old_companions) as temporary:
            write_mesh(mesh, temporary, label=self.label, name=self.prompt)
            shown = turntable_beside(temporary, turntable)
            if shown is not None:
                self._save_turntable(shown)
            beside = {"turntable": None if shown is None else shown.name}
            if cloud is not None:
                beside["splats"] = splats_beside(temporary).name
                splats_beside(temporary).write_bytes(splat_bytes(cloud, label=self.label))
            write_json(temporary.with_suffix(".json"), finite({"prompt": self.prompt, **beside, **self.report}))
        return path

    def _splats(self) -> Gaussians:
        if not isinstance(self.representation, GaussianCloud):
            raise InputError("`splats` must be left out for what is made of none. Lift with 3D Gaussians for them.")
        made = self.representation.export()
        return made if self.standing == Standing() else made.moved(self.standing.matrix(self.mesh))

    def _save_turntable(self, path: Path) -> None:
        cameras = Cameras.orbit(TURNTABLE_FRAMES, elevation_deg=15, fov_deg=float(self.views.cameras.fov_deg.mean()))
        frames = self.render(cameras, size=TURNTABLE_SIZE).over(GROUND)
        write_turntable(self.label.mark(frames), path, label=self.label)


def check_place(path: str | Path, *, splats: bool = False, turntable: bool | Turntable = True) -> None:
    """Fail before the work if an asset could not be saved at `path`; complete one there whose writer was killed.

    Raises:
        MissingExtraError: a .usdz without usd-core, a .mp4 without imageio-ffmpeg.
        OutputError: one of its places is taken by something else, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".usdz":
        check_usd()
    shown = turntable_beside(path, turntable)
    if shown is not None and shown.suffix == ".mp4":
        check_mp4()
    for place in (path, shown, path.with_suffix(".json"), *[splats_beside(path)] * splats):
        if place is not None:
            check_output(place)
    complete_files(path)


def turntable_beside(path: Path, turntable: bool | Turntable) -> Path | None:
    """Return where the turntable of an asset is: a.glb -> a.webp or a.mp4; None for none."""
    kind = "webp" if turntable is True else turntable
    if kind and kind not in get_args(Turntable):
        raise InputError(f"`turntable` must be True, False, {' or '.join(get_args(Turntable))}; got {turntable!r}.")
    return path.with_suffix(f".{kind}") if kind else None


def splats_beside(path: Path) -> Path:
    """Return where the splats of an asset are: a.glb -> a.splats.ply."""
    return path.with_suffix(".splats.ply")


def _old_companions(path: Path) -> tuple[str, ...]:
    """Return the names of the turntable and the splats that the report beside `path` names, if they are ours."""
    try:
        report = read_json(path.with_suffix(".json"))
    except ViewfoldError:
        return ()
    shown = [path.with_suffix(f".{kind}").name for kind in get_args(Turntable)]
    ours = [*(("turntable", name) for name in shown), ("splats", splats_beside(path).name)]
    return tuple(name for key, name in ours if report.get(key) == name)
