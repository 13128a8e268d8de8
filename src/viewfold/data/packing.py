"""Renders and pictures into shards: every item becomes one sample of a webdataset tar.

A shard keeps its samples.  One whose content changed is replaced where it lies, a new one goes into the last shard if
that is not full, else into a new one; latents stay with pictures that are the same.  A shard is rewritten whole or not
at all, and the manifest follows it, so a run may be killed anywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from viewfold.data.attribution import write_attribution
from viewfold.data.inventory import alone, look_into, samples_in
from viewfold.data.item import Content, Item, RenderItem, file_stamp
from viewfold.data.manifest import Entry, Manifest, packed
from viewfold.data.pool import Pool
from viewfold.data.readahead import ReadAhead
from viewfold.data.selection import Looks, Selection
from viewfold.data.shard_writer import add_sample
from viewfold.data.shards import ENCODER, Sample, encoder_of
from viewfold.errors import AssetError, InputError
from viewfold.store import atomic_write

SAMPLES_PER_SHARD = 512


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What `pack` or `cache_latents` did."""

    samples: int
    """Written: new ones and replaced ones."""
    shards: int
    skipped: int
    """Shards that were already complete."""
    failed: list[tuple[str, str]]
    """Samples left out: (uid, reason)."""
    replaced: int = 0
    """Of the samples written, those that were there with another content."""
    kept: int = 0
    """Samples that were there already."""
    gone: int = 0
    """Of those kept, the ones that the source no longer has."""
    removed: int = 0
    """Samples taken out: refused by the selection, gone with `prune`, or there twice."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many the selection left out, by the reason."""


class _Unchanged(Exception):
    """Ends the writing of a shard that would be what it is."""


