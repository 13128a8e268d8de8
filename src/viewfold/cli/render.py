"""`viewfold render`: from meshes to posed pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from viewfold.cli.failures import fail_if_any
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars, stage


@dataclass(frozen=True, kw_only=True)
class Render:
    """Photograph every asset of a folder (.glb, .obj or .ply, ours or anyone's); finished ones are skipped."""

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """Folder of assets, and folders in it; a .json or .txt beside each may hold captions, licence and author."""
    out: Path
    """Folder to write, one folder per asset."""
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
    """Of the cameras."""
    workers: int = 1
    """Processes."""
    captions: Annotated[Path | None, unset("FILE")] = None
    """Table of captions, licences and authors: CSV, Parquet, JSON, or a folder of Objaverse's own."""
    caption_from_name: bool = False
    """Caption an asset that has none after its file: Red_Mug-03.glb is "red mug"."""

    def run(self) -> None:
        """Render them and say how many there are."""
        from viewfold.data.render import PAPER, RenderSettings, render_assets
        from viewfold.data.source import unread_files

        given = {
            "size": self.size,
            "orbits": self.orbits,
            "views": self.views,
            "elevation_deg": self.elevation,
            "fov_deg": self.fov,
            "seed": self.seed,
        }
        base = PAPER if self.preset == "paper" else RenderSettings()
        settings = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
        with progress_bars() as report:
            done = render_assets(
                self.folder,
                self.out,
                settings=settings,
                workers=self.workers,
                captions=self.captions,
                caption_from_name=self.caption_from_name,
                progress=stage(report, "render"),
            )
        print(f"{self.out}: {done.done} assets rendered, {done.skipped} were there already")
        for line in unread_files(self.folder):
            print(f"  {line}")
        fail_if_any(done.failed)
