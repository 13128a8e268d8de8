"""Latents beside the pictures of a shard, so that training reads no pixels and runs no autoencoder.

Either means of the posterior over one grey, or its moments over several: what training then draws posterior samples and
grounds from.  A shard is rewritten whole or not at all, by one process at a time.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from viewfold.data.inventory import alone, samples_in
from viewfold.data.item import file_stamp
from viewfold.data.packing import PackReport
from viewfold.data.shard_writer import add_member
from viewfold.data.shards import ENCODER, MEANS, Sample, encoder_of, holds_latents, moments_suffix
from viewfold.errors import AssetError, FitError, InputError, OutputError
from viewfold.store import atomic_write

Encode = Callable[[Tensor], Tensor]
"""Pictures "b 3 h w" in [0, 1] -> normalised latents "b c i j", or their mean and log variance "b 2 c i j"."""


class _Unchanged(Exception):
    """Ends the writing of a shard that would be what it is."""


def cache_latents(
    folder: str | Path,
    encode: Encode,
    *,
    encoder: str,
    background: float = 0.5,
    grounds: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Give every sample its latents, rewriting one shard at a time; those of this encoder that are there are kept.

    A sample that cannot be read stays as it is, without latents, is named and tried again next time.

    Args:
        encode: the pipeline's `encode`, or, with `grounds`, what gives moments (`pipeline.moments.encode_moments`).
        encoder: tells one encoder from another (the hash of a VAE's weights); the shard's header keeps it.
        background: the grey behind the pictures whose means are cached.
        grounds: greys, 0 to 1 in hundredths; moments over each instead of means over `background`.

    Raises:
        InputError: greys that are none, or none.
        FitError: `encode` gives what is not finite or of the wrong shape.
        OutputError: another process works on the folder, or the disk is full.
    """
    wanted = {MEANS} if grounds is None else {moments_suffix(ground) for ground in _checked(grounds)}
    samples, skipped, failed = 0, 0, []
    with alone(folder):
        shards = sorted(Path(folder).glob("*.tar"))
        for number, shard in enumerate(shards):
            made = _rewrite(shard, encode, encoder, background, grounds, wanted, failed)
            samples, skipped = samples + (made or 0), skipped + (made is None)
            if progress:
                progress(number + 1, len(shards))
    return PackReport(samples=samples, shards=len(shards), skipped=skipped, failed=failed)


def _checked(grounds: Sequence[float]) -> Sequence[float]:
    hundredths = [round(100 * ground, 6) for ground in grounds]
    if not hundredths or len(set(hundredths)) < len(hundredths):
        raise InputError(f"`grounds` must be one grey or several different ones; got {list(grounds)}.")
    if not all(0 <= number <= 100 and number == int(number) for number in hundredths):
        raise InputError(f"`grounds` must be greys from 0 (black) to 1 (white), in hundredths; got {list(grounds)}.")
    return grounds


def _rewrite(
    shard: Path, encode: Encode, encoder: str, background: float, grounds: Sequence[float] | None, wanted: set[str],
    failed: list[tuple[str, str]],
) -> int | None:  # fmt: skip
    """Encode what a shard lacks; return how many samples that were, None if it lacked nothing."""
    stamp, inside = file_stamp([shard]), samples_in(shard)
    theirs = encoder_of(shard) == encoder
    done = {sample.uid for sample in inside if theirs and _complete(sample, wanted)}
    if theirs and len(done) == len(inside):
        return None
    made = 0
    try:
        with atomic_write(shard) as temporary, tarfile.open(temporary, "w", pax_headers={ENCODER: encoder}) as tar:
            for sample in inside:
                new = None
                if sample.uid not in done:
                    try:
                        new = _encoded(sample, encode, background, grounds)
                        made += 1
                    except AssetError as error:
                        failed.append((sample.uid, str(error)))
                _copy(tar, sample, new, keep=sample.uid in done)
            if theirs and not made:
                raise _Unchanged
            if file_stamp([shard]) != stamp:
                raise OutputError(f"`{shard}` was changed by another program meanwhile and stays. Run it again.")
    except _Unchanged:
        pass
    return made


def _complete(sample: Sample, wanted: set[str]) -> bool:
    held = {suffix for suffix in sample.members if holds_latents(suffix)}
    return held == wanted or (MEANS not in wanted and held == {moments_suffix(None)})


def _encoded(
    sample: Sample, encode: Encode, background: float, grounds: Sequence[float] | None
) -> dict[str, np.ndarray]:
    """Return the members to add, by suffix."""
    axes = 4 if grounds is None else 5
    if grounds is None:
        looks = {MEANS: sample.pictures(background=background)}
    else:
        looks = {moments_suffix(ground): pictures for ground, pictures in sample.pictures_over(grounds).items()}
    members = {}
    for suffix, pictures in looks.items():
        with torch.no_grad():
            latents = encode(pictures).half()
        if latents.ndim != axes or len(latents) != len(pictures) or (axes == 5 and latents.shape[1] != 2):
            raise FitError(f"`encode` must give {axes} axes, moments two a view; got {tuple(latents.shape)}.")
        if not bool(latents.isfinite().all()):
            raise FitError(f"`encode` must give finite latents; those of {sample.uid} are not. Check the autoencoder.")
        members[suffix] = latents.cpu().contiguous().numpy()
    return members


def _copy(tar: tarfile.TarFile, sample: Sample, new: dict[str, np.ndarray] | None, *, keep: bool) -> None:
    """Append a sample, with other latents or, if it is to keep them, its own."""
    for suffix in sample.members:
        if keep or not holds_latents(suffix):
            add_member(tar, f"{sample.uid}.{suffix}", sample.read(suffix))
    for suffix, array in (new or {}).items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        add_member(tar, f"{sample.uid}.{suffix}", buffer.getvalue())
