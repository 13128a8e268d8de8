"""`viewfold pack`: from posed pictures to shards for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from viewfold.cli.failures import fail_if_any
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars, stage


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
        from viewfold.data.latents import cache_latents
        from viewfold.data.packing import pack

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