def pack(
    source: str | Path | Sequence[Item],
    out: str | Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    selection: Selection = Selection(),  # noqa: B008
    prune: bool = False,
    pool: Pool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Bring the shards under `out` up to date with a folder of renders, or with items from elsewhere.

    A damaged item is named, left out and tried again next time; what was packed of it before stays.  A sample that the
    source no longer has stays too, unless `prune`.

    Args:
        source: a folder of renders, each a folder with a meta.json; or items.
        samples_per_shard: most samples of a tar.
        selection: which samples to take; one that is there and is refused is taken out.
        prune: take out samples that the source does not have.
        pool: workers that read and check the samples, and see the same folders under the same names; None reads them
            in this process.  The shards are the same.
        progress: called with (samples dealt with, all samples).

    Raises:
        InputError: nothing to pack, two items of one uid, or renders of different settings.
        AssetError: a shard is damaged.
        OutputError: another process is packing, or the disk is full.
    """
    if samples_per_shard < 1:
        raise InputError(f"`samples_per_shard` must be at least 1; got {samples_per_shard}.")
    items = find_renders(source) if isinstance(source, str | Path) else list(source)
    twice = [uid for uid, count in Counter(item.uid for item in items).items() if count > 1]
    if twice:
        raise InputError(f"`source` must hold each uid once; got `{sorted(twice)[0]}` twice. Rename one.")
    with alone(out), Manifest(out) as manifest:
        work = _Packing(Path(out), items, manifest, samples_per_shard, selection, prune, pool, progress)
        return work.run()


def find_renders(folder: str | Path) -> list[Item]:
    """Return the finished folders of renders in a folder.

    Raises:
        InputError: there is none.
    """
    found: list[Item] = [RenderItem(path.parent) for path in sorted(Path(folder).glob("*/meta.json"))]
    if not found:
        raise InputError(f"`renders` must hold folders with a meta.json; `{folder}` holds none. Run `viewfold render`.")
    return found


class _Packing:
    """One run of `pack`."""

    def __init__(
        self, out: Path, items: Sequence[Item], manifest: Manifest, size: int, selection: Selection, prune: bool,
        pool: Pool | None, progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.out, self.manifest, self.size, self.selection, self.prune = out, manifest, size, selection, prune
        self.items = {item.uid: item for item in sorted(items, key=lambda item: item.uid)}
        look_into(out, manifest)
        self.entries = manifest.entries()
        self.looks = None if selection.likeness is None else Looks(selection.likeness)
        self.failed: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.progress, self.dealt_with = progress, 0
        self.seen: set[str] = set()
        self.ahead = ReadAhead(pool, self._to_read())

    def _to_read(self) -> Iterator[Item]:
        """Yield the items that have changed or are new, in about the order in which they are packed."""

        def place(uid: str) -> tuple[bool, str, str]:
            shard = self._entry(uid).shard
            return shard is None, shard or "", uid

        for uid in sorted(self.items, key=place):
            before = self._entry(uid)
            with contextlib.suppress(OSError):
                if not before.content or before.shard is None or before.stamp != self.items[uid].stamp():
                    yield self.items[uid]

    def run(self) -> PackReport:
        self._check_settings()
        shards = sorted(self.out.glob("*.tar"))
        packed_uids = {entry.uid for entry in packed(self.entries)}
        fresh = iter([item for uid, item in self.items.items() if uid not in packed_uids])
        written, total, skipped = 0, 0, 0
        for shard in shards:
            wrote = self._write(shard, fresh if shard == shards[-1] else iter(()))
            written, total, skipped = written + bool(wrote), total + shard.is_file(), skipped + (wrote is None)
        while (first := next(fresh, None)) is not None:
            fresh = itertools.chain([first], fresh)
            total += self._write(self._free_name(), fresh) is not None
        write_attribution(self.out, packed(self.manifest.entries()))
        self.failed.sort()
        return PackReport(
            samples=self.counts["new"] + self.counts["replaced"],
            shards=total,
            skipped=skipped,
            failed=self.failed,
            refused=self.refused,
            **{name: self.counts[name] for name in ("replaced", "kept", "gone", "removed")},
        )

    def _free_name(self) -> Path:
        names = (self.out / f"shard-{number:05d}.tar" for number in itertools.count())
        return next(name for name in names if not name.exists())

    def _check_settings(self) -> None:
        """Refuse renders of different settings before anything is written."""
        known = {(uid, e.render) for uid, e in self.entries.items() if e.shard is not None and e.render is not None}
        replaced = set()
        told: dict[str, str] = {}
        for uid, item in self.items.items():
            with contextlib.suppress(AssetError, OSError):
                entry = self.entries.get(uid)
                same = entry is not None and entry.stamp == item.stamp()
                words = entry.render if entry is not None and same else item.settings()
                replaced.add(uid)
                if words is not None:
                    told.setdefault(words, f"`{item.source}`")
        for uid, words in sorted(known, key=str):
            if uid not in replaced and words is not None:
                told.setdefault(words, f"`{uid}` in `{self.out}`")
        if len(told) > 1:
            (one, where), (other, there) = list(told.items())[:2]
            raise InputError(
                f"`renders` must be of the same settings; {_difference(json.loads(one), json.loads(other))}: "
                f"{where} and {there}. Pack them into another folder, or render them again."
            )

    def _write(self, shard: Path, fresh: Iterator[Item]) -> int | None:
        """Rewrite a shard, with new samples up to its size; return how many it has, None if it stays as it is."""
        old = samples_in(shard) if shard.is_file() else []
        here = [s for s in old if self._entry(s.uid).shard == shard.name and s.uid not in self.seen]
        header = {ENCODER: encoder} if old and (encoder := encoder_of(shard)) else {}
        noted: list[Entry] = []
        count, changed = 0, len(here) < len(old)
        self.counts["removed"] += len(old) - len(here)
        try:
            with atomic_write(shard) as temporary, tarfile.open(temporary, "w", pax_headers=header) as tar:
                for sample in here:
                    entry, content = self._renewed(sample)
                    changed |= content is not None or entry.shard is None
                    noted.append(entry)
                    if entry.shard is not None:
                        add_sample(tar, sample, content, entry)
                        count += 1
                while count < self.size and (item := next(fresh, None)) is not None:
                    taken = self._taken(item)
                    if taken is not None:
                        entry, content = taken
                        add_sample(tar, Sample(item.uid), content, entry)
                        noted.append(replace(entry, shard=shard.name))
                        count, changed = count + 1, True
                        self.counts["new"] += 1
                if not changed or not count:
                    raise _Unchanged
        except _Unchanged:
            if changed:
                shard.unlink(missing_ok=True)
        stamp = file_stamp([shard]) if shard.is_file() else None
        for entry in noted:
            self.manifest.put(entry)
            self.entries[entry.uid] = entry
            self.seen.add(entry.uid)
        self.manifest.put_shard(shard.name, stamp)
        self.manifest.commit()
        return count if changed else None

    def _renewed(self, sample: Sample) -> tuple[Entry, Content | None]:
        """Return what becomes of a packed sample: its entry (no shard: it goes) and its content if that changed."""
        entry, item = self._entry(sample.uid), self.items.get(sample.uid)
        content = None
        if item is None:
            if self.prune:
                self.counts["removed"] += 1
                return replace(entry, shard=None, latents=False, reason="gone from the source"), None
            self.counts["gone"] += 1
        else:
            self._count()
            read = self._read(item)
            if read is not None and read[1] is None:
                entry = read[0]
            elif read is not None:
                same = read[0].content == entry.content
                latents = entry.latents and read[0].pixels == entry.pixels
                entry, content = replace(read[0], shard=entry.shard, latents=latents), None if same else read[1]
            else:
                entry = self._entry(sample.uid)
        if (reason := self._refuses(entry)) is not None:
            self.counts["removed"] += 1
            return replace(entry, shard=None, latents=False, reason=reason), None
        self.counts["kept" if content is None else "replaced"] += 1
        return entry, content

    def _taken(self, item: Item) -> tuple[Entry, Content] | None:
        """Return the entry and the content of a new sample; None if it cannot be read or is refused."""
        self._count()
        read = self._read(item)
        if read is None:
            return None
        entry, content = read
        if (reason := self._refuses(entry)) is not None:
            self.entries[item.uid] = replace(entry, reason=reason)
            self.manifest.put(self.entries[item.uid])
            self.ahead.drop(item)
            return None
        if content is None and (read := self._read(item, content=True)) is not None:
            entry, content = read
        return None if content is None else (entry, content)

    def _read(self, item: Item, *, content: bool = False) -> tuple[Entry, Content | None] | None:
        """Return entry and content of an item; no content where it is unchanged and none is asked for."""
        before = self._entry(item.uid)
        try:
            stamp = item.stamp()
            if not content and before.content and before.stamp == stamp:
                return replace(before, reason=None), None
            entry, found = self.ahead.take(item)
            entry = replace(entry, shard=before.shard, latents=before.latents)
            _check_same_source(before, entry)
            return entry, found
        except (AssetError, OSError, UnicodeError) as error:
            self.failed.append((item.uid, str(error)))
            self.manifest.fail(before, str(error))
            self.entries[item.uid] = replace(before, failures=before.failures + 1, reason=str(error), stamp="")
            return None

    def _refuses(self, entry: Entry) -> str | None:
        reason = self.selection.refuses(entry)
        if reason is None and self.looks is not None and entry.look is not None:
            twin = self.looks.like(entry.look)
            if twin is None:
                self.looks.add(entry.uid, entry.look)
            else:
                self.refused["looks like another"] += 1
                return f"looks like {twin}"
        elif reason is not None:
            self.refused[reason] += 1
        return reason

    def _entry(self, uid: str) -> Entry:
        return self.entries.get(uid, Entry(uid=uid))

    def _count(self) -> None:
        self.dealt_with += 1
        if self.progress is not None:
            self.progress(self.dealt_with, len(self.items))


def _check_same_source(before: Entry, entry: Entry) -> None:
    """Refuse a sample that would replace another source's of its name; AssetError."""
    other = before.source not in ("", entry.source) and before.content != entry.content
    places = before.source, before.source.rpartition("#")[0]  # of a file, or at a place in a tar
    if before.shard is not None and other and any(place and Path(place).exists() for place in places):
        raise AssetError(
            f"`{entry.uid}` is packed from `{before.source}` already, with another content. Rename one, take that one "
            "out, or name another --out."
        )


def _difference(one: dict[str, object], other: dict[str, object]) -> str:
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return "; ".join(f"{name} is {one.get(name)} and {other.get(name)}" for name in names[:3])
