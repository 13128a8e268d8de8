"""One object, from the request to its file, in a thread of its own; whoever shows it reads what is said here.

Knows no Blender: nothing of bpy may be touched outside Blender's own thread.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .client import Client, ServerError, Unreachable

POLL_S = 0.5

PATIENCE_S = 60.0
"""For how long a server that stopped answering is asked again: jobs outlive it, and go on when it is back."""

PHASES = {
    "load": "loading the model",
    "generate": "drawing views",
    "fit": "fitting the object",
    "distil": "working on the back",
    "mesh": "making the mesh",
    "polish": "smoothing",
    "texture": "painting",
    "check": "looking at the result",
    "save": "saving",
}

Answer = TypeVar("Answer")


class Making(threading.Thread):
    """A job; `said` and `share` tell how far it is, then `path` or `error` what came of it."""

    def __init__(
        self,
        client: Client,
        prompt: str,
        *,
        quality: str,
        seed: int,
        poll_s: float = POLL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Prepare; `start` begins.  What came lies in a folder of its own until `close`."""
        super().__init__(name="viewfold", daemon=True)
        self.prompt, self.seed = prompt, seed
        self._client, self._quality, self._poll_s, self._patience_s = client, quality, poll_s, patience_s
        self._end = threading.Event()
        self._folder: Path | None = None
        self.said, self.share = "asking the server", 0.0
        self.path: Path | None = None
        self.error: str | None = None
        self.cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether something came of it, good or bad."""
        return self.path is not None or self.error is not None or self.cancelled

    def stop(self) -> None:
        """Ask for the end; the job on the server is cancelled too."""
        self.said = "cancelling"
        self._end.set()

    def close(self) -> None:
        """Remove the file."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def run(self) -> None:
        """Ask, wait, fetch."""
        try:
            key = uuid.uuid4().hex
            told = {"quality": self._quality, "seed": self.seed, "key": key}
            job = self._client.make(self.prompt, **told)
            while self._goes_on(job):
                self._end.wait(self._poll_s)
                if self._end.is_set():
                    self._cancel(job)
                    return
                name = job.get("id", "")
                job = self._patiently(lambda name=name: self._client.job(name))
            if not self.cancelled:
                self.said, self.share = "fetching the file", 1.0
                self.path = self._patiently(lambda: self._fetch(job))
        except ServerError as error:
            if self._end.is_set():
                self.cancelled = True
            else:
                self.error = str(error)
        except Exception as error:  # whatever it is, nobody may wait for ever
            self.error = f"Something went wrong in the add-on: {type(error).__name__}: {error}"

    def _goes_on(self, job: dict[str, Any]) -> bool:
        """Read how a job stands."""
        state = job.get("state")
        if state == "queued":
            before = job.get("position") or 0
            self.said = f"waiting: {before} before it" if before else "waiting for a free worker"
        elif state == "running":
            at = job.get("progress") or {}
            self.share = min(1.0, max(0.0, float(at.get("share") or 0.0)))
            left = at.get("eta_s")
            phase = PHASES.get(str(at.get("phase")), "working")
            self.said = phase if left is None else f"{phase}, about {max(1, round(float(left)))} s to go"
        elif state == "failed":
            raise ServerError((job.get("error") or {}).get("message") or "It failed on the server.")
        elif state == "cancelled":
            self.cancelled = True
        elif state != "done":
            raise ServerError("The server's answer cannot be read. Is it a viewfold server of another version?")
        return state in ("queued", "running")

    def _cancel(self, job: dict[str, Any]) -> None:
        self._client.cancel(job.get("id", ""))
        self.cancelled = True

    def _fetch(self, job: dict[str, Any]) -> Path:
        names = [file.get("name", "") for file in job.get("files") or () if file.get("format") == "glb"]
        name = names[0] if names else "asset.glb"
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="viewfold-"))
        return self._client.fetch(job.get("id", ""), name, self._folder / "asset.glb")

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer, the patience is over or somebody wants the end."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() > end or self._end.is_set():
                    raise
                self.said = "the server does not answer; trying again"
                self._end.wait(self._poll_s)
