"""What a step needs to know of a shard without reading it: a table of its samples, made once per content of the shard.

Making it reads every caption, camera and latent, so that nothing broken meets a step hours later.  It is kept as one
file in the user's own cache, never beside the shard, where a stranger could have put it:

    length of the header, header (JSON: what the shard was, kinds of latents, what is broken)
    rows (fixed size, in the order of the uids), uids, details (one block a sample, read when the sample is drawn)

A block holds the uid, the captions, poses and lenses, where each view's latents begin, and their checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from viewfold import limits
from viewfold.data.member import Array, parse_cameras, parse_captions, parse_meta, parse_orbits
from viewfold.data.shards import ENCODER, MEANS, ground_of, holds_latents, walk
from viewfold.data.storage import Readable, Storage
from viewfold.errors import AssetError, OutputError
from viewfold.store import atomic_write

FORMAT = 1
"""Of the file; one of another format is made again."""

ROW = np.dtype(
    [("at", "<u8"), ("size", "<u4"), ("kind", "<u2"), ("views", "<u2"), ("orbits", "<u2"), ("cameras", "<u2"),
     ("captions", "<u2")]
)  # fmt: skip
"""Of one sample, 22 bytes: where its details lie and how long they are, which kind of latents, how many of what."""

_HEAD = struct.Struct("<IHHHH")
"""Bytes of the text; members, views, cameras, captions."""

_LOOKS = np.dtype([("start", "<u8"), ("view_bytes", "<u4"), ("itemsize", "<u4")])
"""Of one member of latents: where its first view begins, bytes of a view and of a number."""


@dataclass(frozen=True)
class Kind:
    """A kind of latents that samples hold."""

    shape: tuple[int, int, int]
    """(channels, height, width)."""
    moments: bool
    grounds: tuple[float | None, ...]
    """Of each member; None: no ground shows through."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The table of one shard."""

    path: Path
    """Of the file that holds it."""
    stamp: str
    """Of that file, which a reader of details checks."""
    details_at: int
    shard_stamp: str
    encoder: str | None
    kinds: list[Kind]
    rows: np.ndarray
    """`ROW`, in the order of the uids."""
    uids: np.ndarray
    """Bytes, UTF-8."""
    broken: list[tuple[str, str]]
    """Samples that cannot be trained on: (uid, reason)."""
    bare: list[str]
    """Samples without latents."""


@dataclass(frozen=True)
class Details:
    """What is read of one sample when it is drawn."""

    uid: str
    captions: list[str]
    cameras: np.ndarray
    """n 17: the row-major `world_from_camera` and the field of view."""
    looks: np.ndarray
    """`_LOOKS`, a member each."""
    checksums: np.ndarray
    """CRC-32 of each view of each member."""

    def pack(self) -> bytes:
        """Return the block."""
        texts = [text.encode() for text in (self.uid, *self.captions)]
        head = _HEAD.pack(sum(map(len, texts)), len(self.looks), self.checksums.shape[1], len(self.cameras),
                          len(self.captions))  # fmt: skip
        lengths = np.array([len(text) for text in texts], "<u4")
        arrays = (lengths, self.looks, self.checksums.astype("<u4"), self.cameras.astype("<f4"))
        return b"".join((head, *(array.tobytes() for array in arrays), *texts))

    @classmethod
    def unpack(cls, block: bytes) -> Details:
        """Return what a block holds."""
        _, members, views, cameras, captions = _HEAD.unpack_from(block)
        at = _HEAD.size
        lengths = np.frombuffer(block, "<u4", 1 + captions, at)
        looks = np.frombuffer(block, _LOOKS, members, at := at + lengths.nbytes)
        checksums = np.frombuffer(block, "<u4", members * views, at := at + looks.nbytes)
        poses = np.frombuffer(block, "<f4", 17 * cameras, at := at + checksums.nbytes)
        at += poses.nbytes
        texts = []
        for length in lengths.tolist():
            texts.append(block[at : at + length].decode())
            at += length
        return cls(texts[0], texts[1:], poses.reshape(-1, 17), looks, checksums.reshape(members, views))


