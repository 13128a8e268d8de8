"""`viewfold render`: from meshes to posed pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from viewfold.cli.cluster import cluster_of
from viewfold.cli.failures import fail_if_any
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars, stage
from viewfold.errors import InputError

_SHOWN = 10
"""Remarks that are printed."""


@dataclass(frozen=True, kw_only=True)
class Render:
    """Photograph every asset of a folder (.glb, .gltf, .obj or .ply, ours or anyone's); finished ones are skipped."""

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """Folder of assets, and folders in it; a .json or .txt beside each may hold captions, licence and author."""
    out: Path
    """Folder to write, one folder per asset; processes that are given the same one share the work."""
    preset: Literal["toybox", "paper"] = "toybox"
    """Cameras and size of the shipped model's data or of MVDream's; the options below override it."""
    size: Annotated[int | None, unset("INT")] = None
    """Pixels across and down."""
    orbits: Annotated[int | None, unset("INT")] = None
    """Circles of views per asset."""
    views: Annotated[int | None, unset("INT")] = None
    """Views per circle."""
    elevation: Annotated[tuple[float, float] | None, unset("LOW HIGH")] = None
    """Lowest and highest elevation in degrees."""
    fov: Annotated[tuple[float, float] | None, unset("LOW HIGH")] = None
    """Narrowest and widest field of view in degrees."""
    seed: int = 0
    """Of the cameras and of random light."""
    light: Annotated[Literal["fixed", "random", "none"] | None, unset("fixed|random|none")] = None
    """The same for all assets, one of its own for each, or none: the albedo."""
    depth: bool = False
    """Write a 16-bit PNG of distances beside each picture, too."""
    normals: bool = False
    """Write an 8-bit PNG of normals beside each picture, too."""
    engine: Literal["builtin", "blender", "moderngl"] = "builtin"
    """What draws: our rasteriser, Blender's Cycles, or the rasteriser's picture by OpenGL."""
    samples: Annotated[int | None, unset("INT")] = None
    """Blender: paths per pixel (32)."""
    no_denoise: bool = False
    """Blender: leave the noise in."""
    gpu: bool = False
    """Blender: trace on the graphics card."""
    hdri: Annotated[Path | None, unset("FILE|FOLDER")] = None
    """Blender: surroundings in place of sky and lamp; of a folder, one per asset."""
    blender: Annotated[Path | None, unset("PROGRAM")] = None
    """Blender: a Python that has bpy, or Blender itself (VIEWFOLD_BLENDER, then `blender`)."""
    webp: Literal["small", "fast"] = "small"
    """Fast writes in a fifth of the time about twice the bytes of the same pixels."""
    workers: int = 1
    """Processes."""
    cluster: Annotated[str | None, unset("auto|ADDRESS")] = None
    """Ray cluster to work on, in place of processes: the one that this machine belongs to, or HOST:PORT."""
    captions: Annotated[Path | None, unset("FILE")] = None
    """Table of captions, licences and authors: CSV, Parquet, JSON, or a folder of Objaverse's own."""
    caption_from_name: bool = False
    """Caption an asset that has none after its file: Red_Mug-03.glb is "red mug"."""
    timeout: Annotated[float | None, unset("SECONDS")] = None
    """Longest time for one asset; one that takes more is named, and the rest goes on."""
    memory: Annotated[float | None, unset("GIB")] = None
    """Most memory of a process for one asset, in the same way."""
    retries: int = 1
    """Times that an asset is tried again whose process died or was ended."""

    def run(self) -> None:
        """Render them and say how many there are."""
        from viewfold.data.crew import Limits
        from viewfold.data.render import PAPER, RenderSettings, render_assets
        from viewfold.data.source import unread_files

        given = {
            "size": self.size,
            "orbits": self.orbits,
            "views": self.views,
            "elevation_deg": self.elevation,
            "fov_deg": self.fov,
            "seed": self.seed,
            "light": self.light,
            "depth": self.depth,
            "normals": self.normals,
            "engine": self.engine,
            "cycles": self._cycles(),
        }
        base = PAPER if self.preset == "paper" else RenderSettings()
        settings = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
        if self.cluster is not None and (self.timeout is not None or self.memory is not None):
            raise InputError("`timeout` and `memory` must be left out with `cluster`: Ray's own limits hold there.")
        limits = Limits(timeout_s=self.timeout, memory_gib=self.memory, retries=self.retries)
        with cluster_of(self.cluster, self.out, workers=self.workers) as pool, progress_bars() as report:
            done = render_assets(
                self.folder,
                self.out,
                settings=settings,
                workers=self.workers,
                captions=self.captions,
                caption_from_name=self.caption_from_name,
                limits=limits,
                blender=self.blender,
                webp=self.webp,
                pool=pool,
                progress=stage(report, "render"),
            )
        print(f"{self.out}: {done.done} assets rendered, {done.skipped} were there already")
        if done.renewed:
            print(f"  {done.renewed} had pictures of a file that has changed since, or damaged ones")
        for line in done.remarks[:_SHOWN]:
            print(f"  {line}")
        if len(done.remarks) > _SHOWN:
            print(f"  {len(done.remarks) - _SHOWN} more remarks are in the meta.json of their assets")
        for line in unread_files(self.folder):
            print(f"  {line}")
        if done.uncaptioned:
            shown = ", ".join(done.uncaptioned[:5]) + (", ..." if len(done.uncaptioned) > 5 else "")
            print(
                f"  {len(done.uncaptioned)} without a caption, which `viewfold pack` will ask for: {shown}. Put one "
                "in a .json or .txt beside each, name a table with --captions, or use --caption-from-name."
            )
        fail_if_any(done.failed)

    def _cycles(self):  # noqa: ANN202  its class is not loaded for help
        """Return the settings of Blender; None for other engines, to which its options mean nothing."""
        from viewfold.data.engines import Cycles

        given = {
            "samples": self.samples,
            "denoise": False if self.no_denoise else None,
            "device": "gpu" if self.gpu else None,
            "hdri": None if self.hdri is None else str(self.hdri),
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.engine == "blender":
            return Cycles(**given)
        for flag, value in (("blender", self.blender), *given.items()):
            if value is not None:
                option = {"denoise": "no_denoise", "device": "gpu"}.get(flag, flag)
                raise InputError(f"`{option}` must go with `engine` blender; got {self.engine}. Leave it out.")
        return None
