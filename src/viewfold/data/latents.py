"""Latents beside the pictures of a shard, so that training reads no pixels and runs no autoencoder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.data.inventory import alone
from viewfold.data.packing import PackReport, add_member
from viewfold.data.shards import ENCODER, Sample, encoder_of, members
from viewfold.errors import AssetError, FitError
from viewfold.store import atomic_write


def cache_latents(
    folder: str | Path,
    encode: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]],
    *,
    encoder: str,
    background: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Give every sample its `UID.latents.npy`, rewriting one shard at a time; a shard that this encoder did is kept.

    A sample whose pictures cannot be read keeps what it has, without latents: it is named, and tried again next time.
    A shard is replaced whole or not at all.  One process at a time (`inventory.alone`).

    Args:
        encode: pictures in [0, 1] -> normalised latents (the pipeline's or a VAE's).
        encoder: tells one encoder from another (the hash of a VAE's weights); the shard's header keeps it.

    Raises:
        FitError: the encoder gives what is not finite.
        OutputError: another process writes there, or the disk is full.
    """
    with alone(folder):
        return _cache(Path(folder), encode, encoder, background, progress)


def _cache(
    folder: Path,
    encode: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]],
    encoder: str,
    background: float,
    progress: Callable[[int, int], None] | None,
) -> PackReport:
    shards = sorted(folder.glob("*.tar"))
    samples, skipped, failed = 0, 0, []
    for number, shard in enumerate(shards):
        inside: dict[str, Sample] = {}
        for uid, suffix, offset, size in members(shard):
            inside.setdefault(uid, Sample(uid)).members[suffix] = (shard, offset, size)
        header = {ENCODER: encoder}
        if encoder_of(shard) == encoder and all("latents.npy" in sample.members for sample in inside.values()):
            skipped += 1
            continue
        with atomic_write(shard) as temporary, tarfile.open(temporary, "w", pax_headers=header) as tar:
            for sample in inside.values():
                latents = None
                try:
                    with torch.no_grad():
                        latents = encode(sample.pictures(background=background))
                except AssetError as error:
                    failed.append((sample.uid, str(error)))
                if latents is not None and not bool(latents.half().isfinite().all()):
                    raise FitError(
                        f"`encode` must give finite latents; those of {sample.uid} are not. Check the autoencoder."
                    )
                for suffix in sample.members:
                    if suffix != "latents.npy":
                        add_member(tar, f"{sample.uid}.{suffix}", sample.read(suffix))
                if latents is not None:
                    buffer = io.BytesIO()
                    np.save(buffer, latents.half().cpu().numpy(), allow_pickle=False)
                    add_member(tar, f"{sample.uid}.latents.npy", buffer.getvalue())
                    samples += 1
        if progress:
            progress(number + 1, len(shards))
    return PackReport(samples=samples, shards=len(shards), skipped=skipped, failed=failed)
