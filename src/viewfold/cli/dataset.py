"""`viewfold assets`, `render` and `pack`: from seeds to meshes, to posed pictures, to shards for training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars, stage
from viewfold.errors import AssetError


@dataclass(frozen=True, kw_only=True)
class Assets:
    """Make captioned toys, a GLB and a JSON file each; finished ones are skipped."""

    count: Positional[Annotated[int, arg(metavar="COUNT")]]
    """How many."""
    out: Path
    """Folder to write."""
    seed: int = 0
    """Of the first one; asset i depends on seed + i alone."""
    held_out: bool = False
    """Make the combinations of kind and colours that are never trained on."""
    workers: int = 1
    """Processes."""

    def run(self) -> None:
        """Make them and say how many there are."""
        from viewfold.data.assets import write_assets

        with progress_bars() as report:
            done = write_assets(
                self.out,
                count=self.count,
                seed=self.seed,
                held_out=self.held_out,
                workers=self.workers,
                progress=stage(report, "assets"),
            )
        print(f"{self.out}: {done.written} assets written, {done.skipped} were there already")
        fail_if_any((f"seed {seed}", reason) for seed, reason in done.failures)


@dataclass(frozen=True, kw_only=True)
class Render:
    """Photograph every asset of a folder (.glb, .obj or .ply, ours or anyone's); finished ones are skipped."""

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """Folder of assets; a .json of the same name may hold "captions", "licence" and "author"."""
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

    def run(self) -> None:
        """Render them and say how many there are."""
        from viewfold.data.render import PAPER, RenderSettings, render_assets

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
                self.folder, self.out, settings=settings, workers=self.workers, progress=stage(report, "render")
            )
        print(f"{self.out}: {done.done} assets rendered, {done.skipped} were there already")
        fail_if_any(done.failed)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack renders into webdataset shards; finished shards are kept."""

    renders: Positional[Annotated[Path, arg(metavar="RENDERS")]]
    """Folder that `viewfold render` wrote."""
    out: Path
    """Folder to write."""
    latents: Annotated[str | None, unset("MODEL")] = None
    """Also store the latents that this model's autoencoder makes of the pictures; another model's are replaced."""

    def run(self) -> None:
        """Pack them and say how many there are."""
        from viewfold.data.shards import cache_latents, pack

        with progress_bars() as report:
            done = pack(self.renders, self.out, progress=stage(report, "pack"))
            failed = list(done.failed)
            if self.latents is not None:
                import torch

                from viewfold.model.weights_hash import hash_tensors
                from viewfold.pipeline import load

                model = load(self.latents, dtype=torch.float32)  # a network learns from these; half precision stays in
                encoder = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
                latents = cache_latents(self.out, model.encode, encoder=encoder, progress=stage(report, "latents"))
                failed += latents.failed
        print(f"{self.out}: {done.samples} samples packed into {done.shards} shards, {done.skipped} were there already")
        fail_if_any(failed)


def fail_if_any(failures: Iterable[tuple[str, str]]) -> None:
    """List what could not be used and make the command fail, although the rest is done.

    Raises:
        AssetError: there is any.
    """
    failures = list(failures)
    for name, reason in failures:
        print(f"{name}: {reason}", file=sys.stderr)
    if failures:
        raise AssetError(f"{len(failures)} could not be used, see above; the rest is done.")
