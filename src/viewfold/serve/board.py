"""What jobs look like to who asks, and who is told when that changes.

One task looks at the queue (a number that changes with it) and at the journals of jobs that run, a few times a second,
however many watch; those who watch wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewfold.serve.database import QueueError
from viewfold.serve.folder import bundle_of, files_of, jobs_folder
from viewfold.serve.job import Job
from viewfold.serve.progress import PROGRESS, read_progress
from viewfold.serve.queue import Queue

LOOK_S = 0.2
"""Between two looks."""

KEEP_ALIVE_S = 15.0
"""After which a stream that has nothing to say says so, for proxies and to notice who is gone."""


def describe(queue: Queue, data: Path, job: Job, *, short: bool = False) -> dict[str, Any]:
    """Return a job as the API shows it; `short` leaves out what a list does not need."""
    folder, base = jobs_folder(data) / job.id, f"/v1/jobs/{job.id}"
    told = read_progress(folder) if job.state == "running" else None
    result = dict(job.result or {})
    files = files_of(folder) if not (short and job.state == "queued") else {}
    notes = result.pop("notes", [] if told is None else told.pop("notes", []))
    if told is not None:
        preview = told.pop("preview", 0)
        told["preview"] = f"{base}/files/preview.webp?v={preview}" if preview else None
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "title": job.title,
        "request": job.request,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "position": queue.position(job),
        "progress": told,
        "notes": notes,
        "error": job.error,
        "resumed": job.resumed,
        "cancelling": job.cancel and not job.is_over,
        "files": [] if short else _files(folder, base),
        "thumbnail": f"{base}/files/thumb.webp" if "thumb.webp" in files else None,
        "figures": result,
    }


def _files(folder: Path, base: str) -> list[dict[str, Any]]:
    shown = []
    for file in files_of(folder).values():
        if file.role in ("preview", "thumb"):
            continue
        with contextlib.suppress(OSError):
            size = file.path.stat().st_size
            shown.append(
                {"name": file.name, "bytes": size, "type": file.type, "role": file.role, "format": file.format}
                | {"url": f"{base}/files/{file.name}"}
            )
    for name, role, form in (("views.zip", "views", None), ("asset-obj.zip", "asset", "obj")):
        parts = bundle_of(folder, name)
        if parts:
            size = sum(path.stat().st_size for _, path in parts)
            shown.append({"name": name, "bytes": size, "type": "application/zip", "role": role, "format": form}
                         | {"url": f"{base}/{name}"})  # fmt: skip
    return shown


@dataclass
class _Watched:
    """A job that somebody watches."""

    watchers: int = 0
    said: str = ""
    is_over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Board:
    """Tells watchers of jobs; lives in the server's event loop."""

    def __init__(self, queue: Queue, data: Path) -> None:
        self.queue, self.data = queue, data
        self._watched: dict[str, _Watched] = {}
        self._closing = False

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(each.watchers for each in self._watched.values())

    async def run(self) -> None:
        """Look, for as long as the server lives."""
        revision, marks = -1, {}
        while not self._closing:
            await asyncio.sleep(LOOK_S)
            if not self._watched:
                continue
            with contextlib.suppress(QueueError, OSError):  # a folder that goes while it is looked at
                now = self.queue.revision()
                for job in list(self._watched):
                    mark = self._mark(job)
                    if now != revision or marks.get(job) != mark:
                        marks[job] = mark
                        self._look(job)
                revision = now
            marks = {job: mark for job, mark in marks.items() if job in self._watched}

    def close(self) -> None:
        """End all streams: the server goes."""
        self._closing = True
        for each in self._watched.values():
            each.changed.set()

    async def watch(self, job: Job) -> AsyncGenerator[str | None]:
        """Yield a job as JSON at once, whenever it changes, and last when it is over; None to keep the line alive."""
        each = self._watched.setdefault(job.id, _Watched())
        each.watchers += 1
        said = None
        try:
            self._look(job.id)
            while not self._closing:
                if each.said != said:
                    said = each.said
                    yield said
                if each.is_over:
                    return
                each.changed.clear()
                try:
                    await asyncio.wait_for(each.changed.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield None
        finally:
            each.watchers -= 1
            if each.watchers == 0:
                self._watched.pop(job.id, None)

    def _mark(self, job: str) -> tuple[int, int] | None:
        try:
            stat = (jobs_folder(self.data) / job / PROGRESS).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _look(self, job: str) -> None:
        each = self._watched[job]
        found = self.queue.get(job)
        now = each.said if found is None else json.dumps(describe(self.queue, self.data, found))
        over = found is None or found.is_over
        if now != each.said or over != each.is_over:
            each.said, each.is_over = now, over
            each.changed.set()
