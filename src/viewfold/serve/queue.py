"""The queue: a SQLite file that the server and its workers share, and that outlives both.

A job is claimed by one statement (UPDATE ... RETURNING) in a transaction that begins as a writer, so that no two
workers get the same.  Whose turn it is: of all who wait the one who was served longest ago, and of theirs the oldest
job; jobs that a dead worker left come before all others.  The lease is the worker's name in the row and a lock that the
system takes from a process that dies (`worker.named`): no clock is asked, so none that jumps can give a job to two.

Raises everywhere:
    QueueError: the file is damaged, or the disk is full.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import InputError
from viewfold.serve.database import Database
from viewfold.serve.job import OVER, Job, Kind, State, job_of, new_id
from viewfold.store import finite

VERSION = 1
"""Of the tables; a file of another one is refused."""

ATTEMPTS = 3
"""Times that a job may take its worker down before it is given up."""

_TABLES = """
CREATE TABLE job (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, kind TEXT NOT NULL,
    title TEXT NOT NULL, request TEXT NOT NULL, key TEXT, state TEXT NOT NULL DEFAULT 'queued',
    cancel INTEGER NOT NULL DEFAULT 0, hidden INTEGER NOT NULL DEFAULT 0, worker TEXT,
    resumed INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, started REAL, finished REAL, error TEXT, result TEXT
);
CREATE UNIQUE INDEX job_key ON job (owner, key) WHERE key IS NOT NULL;
CREATE INDEX job_state ON job (state, owner, number) WHERE state IN ('queued', 'running');
CREATE INDEX job_owner ON job (owner, number) WHERE hidden = 0;
CREATE TABLE turn (owner TEXT PRIMARY KEY, served INTEGER NOT NULL);
"""

_CLAIM = """
UPDATE job SET state = 'running', worker = :worker, started = coalesce(started, :now) WHERE number = (
    SELECT number FROM job LEFT JOIN turn USING (owner) WHERE state = 'queued'
    AND (SELECT count(*) FROM job AS other WHERE other.state = 'running' AND other.owner = job.owner) < :at_once
    ORDER BY resumed > 0 DESC, coalesce(served, 0), number LIMIT 1
) RETURNING *
"""


class QueueFull(InputError):
    """Somebody has as many jobs waiting as one may have, or all together have."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much may wait, and run."""

    queued: int = 500
    """Jobs that wait, of all together."""
    queued_each: int = 20
    """And of one owner."""
    at_once_each: int = 1_000
    """Jobs of one owner that run at the same time."""


