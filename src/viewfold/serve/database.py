"""A SQLite file that processes share: a connection a thread, writers one after another, failures in our words."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewfold.errors import OutputError
from viewfold.store import atomic_write

BUSY_S = 30.0
"""To wait for another writer; each holds the file for a few milliseconds."""


class QueueError(OutputError):
    """The queue's file cannot be read or written."""


class Database:
    """A file of tables.  Threads may share one; each gets a connection of its own.

    Raises everywhere:
        QueueError: the file is damaged, or the disk is full.
    """

    def __init__(self, path: Path, *, tables: str, version: int) -> None:
        """Open the file, or make it; one that is damaged, or of another version, is named, and left as it is."""
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        with self.failures():
            check_sound(self.path)
            with self.writing() as db:
                found = db.execute("PRAGMA user_version").fetchone()[0]
                if found not in (0, version):
                    raise QueueError(
                        f"`{self.path}` must be a queue of version {version}; got {found}. Name another data folder."
                    )
                if found == 0:
                    for statement in filter(str.strip, tables.split(";")):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {version}")

    def revision(self) -> int:
        """Return a number that changes when another connection has written: cheap to ask, as often as one likes."""
        with self.failures():
            return self.connection().execute("PRAGMA data_version").fetchone()[0]

    def back_up(self) -> Path:
        """Write a copy beside the file, whole or not at all; return where."""
        copy = backup_of(self.path)
        with self.failures(), atomic_write(copy) as temporary:
            with contextlib.closing(sqlite3.connect(temporary)) as target:
                self.connection().backup(target)
        return copy

    def close(self) -> None:
        """Close what all threads have open."""
        while self._all:
            with contextlib.suppress(sqlite3.Error):
                self._all.pop().close()
        self._local = threading.local()

    def rows(self, asked: str, *values: Any, **named: Any) -> list[dict[str, Any]]:
        """Return what a question finds."""
        with self.failures():
            return [dict(row) for row in self.connection().execute(asked, named or values)]

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction that is a writer's from its first statement on."""
        db = self.connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        found = getattr(self._local, "db", None)
        if found is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            found.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {int(BUSY_S * 1000)}"):
                found.execute(f"PRAGMA {pragma}")
            self._local.db = found
            self._all.append(found)
        return found

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Say what went wrong with the file in our words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise QueueError(
                f"`{self.path}` cannot be used: {error}. Free the space or the file, or name another data folder."
            ) from error


def backup_of(path: Path) -> Path:
    """Return where the copy of a file is."""
    return path.with_name(f"{path.stem}.backup{path.suffix}")


def check_sound(path: Path) -> None:
    """Read a queue's file through before anything is written.

    Raises:
        QueueError: it is damaged.
    """
    if not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as db:
            said = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said != ["ok"]:
        copy = backup_of(path)
        instead = "Remove it to begin with an empty one."
        if copy.is_file():
            moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.stat().st_mtime))
            instead = f"Put `{copy}` of {moment} in its place, or remove it to begin with an empty one."
        what = "; ".join(map(str, said))[:300]
        raise QueueError(f"`{path}` must be a sound SQLite file; it is not: {what}. {instead}")
