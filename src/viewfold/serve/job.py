"""One job: what was asked for, by whom, and how far it is."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

State = Literal["queued", "running", "done", "failed", "cancelled"]
Kind = Literal["make", "personalize"]

STATES: tuple[State, ...] = get_args(State)
OVER: tuple[State, ...] = ("done", "failed", "cancelled")

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_ID = re.compile(rf"[{_LETTERS}]{{26}}")
"""Crockford's base 32: 10 letters of time, so that names sort as they were made, and 16 that nobody can guess."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of the queue."""

    id: str
    number: int
    """Of the queue: later jobs have larger ones."""
    owner: str
    kind: Kind
    title: str
    request: dict[str, Any]
    state: State
    cancel: bool = False
    """Whether it is asked to end."""
    worker: str | None = None
    """Which worker has it, while it runs."""
    resumed: int = 0
    """Times it was taken up again because its worker died."""
    created: float = 0.0
    """Seconds since 1970, for people; nothing is decided by a clock that may jump."""
    started: float | None = None
    finished: float | None = None
    error: dict[str, str] | None = None
    result: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in OVER


def new_id(*, now: float | None = None) -> str:
    """Return a name for a job or a picture: it sorts by time, and its last 80 bits are random."""
    number = (int((time.time() if now is None else now) * 1000) & (2**50 - 1)) << 80 | secrets.randbits(80)
    return "".join(_LETTERS[number >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str) -> bool:
    """Return whether a text is such a name, which is safe as that of a folder."""
    return _ID.fullmatch(text) is not None


def job_of(row: Any) -> Job:
    """Return the job of a row of the database, a `sqlite3.Row`."""

    def read(text: str | None) -> Any:
        return None if text is None else json.loads(text)

    return Job(
        id=row["id"],
        number=row["number"],
        owner=row["owner"],
        kind=row["kind"],
        title=row["title"],
        request=read(row["request"]),
        state=row["state"],
        cancel=bool(row["cancel"]),
        worker=row["worker"],
        resumed=row["resumed"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        error=read(row["error"]),
        result=read(row["result"]),
    )
