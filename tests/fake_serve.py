"""A server with the API of `viewfold serve`, whose one job stands as a list says, step by step; notes what it hears."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB = "01jabcdefghijklmnopqrstuvw"
QUEUED = {"state": "queued", "position": 2}
DONE = {"state": "done", "files": [{"name": "asset.glb", "format": "glb"}]}


def running(phase: str, share: float, eta_s: float | None = None) -> dict[str, Any]:
    """Return how a job stands that runs."""
    return {"state": "running", "progress": {"phase": phase, "step": 1, "steps": 2, "share": share, "eta_s": eta_s}}


@dataclass
class FakeServe:
    """What it is asked and what it answers."""

    steps: list[Any] = field(default_factory=lambda: [QUEUED, running("fit", 0.5, 4.2), DONE])
    """How the job stands at each look, the last one for ever; a number is a status of HTTP, text is sent as it is."""
    file: bytes = b"glTF"
    token: str = ""
    cut: bool = False
    """Whether files end in the middle."""
    heard: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    address: str = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Return what to say: a dictionary, bytes, a text or a status."""
        if path == "/v1/jobs" and method == "POST":
            return self._stands()
        if path == f"/v1/jobs/{JOB}/cancel" and method == "POST":
            self.steps[:] = [{"state": "cancelled"}]
            return self._stands()
        if path == f"/v1/jobs/{JOB}" and method == "GET":
            return self._stands()
        return self.file if path == f"/v1/jobs/{JOB}/files/asset.glb" and method == "GET" else 404

    def _stands(self) -> Any:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return {"id": JOB, "kind": "make", **step} if isinstance(step, dict) else step


@contextmanager
def serving(fake: FakeServe) -> Iterator[FakeServe]:
    """Let a fake answer at a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET")

        def do_POST(self) -> None:
            self.reply("POST")

        def reply(self, method: str) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(content) if content else None
            fake.heard.append((method, self.path, body))
            fake.headers.append({name.lower(): value for name, value in self.headers.items()})
            if fake.token and self.headers.get("authorization") != f"Bearer {fake.token}":
                self.send(401, b'{"error": {"code": "no_token", "message": "a token must be given"}}')
                return
            said = fake.answer(method, self.path, body)
            if isinstance(said, int):
                words = {"error": {"code": "no", "message": f"a sentence about {said}", "field": None}}
                self.send(said, json.dumps(words).encode())
            else:
                self.send(200, said if isinstance(said, bytes) else said.encode() if isinstance(said, str)
                          else json.dumps(said).encode())  # fmt: skip

        def send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if status in (302, 307):
                self.send_header("location", "http://127.0.0.1:9/stolen")
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fake.cut and content == fake.file else content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
