"""What a command says of the files that it wrote."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewfold.lifting.asset import Asset3D


def say_asset(asset: Asset3D, out: Path, started: float, *, splats: bool = False) -> None:
    """Print where an asset is and the seconds since `started`, by `time.perf_counter`."""
    beside = f"turntable {out.stem}.webp, " + f"splats {out.stem}.splats.ply, " * splats
    seconds = time.perf_counter() - started
    print(f"{out}: {len(asset.mesh.faces)} faces, {beside}report {out.stem}.json ({seconds:.1f} s)")
