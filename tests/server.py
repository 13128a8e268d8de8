"""A hub of one file on this machine, which misbehaves as it is told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What the server does; tests change it between requests."""

    content: bytes
    etag: str | None = None
    """In quotes; None as the hub does for large files: their SHA-256."""
    ranges: bool = True
    """Whether it understands Range."""
    cut: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    reset: bool = False
    """Whether it breaks off without a good-bye."""
    length: str | None = None
    """A Content-Length of HEAD that is not true."""
    status: int = 200
    busy: int = 0
    """How many of the next GETs are answered with 503."""
    redirect: str = ""
    """Where each question is sent on to."""
    part: dict[str, str] = field(default_factory=dict)
    """Headers of a part of the file that are not true."""
    moved: str = ""
    """Where each GET is sent on to, while HEAD is answered."""
    bytes_per_s: float = float("inf")
    asked: list[str] = field(default_factory=list)
    """The Range of each GET so far."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """All headers of each request."""
    sent: int = 0
    """Bytes of the file so far."""
    url: str = ""


@contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Serve on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            mirror.asked.append(self.headers.get("Range", ""))
            first = self.answer()
            if first is not None:
                self.send(mirror.content[first:])

        def answer(self) -> int | None:
            """Send the headers; return where the body begins, if there is one."""
            mirror.headers.append(dict(self.headers))
            self.close_connection = True
            whole, first, wanted = len(mirror.content), 0, self.headers.get("Range", "")
            elsewhere = mirror.redirect or (mirror.moved if self.command == "GET" else "")
            is_busy = self.command == "GET" and mirror.busy > 0
            mirror.busy -= is_busy
            if elsewhere or is_busy or mirror.status != 200:
                self.send_response(302 if elsewhere else 503 if is_busy else mirror.status)
                self.send_header("Location", elsewhere)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            if wanted and mirror.ranges:
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                span = f"bytes {first}-{whole - 1}/{whole}"
                self.send_header("Content-Range", mirror.part.get("Content-Range", span))
            else:
                self.send_response(200)
            lies = mirror.length is not None and self.command == "HEAD"
            self.send_header("Content-Length", str(mirror.length if lies else whole - first))
            etag = f'"{hashlib.sha256(mirror.content).hexdigest()}"' if mirror.etag is None else mirror.etag
            etag = mirror.part.get("ETag", etag) if first else etag
            if etag:
                self.send_header("ETag", etag)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            return first

        def send(self, body: bytes) -> None:
            body = body[: mirror.cut.pop(0)] if mirror.cut else body
            step = max(1, min(len(body), int(min(mirror.bytes_per_s / 50, 2**20))))
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                mirror.sent += len(body[start : start + step])
                if mirror.bytes_per_s < float("inf"):
                    time.sleep(step / mirror.bytes_per_s)
            if mirror.reset:
                self.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of no time: a reset, not an end
                self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is no news

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/file.pt"
        yield mirror
        server.shutdown()
        thread.join()
