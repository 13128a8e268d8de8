"""The samples of folders of shards as one table, in the order of their uids; what cannot be trained on is refused here.

In memory a sample takes 26 bytes, whatever it holds: captions, cameras and latents are read when it is drawn.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from viewfold.data.shard_index import ROW, Kind, ShardIndex, index_folder, index_shard
from viewfold.data.storage import Storage, storage_of
from viewfold.errors import AssetError, InputError

SHOWN = 3
"""How many unusable samples a message names."""

_TABLE = np.dtype([("shard", "<u4"), *((name, ROW[name]) for name in ROW.names or ())])


@dataclass(frozen=True)
class Shard:
    """Where the samples of a shard are read."""

    storage: Storage
    path: str
    stamp: str
    index: str
    index_stamp: str
    details_at: int


class Row(NamedTuple):
    """What the table says of one sample, as plain numbers: NumPy's own are slow to take one by one."""

    shard: int
    at: int
    size: int
    kind: int
    views: int
    orbits: int
    cameras: int
    captions: int


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The samples of one folder."""

    folder: str
    shards: list[Shard]
    kinds: list[Kind]
    rows: np.ndarray
    """`_TABLE`, a row a sample: its shard, and what `ROW` says."""
    bare: list[str]
    """Samples without latents, which are left out."""
    fingerprint: dict[str, Any]
    """Tells samples and encoders apart."""

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, place: int) -> Row:
        """Return what is known of one sample."""
        return Row._make(self.rows[place].item())


def open_catalog(
    folder: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    views: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Catalog:
    """Look through the shards of a folder or URL, each once for each content of it.

    Args:
        shape: (channels, height, width) that the network takes; None takes that of the first sample.
        views: so many evenly spaced views will be drawn of each sample; None for single pictures.
        progress: called with (shards looked through, all shards).

    Raises:
        InputError: no shards.
        AssetError: a shard is damaged, no sample has latents, or samples hold what a step could not use: latents of
            another shape or not finite, no captions, cameras that do not fit; the first few are named.
    """
    storage = storage_of(folder)
    tars = storage.tars()
    if not tars:
        raise InputError(f"`shards` must hold .tar files; `{folder}` holds none. Run `viewfold pack`.")
    found, tables = [], _tables()
    for number, tar in enumerate(tars):
        found.append(index_shard(storage, tar, tables))
        if progress:
            progress(number + 1, len(tars))
    kinds = list(dict.fromkeys(kind for index in found for kind in index.kinds))
    rows, uids = _joined(found, kinds)
    names = {uid for index in found for uid, _ in index.broken}
    wrong = [(uid, reason) for index in found for uid, reason in index.broken]
    shape = shape or (kinds[int(rows["kind"][0])].shape if len(rows) else None)
    wrong += [(uid, reason) for uid, reason in _unfit(rows, uids, kinds, shape, views) if uid not in names]
    bare = sorted({uid for index in found for uid in index.bare} - names - _held(uids, found))
    if wrong:
        total = len(rows) + len(names)
        shown = "; ".join(reason.rstrip(".") for _, reason in sorted(wrong)[:SHOWN])
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise AssetError(f"{len(wrong)} of {total} samples cannot be trained on: {shown}{more}.")
    if not len(rows):
        advice = "Run `viewfold pack` with --latents."
        raise AssetError(f"`{folder}` must hold samples with latents; it holds {len(bare)} without. {advice}")
    return Catalog(
        folder=str(folder),
        shards=[
            Shard(storage, tar, index.shard_stamp, str(index.path), index.stamp, index.details_at)
            for tar, index in zip(tars, found, strict=True)
        ],
        kinds=kinds,
        rows=rows,
        bare=bare,
        fingerprint={
            "samples": len(rows),
            "uids": _hash(uids),
            "encoders": sorted({index.encoder or "unknown" for index in found if len(index.rows)}),
        },
    )


def _tables() -> Path:
    """Return the folder of tables; one for this process alone if the user's cannot be written."""
    place = index_folder()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError:
        return _of_this_process()


@functools.cache
def _of_this_process() -> Path:
    place = Path(tempfile.mkdtemp(prefix="viewfold-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def _joined(found: Sequence[ShardIndex], kinds: list[Kind]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all shards in the order of the uids, and these; of one in several shards the last counts."""
    rows = np.zeros(sum(len(index.rows) for index in found), _TABLE)
    uids = np.zeros(len(rows), f"S{max((index.uids.itemsize for index in found), default=1)}")
    at = 0
    for number, index in enumerate(found):
        part = slice(at, at + len(index.rows))
        for name in ROW.names or ():
            rows[name][part] = index.rows[name]
        rows["shard"][part] = number
        if index.kinds:
            rows["kind"][part] = np.array([kinds.index(kind) for kind in index.kinds], "<u2")[index.rows["kind"]]
        uids[part] = index.uids
        at = part.stop
    if bool((uids[1:] > uids[:-1]).all()):
        return rows, uids
    order = np.argsort(uids, kind="stable")
    last = np.append(uids[order][1:] != uids[order][:-1], True)
    return rows[order[last]], uids[order[last]]


def _held(uids: np.ndarray, found: Sequence[ShardIndex]) -> set[str]:
    """Return which samples that lack latents in one shard have them in another."""
    asked = np.array([uid.encode("utf-8", "surrogateescape") for index in found for uid in index.bare] or [b""])
    return {uid.decode("utf-8", "surrogateescape") for uid in asked[np.isin(asked, uids)].tolist()}


def _hash(uids: np.ndarray) -> str:
    """Return the SHA-256 of the uids, a line each."""
    digest = hashlib.sha256()
    for start in range(0, len(uids), 4096):
        digest.update((b"\n" if start else b"") + b"\n".join(uids[start : start + 4096].tolist()))
    return digest.hexdigest()


def _unfit(
    rows: np.ndarray, uids: np.ndarray, kinds: list[Kind], shape: tuple[int, ...] | None, views: int | None
) -> Iterator[tuple[str, str]]:
    """Yield the samples that do not fit this network or these views, and why."""
    other = np.array([kind.shape != shape for kind in kinds] or [False])[rows["kind"]]
    unfit = other
    if views is not None:
        alone = rows["cameras"] != rows["views"]
        per_orbit, rest = np.divmod(rows["views"], rows["orbits"])
        unfit = other | alone | (rest != 0) | (per_orbit % views != 0)
    for place in np.flatnonzero(unfit).tolist():
        uid, row = uids[place].decode(), rows[place]
        if other[place]:
            reason = (
                f"must have latents of the shape {shape}, as the network has them; got {kinds[row['kind']].shape}. "
                "Pack them again with this model's autoencoder"
            )
        elif row["cameras"] != row["views"]:
            reason = f"must have a camera for each of its {row['views']} views; got {row['cameras']}"
        else:
            reason = (
                f"must have circles of views that {views} `views` divide evenly; got {row['views']} views on "
                f"{row['orbits']} circles"
            )
        yield uid, f"`{uid}` {reason}"
