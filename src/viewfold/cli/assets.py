"""`viewfold assets`: from seeds to meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from viewfold.cli.failures import fail_if_any
from viewfold.cli.progress import progress_bars, stage


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
