"""The files of a lift: written, and what the command says of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewfold.cli.lift import Lift
    from viewfold.lifting.asset import Asset3D


def check_places(out: Path, options: Lift) -> None:
    """Fail before the work if a file that the options ask for could not be written.

    Raises:
        MissingExtraError: a package that writes it is not there.
        OutputError: its place is taken by something else, or cannot be written.
    """
    from viewfold.cli.maps import check_maps
    from viewfold.lifting.asset import check_place

    check_place(out, splats=options.splats, turntable=options.turns)
    if options.maps:
        check_maps(out)


def save_asset(asset: Asset3D, out: Path, options: Lift) -> None:
    """Write the files that the options ask for."""
    from viewfold.cli.maps import write_maps

    asset.save(out, splats=options.splats, turntable=options.turns)
    if options.maps:
        write_maps(asset, out)


def say_asset(asset: Asset3D, out: Path, started: float, options: Lift) -> None:
    """Print where an asset is and the seconds since `started`, by `time.perf_counter`."""
    beside = f"turntable {out.stem}.{options.turntable}, " * bool(options.turns)
    beside += f"splats {out.stem}.splats.ply, " * options.splats + f"maps {out.stem}.maps, " * options.maps
    seconds = time.perf_counter() - started
    print(f"{out}: {len(asset.mesh.faces)} faces, {beside}report {out.stem}.json ({seconds:.1f} s)")
