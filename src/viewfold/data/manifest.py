"""What a folder of shards holds, in one SQLite file: each sample's content, origin, looks, and what became of it.

Everything in it can be found again from the shards and their sources, so a manifest that is missing or damaged is made
anew.  Its journal is a plain one, for a write-ahead log needs shared memory, which network disks lack; who writes
holds the folder's lock besides, and readers wait for one transaction at most.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from viewfold.errors import OutputError

NAME = "manifest.sqlite"

_WAIT_S = 60
"""For another process's transaction, which takes milliseconds."""

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One sample; what is not known is None."""

    uid: str
    content: str = ""
    """SHA-256 of what it says and shows; empty until it was read."""
    pixels: str = ""
    """SHA-256 of its pictures alone."""
    stamp: str = ""
    """Times and sizes of its source's files, so that what nobody touched is not read again."""
    source: str = ""
    """Where the sample was packed from."""
    captions: tuple[str, ...] = ()
    licence: str | None = None
    author: str | None = None
    origin: str | None = None
    """Where the asset is from, in its owner's words: a page or a file."""
    bytes: int | None = None
    views: int | None = None
    faces: int | None = None
    textures: int | None = None
    bounds: tuple[float, ...] | None = None
    """Lowest x, y, z and highest x, y, z of the asset, in its file's units."""
    coverage: float | None = None
    """Share of the pixels that show something, over all views."""
    look: str | None = None
    """Perceptual hash of the front view, hexadecimal."""
    render: str | None = None
    """How its pictures were made, as JSON."""
    shard: str | None = None
    """The tar that holds it; None while it is in none."""
    latents: bool = False
    failures: int = 0
    """How many times it could not be read, since it last could."""
    reason: str | None = None
    """Why it could not be read, or which filter leaves it out."""

    @property
    def station(self) -> str:
        """How far it has come: found, rendered, packed or latents."""
        if self.shard is not None:
            return "latents" if self.latents else "packed"
        return "rendered" if self.content else "found"


_COLUMNS = [field.name for field in fields(Entry)]
_LISTS = ("captions", "bounds")


class Manifest:
    """The manifest of a folder, used with `with`; every `commit` is one transaction."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            if kind is None:
                self._database.commit()
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:  # locked, or the disk: the file is not to blame
            raise
        except sqlite3.DatabaseError:
            self.path.unlink()
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            if _version(database) != _VERSION:
                database.execute("BEGIN IMMEDIATE")  # one process makes the tables, others wait and find them
            if database.in_transaction and _version(database) != _VERSION:
                for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    database.execute(f'DROP TABLE IF EXISTS "{table}"')
                database.execute(f"CREATE TABLE samples ({', '.join(_COLUMNS)}, station, PRIMARY KEY (uid))")
                database.execute("CREATE INDEX by_content ON samples (content)")
                database.execute("CREATE TABLE shards (name PRIMARY KEY, stamp)")
                database.execute(f"PRAGMA user_version = {_VERSION}")
            database.commit()
            database.execute(f"SELECT {', '.join(_COLUMNS)} FROM samples LIMIT 1").fetchall()
        except BaseException:
            database.close()
            raise
        return database

    def entries(self) -> dict[str, Entry]:
        """Return every sample by its uid, sorted."""
        found = {}
        for row in self._run(f"SELECT {', '.join(_COLUMNS)} FROM samples ORDER BY uid"):
            values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
            for name in _LISTS:
                values[name] = None if values[name] is None else tuple(json.loads(values[name]))
            values["latents"] = bool(values["latents"])
            found[values["uid"]] = Entry(**values)
        return found

    def put(self, entry: Entry) -> None:
        """Add a sample or replace what was known of it."""
        values = [getattr(entry, name) for name in _COLUMNS]
        values = [json.dumps(value) if isinstance(value, tuple) else value for value in values]
        places = ", ".join("?" * (len(values) + 1))
        self._run(f"INSERT OR REPLACE INTO samples VALUES ({places})", (*values, entry.station))

    def fail(self, entry: Entry, reason: str) -> None:
        """Note that a sample could not be read."""
        self.put(replace(entry, failures=entry.failures + 1, reason=reason, stamp=""))

    def remove(self, uid: str) -> None:
        """Forget a sample."""
        self._run("DELETE FROM samples WHERE uid = ?", (uid,))

    def shards(self) -> dict[str, str]:
        """Return the stamp of each shard when it was last looked into."""
        return dict(self._run("SELECT name, stamp FROM shards"))

    def put_shard(self, name: str, stamp: str | None) -> None:
        """Note the stamp of a shard; None forgets it."""
        if stamp is None:
            self._run("DELETE FROM shards WHERE name = ?", (name,))
        else:
            self._run("INSERT OR REPLACE INTO shards VALUES (?, ?)", (name, stamp))

    def commit(self) -> None:
        """Bring what was noted to the disk."""
        try:
            self._database.commit()
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> OutputError:
        return OutputError(f"`{self.path}` cannot be written: {error}. Free the space or name another place.")


def read_manifest(folder: str | Path) -> dict[str, Entry]:
    """Return what a folder's manifest says; nothing where there is none."""
    if not (Path(folder) / NAME).is_file():
        return {}
    with Manifest(folder) as manifest:
        return manifest.entries()


def packed(entries: dict[str, Entry]) -> Iterator[Entry]:
    """Yield the samples that lie in shards."""
    return (entry for entry in entries.values() if entry.shard is not None)


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]