class Queue:
    """The jobs of a data folder.  Threads may share one; each gets a connection of its own."""

    def __init__(self, path: str | Path, *, limits: QueueLimits | None = None) -> None:
        """Open the file, or make it; one that is damaged is named, and left as it is."""
        self.limits = limits or QueueLimits()
        self.file = Database(Path(path), tables=_TABLES, version=VERSION)

    def revision(self) -> int:
        """Return a number that changes when another connection has written: cheap to ask, as often as one likes."""
        return self.file.revision()

    def close(self) -> None:
        """Close what all threads have open."""
        self.file.close()

    # What the server asks ------------------------------------------------------------------------------------------

    def submit(self, owner: str, kind: Kind, title: str, request: dict[str, Any], *, key: str | None = None) -> Job:
        """Put a job at the end; with a `key` that the owner used before, return that job and add none.

        Raises:
            QueueFull: too much waits already.
            InputError: the key was used for something else.
        """
        told = json.dumps(request, sort_keys=True)
        with self.file.failures(), self.file.writing() as db:
            if key is not None:
                before = db.execute("SELECT * FROM job WHERE owner = ? AND key = ?", (owner, key)).fetchone()
                if before is not None:
                    if before["request"] != told or before["kind"] != kind:
                        raise InputError(
                            "`Idempotency-Key` must be new for each job; that one was for another request."
                        )
                    return job_of(before)
            self._check_room(db, owner)
            self._take_turn(db, owner)
            row = db.execute(
                "INSERT INTO job (id, owner, kind, title, request, key, created) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "RETURNING *",
                (new_id(), owner, kind, title, told, key, time.time()),
            )
            return job_of(row.fetchone())

    def _take_turn(self, db: sqlite3.Connection, owner: str) -> None:
        """Let one who comes, or comes back, wait as long as the next of the others: no turns are saved up."""
        asked = "SELECT 1 FROM job WHERE owner = ? AND state IN ('queued', 'running')"
        if db.execute(asked, (owner,)).fetchone() is None:
            db.execute(
                "INSERT INTO turn SELECT ?, coalesce(min(served), 0) FROM turn JOIN job USING (owner) "
                "WHERE state IN ('queued', 'running') "
                "ON CONFLICT (owner) DO UPDATE SET served = max(served, excluded.served)",
                (owner,),
            )

    def _check_room(self, db: sqlite3.Connection, owner: str) -> None:
        waiting = db.execute(
            "SELECT count(*), count(*) FILTER (WHERE owner = ?) FROM job WHERE state = 'queued'", (owner,)
        ).fetchone()
        for number, most, who in (
            (waiting[0], self.limits.queued, "all"),
            (waiting[1], self.limits.queued_each, "you"),
        ):
            if number >= most:
                raise QueueFull(
                    f"`queue` must have room for a job; {number} of {who} wait already, and {most} may. "
                    "Wait until some are done, or cancel some."
                )

    def get(self, job: str, *, owner: str | None = None) -> Job | None:
        """Return a job that is there (and, where an owner is given, theirs)."""
        rows = self.file.rows(
            "SELECT * FROM job WHERE id = ? AND hidden = 0 AND (? IS NULL OR owner = ?)", job, owner, owner
        )
        return job_of(rows[0]) if rows else None

    def list(
        self,
        owner: str,
        *,
        limit: int = 50,
        before: int | None = None,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        words: str = "",
    ) -> list[Job]:
        """Return the jobs of an owner, the newest first; those with a smaller number than `before`."""
        asked, values = _chosen(owner, states, kind, words)
        if before is not None:
            asked, values = f"{asked} AND number < ?", [*values, before]
        rows = self.file.rows(f"SELECT * FROM job WHERE {asked} ORDER BY number DESC LIMIT ?", *values, limit)
        return [job_of(row) for row in rows]

    def count(self, owner: str, *, states: Sequence[State] = (), kind: Kind | None = None, words: str = "") -> int:
        """Return how many jobs an owner has, of those that `list` would return."""
        asked, values = _chosen(owner, states, kind, words)
        return self.file.rows(f"SELECT count(*) AS n FROM job WHERE {asked}", *values)[0]["n"]

    def learned(self, owner: str) -> list[Job]:
        """Return the jobs of an owner that learned something and are there."""
        asked = "SELECT * FROM job WHERE owner = ? AND hidden = 0 AND kind = 'personalize' AND state = 'done'"
        return [job_of(row) for row in self.file.rows(f"{asked} ORDER BY number DESC LIMIT 200", owner)]

    def position(self, job: Job) -> int | None:
        """Return how many jobs are surely before one that waits: those that run, its owner's older ones, and others'
        in turn; None for one that does not wait."""
        if job.state != "queued":
            return None
        # Of each other owner as many as there are of its own before it, and one more: they take turns.
        counted = """
        WITH mine AS (SELECT count(*) AS n FROM job WHERE owner = :owner AND state = 'queued' AND number < :number),
        others AS (SELECT owner, count(*) AS n FROM job WHERE state = 'queued' AND owner != :owner GROUP BY owner)
        SELECT (SELECT n FROM mine) + coalesce((SELECT sum(min(n, (SELECT n FROM mine) + 1)) FROM others), 0)
            + (SELECT count(*) FROM job WHERE state = 'running') AS n
        """
        return self.file.rows(counted, owner=job.owner, number=job.number)[0]["n"]

    def counts(self) -> dict[State, int]:
        """Return how many jobs of all owners are in each state."""
        found = {
            row["state"]: row["n"] for row in self.file.rows("SELECT state, count(*) AS n FROM job GROUP BY state")
        }
        return {state: found.get(state, 0) for state in ("queued", "running", *OVER)}

    def cancel(self, job: str, owner: str) -> Job | None:
        """End a job that waits, or ask the worker of one that runs to end it; one that is over stays as it is."""
        with self.file.failures(), self.file.writing() as db:
            db.execute(
                "UPDATE job SET cancel = 1, finished = iif(state = 'queued', ?, NULL), "
                "state = iif(state = 'queued', 'cancelled', state) "
                "WHERE id = ? AND owner = ? AND hidden = 0 AND state IN ('queued', 'running')",
                (time.time(), job, owner),
            )
        return self.get(job, owner=owner)

    def hide(self, job: str, owner: str) -> bool:
        """Take a job out of sight and, if it is not over, end it; its row goes when its folder has gone (`forget`)."""
        self.cancel(job, owner)
        with self.file.failures(), self.file.writing() as db:
            hidden = "UPDATE job SET hidden = 1 WHERE id = ? AND owner = ? AND hidden = 0 RETURNING id"
            return db.execute(hidden, (job, owner)).fetchone() is not None

    def hidden(self) -> list[str]:
        """Return the names of jobs that are out of sight and over: their folders may go."""
        rows = self.file.rows("SELECT id FROM job WHERE hidden = 1 AND state NOT IN ('queued', 'running')")
        return [row["id"] for row in rows]

    def forget(self, job: str) -> None:
        """Drop the row of a job that is out of sight."""
        with self.file.failures(), self.file.writing() as db:
            db.execute("DELETE FROM job WHERE id = ? AND hidden = 1", (job,))

    # What a worker asks ----------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """Return the job whose turn it is, now this worker's; None if none waits."""
        with self.file.failures(), self.file.writing() as db:
            told = {"worker": worker, "now": time.time(), "at_once": self.limits.at_once_each}
            row = db.execute(_CLAIM, told).fetchone()
            if row is None:
                return None
            db.execute(
                "INSERT INTO turn VALUES (?, (SELECT coalesce(max(served), 0) + 1 FROM turn)) "
                "ON CONFLICT (owner) DO UPDATE SET served = excluded.served",
                (row["owner"],),
            )
            return job_of(row)

    def is_wanted(self, job: str, worker: str) -> bool:
        """Return whether a worker still has a job, and nobody asked to end it."""
        asked = "SELECT 1 FROM job WHERE id = ? AND worker = ? AND state = 'running' AND cancel = 0"
        return bool(self.file.rows(asked, job, worker))

    def finish(
        self,
        job: str,
        worker: str,
        state: State,
        *,
        error: dict[str, str] | None = None,
        result: dict[str, Any] | None = None,
    ) -> bool:
        """Say how a job ended; False if it is not this worker's any more, and nothing is changed."""
        with self.file.failures(), self.file.writing() as db:
            done = db.execute(
                "UPDATE job SET state = ?, worker = NULL, finished = ?, error = ?, result = ? "
                "WHERE id = ? AND worker = ? AND state = 'running' RETURNING id",
                (state, time.time(), _json(error), _json(result), job, worker),
            )
            return done.fetchone() is not None

    def give_back(self, worker: str, *, died: bool, job: str | None = None) -> list[str]:
        """Put what a worker had back to the front of the queue; return the names of those jobs.

        Args:
            worker: its name; it must have ended, or be about to.
            job: this one alone, for a worker of several.
            died: count it against the job: one whose workers died `ATTEMPTS` times is given up.
        """
        with self.file.failures(), self.file.writing() as db:
            had = "SELECT * FROM job WHERE worker = ? AND state = 'running' AND (? IS NULL OR id = ?)"
            rows = db.execute(had, (worker, job, job)).fetchall()
            for row in rows:
                resumed, state, error = row["resumed"] + died, "queued", None
                if row["cancel"]:
                    state = "cancelled"
                elif resumed >= ATTEMPTS:
                    message = f"its worker died {resumed} times while it ran: the machine may have too little memory."
                    state, error = "failed", {"code": "worker_died", "message": message}
                db.execute(
                    "UPDATE job SET state = ?, worker = NULL, resumed = ?, error = ?, finished = ? WHERE number = ?",
                    (state, resumed, _json(error), None if state == "queued" else time.time(), row["number"]),
                )
            return [row["id"] for row in rows]

    def workers(self) -> list[str]:
        """Return the names of workers that have a job, living or not."""
        rows = self.file.rows("SELECT DISTINCT worker FROM job WHERE state = 'running' AND worker IS NOT NULL")
        return [row["worker"] for row in rows]

    def pictures_wanted(self) -> set[str]:
        """Return the names of pictures that jobs wait to learn."""
        rows = self.file.rows("SELECT * FROM job WHERE kind = 'personalize' AND state IN ('queued', 'running')")
        return {picture for row in rows for picture in job_of(row).request["pictures"]}

    def running(self) -> list[Job]:
        """Return all jobs that run."""
        return [job_of(row) for row in self.file.rows("SELECT * FROM job WHERE state = 'running'")]


def _chosen(owner: str, states: Sequence[State], kind: Kind | None, words: str) -> tuple[str, list[Any]]:
    """Return which rows are asked for, and what stands for the question marks in it."""
    asked: str = "owner = ? AND hidden = 0"
    values: list[Any] = [owner]
    if states:
        asked, values = f"{asked} AND state IN ({', '.join('?' * len(states))})", [*values, *states]
    if kind is not None:
        asked, values = f"{asked} AND kind = ?", [*values, kind]
    for word in words.split()[:16]:
        asked, values = f"{asked} AND instr(lower(title), ?)", [*values, word.lower()]
    return asked, values


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(finite(value))