def index_folder() -> Path:
    """Return where tables are kept: XDG_CACHE_HOME, else ~/.cache, and in it viewfold/shards."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viewfold" / "shards"


def index_shard(storage: Storage, shard: str, folder: Path) -> ShardIndex:
    """Return the table of a shard, made now unless `folder` has that of its present content.

    Raises:
        AssetError: the shard is damaged, or cannot be reached.
        OutputError: the table cannot be written.
    """
    try:
        stamp = storage.stamp(shard)
        where = storage.key(shard).encode("utf-8", "surrogateescape")
        path = folder / f"{hashlib.sha256(where).hexdigest()[:32]}.index"
        known = _read(path, stamp)
        if known is not None:
            return known
        with storage.open(shard) as file:
            made = _look_through(file, shard)
        if storage.stamp(shard) != stamp:
            raise AssetError(f"`{shard}` was changed while it was read. Start again.")
    except OSError as error:
        raise AssetError(f"`{shard}` cannot be read: {error.strerror or error}.") from error
    with atomic_write(path) as temporary:
        _write(temporary, stamp, made)
    known = _read(path, stamp)
    if known is None:
        raise OutputError(f"`{path}` must keep what is written there; it does not. Set XDG_CACHE_HOME to another.")
    return known


@dataclass
class _Found:
    """One sample while its members are met one after the other."""

    meta: dict[str, Any] | None = None
    arrays: dict[str, tuple[Array, int, np.ndarray]] = field(default_factory=dict)
    """suffix -> (layout, where the member begins, checksum of each view)."""
    wrong: str | None = None


@dataclass
class _Made:
    encoder: str | None
    kinds: list[Kind]
    samples: list[tuple[bytes, tuple[int, ...], bytes]]
    """Uid, kind and counts, block of details."""
    broken: list[tuple[str, str]]
    bare: list[str]


def _look_through(file: Readable, shard: str) -> _Made:
    """Read a shard once from its beginning to its end."""
    header: dict[str, str] = {}
    found: dict[str, _Found] = {}
    for uid, suffix, offset, size in walk(file, shard, header):
        sample = found.setdefault(uid, _Found())
        if suffix != "json" and not holds_latents(suffix):
            continue
        file.seek(offset)
        content = file.read(size)
        try:
            if len(content) != size:
                raise AssetError(f"`{shard}` is cut short at `{uid}.{suffix}`. Pack it again.")
            if suffix == "json":
                sample.meta = parse_meta(uid, content)
            else:
                sample.arrays[suffix] = _array(f"{uid}.{suffix}", suffix, content, offset)
        except AssetError as error:
            sample.wrong = sample.wrong or str(error)
    made = _Made(header.get(ENCODER), [], [], [], [])
    for uid in sorted(found, key=lambda uid: uid.encode("utf-8", "surrogateescape")):
        try:
            _add(made, uid, found[uid])
        except AssetError as error:
            made.broken.append((uid, str(error)))
    return made


def _array(name: str, suffix: str, content: bytes, offset: int) -> tuple[Array, int, np.ndarray]:
    array = Array.of(name, content, axes=4 if suffix == MEANS else 5)
    with np.errstate(over="ignore"):
        values = array.values(content).astype(np.float16)
    if not bool(np.isfinite(values).all()):
        uid = name.partition(".")[0]
        raise AssetError(f"`{uid}` must have finite latents; they hold NaN or infinity. Pack them again")
    if suffix != MEANS and array.shape[1] != 2:
        raise AssetError(f"`{name}` must hold a mean and a log variance a view; got {array.shape[1]}.")
    if suffix != MEANS and bool((values[:, 1] > limits.LOG_VARIANCE).any()):
        raise AssetError(
            f"`{name}` must hold log variances of at most {limits.LOG_VARIANCE}; got {values[:, 1].max():.4g}. "
            "Pack it again."
        )
    starts = range(array.start, len(content), array.view_bytes)
    sums = np.array([zlib.crc32(content[start : start + array.view_bytes]) for start in starts], "<u4")
    return array, offset, sums


def _add(made: _Made, uid: str, sample: _Found) -> None:
    if sample.wrong is not None:
        raise AssetError(sample.wrong)
    if not sample.arrays:
        made.bare.append(uid)
        return
    if sample.meta is None:
        raise AssetError(f"`{uid}` has no member 'json', which tells its captions. Pack it again.")
    captions, orbits = parse_captions(uid, sample.meta), parse_orbits(uid, sample.meta)
    cameras = parse_cameras(uid, sample.meta)
    if cameras is not None and len(cameras) > limits.SAMPLE_VIEWS:
        raise AssetError(f"`{uid}` must have at most {limits.SAMPLE_VIEWS} cameras; got {len(cameras)}.")
    names = sorted(name for name in sample.arrays if name != MEANS) or [MEANS]  # moments say more than means
    arrays = [sample.arrays[name] for name in names]
    first = arrays[0][0]
    if len({(array.shape, array.dtype) for array, _, _ in arrays}) > 1:
        raise AssetError(f"`{uid}` must have moments of one shape and type over all grounds. Pack them again.")
    moments = names != [MEANS]
    shape = first.shape[-3:]
    kind = Kind((shape[0], shape[1], shape[2]), moments, tuple(ground_of(n) for n in names) if moments else (None,))
    if kind not in made.kinds:
        made.kinds.append(kind)
    looks = np.array([(at + array.start, array.view_bytes, array.dtype.itemsize) for array, at, _ in arrays], _LOOKS)
    poses = np.zeros((0, 17), "<f4")
    if cameras is not None:
        poses = np.concatenate([cameras.world_from_camera.reshape(-1, 16).numpy(), cameras.fov_deg[:, None].numpy()], 1)
    sums = np.stack([sums for _, _, sums in arrays])
    try:
        block = Details(uid, captions, poses, looks, sums).pack()
    except UnicodeEncodeError as error:
        raise AssetError(f"`{uid!r}` must be a name of whole letters. Rename it and pack again.") from error
    counts = (made.kinds.index(kind), first.shape[0], orbits, len(poses), len(captions))
    made.samples.append((uid.encode(), counts, block))


def _write(path: Path, stamp: str, made: _Made) -> None:
    rows = np.zeros(len(made.samples), ROW)
    at = 0
    for number, (_, counts, block) in enumerate(made.samples):
        rows[number] = (at, len(block), *counts)
        at += len(block)
    uids = np.array([uid for uid, _, _ in made.samples], "S")
    header = json.dumps(
        {
            "format": FORMAT,
            "shard": stamp,
            "encoder": made.encoder,
            "kinds": [[kind.shape, kind.moments, kind.grounds] for kind in made.kinds],
            "samples": len(rows),
            "uid_bytes": uids.itemsize if len(rows) else 1,
            "broken": made.broken,
            "bare": made.bare,
        }
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)))
        for part in (header, rows.tobytes(), uids.tobytes() if len(rows) else b""):
            file.write(part)
        file.writelines(block for _, _, block in made.samples)


def _read(path: Path, stamp: str) -> ShardIndex | None:
    """Return the table in a file; None if there is none, or it is another content's or format's, or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, struct.error), path.open("rb") as file:
        status = os.fstat(file.fileno())
        (length,) = struct.unpack("<Q", file.read(8))
        if length > status.st_size:
            return None
        header = json.loads(file.read(length))
        if header["format"] != FORMAT or header["shard"] != stamp:
            return None
        n, width = header["samples"], header["uid_bytes"]
        rows = np.frombuffer(file.read(n * ROW.itemsize), ROW)
        uids = np.frombuffer(file.read(n * width), f"S{width}")
        details_at = file.tell()
        if len(rows) != n or len(uids) != n or details_at + int(rows["size"].sum(dtype=np.uint64)) != status.st_size:
            return None
        return ShardIndex(
            path=path,
            stamp=f"{status.st_size}-{status.st_mtime_ns}",
            details_at=details_at,
            shard_stamp=stamp,
            encoder=header["encoder"],
            kinds=[Kind(tuple(shape), moments, tuple(grounds)) for shape, moments, grounds in header["kinds"]],
            rows=rows,
            uids=uids,
            broken=[(uid, reason) for uid, reason in header["broken"]],
            bare=header["bare"],
        )
    return None
