"""What was drawn is read, wherever it lies; what cannot be read is noted, and another sample stands for it.

Which one stands is decided by the one that was drawn, so that a batch stays the same for everybody who meets the same
damage.  Knows nothing of how samples are drawn.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from viewfold.data.catalog import Catalog, Row
from viewfold.data.shard_index import Details, Kind
from viewfold.data.storage import Local, Parts, Storage
from viewfold.errors import AssetError, InputError

TRIES = 8
"""Samples that may take the place of one that cannot be read; if none can, it is not the sample."""

NAMED = 1000
"""Unreadable samples that are remembered by name."""


class Choice(NamedTuple):
    """One sample of a batch, as it was drawn."""

    catalog: int
    place: int
    row: Row
    wording: int
    orbit: int
    start: int
    """View of the orbit, or of all where there is no orbit."""
    ground: int


class _Wanted(NamedTuple):
    """What is to be read for one slot of a batch."""

    slot: int
    parts: Parts
    details: Details
    chosen: list[int]
    member: int
    itemsize: int


class Reader:
    """Reads samples; several threads may."""

    def __init__(self, catalogs: Sequence[Catalog], grounds: Mapping[Kind, list[int]], *, means: bool) -> None:
        """Read from these folders.

        Args:
            grounds: which members of each kind may be drawn.
            means: leave out the log variance of moments.
        """
        self._catalogs, self._grounds, self._means = catalogs, grounds, means
        self._tables = Local(Path())
        self._lock = threading.Lock()
        self._told = 0
        self.unread: dict[str, str] = {}
        """Why samples could not be read, by uid."""
        self.replaced = 0
        """How many samples of all batches stand for one that could not be read."""

    def read(self, choices: list[Choice], views: int | None) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return caption, latents "v [2] c h w" and cameras "v 17" of each choice, or of what stands for it."""
        found: list[Any] = [None] * len(choices)
        left = list(range(len(choices)))
        for attempt in range(TRIES + 1):
            answers = self._read_once([self._substitute(choices[slot], attempt) for slot in left], views)
            for slot, answer in zip(left, answers, strict=True):
                found[slot] = answer
            left = [slot for slot in left if isinstance(found[slot], Exception)]
            if not left:
                return found
            with self._lock:
                self.replaced += len(left) if attempt == 0 else 0
        raise AssetError(f"{found[left[0]]}; nor can {TRIES} others be read. Is the disk, or the service, there?")

    def _substitute(self, choice: Choice, attempt: int) -> Choice:
        """Return the choice itself at first, then others far from it, which may lie in another shard."""
        if attempt == 0:
            return choice
        catalog = self._catalogs[choice.catalog]
        place = (choice.place + attempt * max(1, int(0.618 * len(catalog)))) % len(catalog)
        return choice._replace(place=place, row=catalog.row(place))

    def _read_once(self, choices: list[Choice], views: int | None) -> list[Any]:
        """Return what `read` does of each choice, or the error that keeps it from being read."""
        found: list[Any] = [None] * len(choices)
        wanted: dict[Storage, list[_Wanted]] = {}
        for slot, block in enumerate(self._tables.read([self._block_of(choice) for choice in choices])):
            choice = choices[slot]
            shard = self._catalogs[choice.catalog].shards[choice.row.shard]
            if isinstance(block, Exception):
                found[slot] = self._note(f"a sample of `{shard.path}`", f"its table cannot be read: {block}")
                continue
            details = Details.unpack(block[0])
            chosen, member = self._views(choice, views)
            start, size, itemsize = details.looks[member].item()
            parts = Parts(shard.path, shard.stamp, tuple(start + size * view for view in chosen), size)
            wanted.setdefault(shard.storage, []).append(_Wanted(slot, parts, details, chosen, member, itemsize))
        for storage, asked in wanted.items():
            answers = storage.read([one.parts for one in asked])
            for one, answer in zip(asked, answers, strict=True):
                reason = _wrong(answer, one.details.checksums[one.member], one.chosen)
                if reason is not None:
                    found[one.slot] = self._note(one.details.uid, f"`{one.parts.path}` {reason}")
                else:
                    assert isinstance(answer, list)
                    found[one.slot] = self._understood(
                        choices[one.slot], one, b"".join(answer), posed=views is not None
                    )
        return found

    def _block_of(self, choice: Choice) -> Parts:
        shard = self._catalogs[choice.catalog].shards[choice.row.shard]
        return Parts(shard.index, shard.index_stamp, (shard.details_at + choice.row.at,), choice.row.size)

    def _views(self, choice: Choice, views: int | None) -> tuple[list[int], int]:
        """Return the views of a choice and the member that holds them, which fit whatever sample stands for it."""
        row = choice.row
        grounds = self._grounds[self._catalogs[choice.catalog].kinds[row.kind]]
        member = grounds[choice.ground % len(grounds)]
        if views is None:
            return [choice.start % row.views], member
        stride = stride_of(row, views)
        first = choice.orbit % row.orbits * stride * views + choice.start % stride
        return [first + stride * k for k in range(views)], member

    def _understood(
        self, choice: Choice, one: _Wanted, content: bytes, *, posed: bool
    ) -> tuple[str, np.ndarray, np.ndarray]:
        kind = self._catalogs[choice.catalog].kinds[choice.row.kind]
        layout = (len(one.chosen), 2, *kind.shape) if kind.moments else (len(one.chosen), *kind.shape)
        values = np.frombuffer(content, f"<f{one.itemsize}").reshape(layout).astype(np.float16, copy=False)
        if kind.moments and self._means:
            values = values[:, 0]
        captions, cameras = one.details.captions, one.details.cameras
        return captions[choice.wording % len(captions)], values, cameras[one.chosen] if posed else cameras[:0]

    def news(self) -> list[str]:
        """Return a line for each sample that could not be read since this was called last."""
        with self._lock:
            lines = [f"{uid}: {reason}" for uid, reason in list(self.unread.items())[self._told :]]
            self._told = len(self.unread)
        return lines

    def _note(self, uid: str, reason: str) -> AssetError:
        with self._lock:
            if len(self.unread) < NAMED:
                self.unread.setdefault(uid, reason)
        return AssetError(f"`{uid}` cannot be read: {reason}")


def stride_of(row: Row, views: int) -> int:
    """Return how many places on an orbit lie between two of so many views; InputError if they do not divide it."""
    per_orbit = row.views // row.orbits
    if per_orbit % views:
        raise InputError(f"`views` must divide the {per_orbit} views of an orbit; got {views}.")
    return per_orbit // views


def _wrong(answer: list[bytes] | Exception, checksums: np.ndarray, chosen: list[int]) -> str | None:
    """Return what is wrong with what was read; None if it is what was looked through."""
    if isinstance(answer, Exception):
        return f"cannot be read: {str(answer).strip() or type(answer).__name__}"
    right = checksums[chosen].tolist() == [zlib.crc32(piece) for piece in answer]
    return None if right else "no longer holds what it held (its checksum differs)"
