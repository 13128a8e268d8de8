"""A server of one file on this machine that misbehaves as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What the server does; tests change it between requests."""

    content: bytes
    etag: str = '"first"'
    ranges: bool = True
    """Whether it understands Range."""
    checks: bool = True
    """Whether it understands If-Range."""
    cut: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    length: str | None = None
    """A Content-Length that is not true."""
    status: int = 200
    redirect: str = ""
    asked: list[str] = field(default_factory=list)
    """The Range of each request so far."""
    url: str = ""


@contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Serve on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            mirror.asked.append(wanted)
            if mirror.redirect or mirror.status != 200:
                self.send_response(302 if mirror.redirect else mirror.status)
                self.send_header("Location", mirror.redirect)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            whole, first = len(mirror.content), 0
            if wanted and mirror.ranges and (not mirror.checks or self.headers.get("If-Range") == mirror.etag):
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(whole - first) if mirror.length is None else mirror.length)
            if mirror.etag:
                self.send_header("ETag", mirror.etag)
            self.end_headers()
            body = mirror.content[first:]
            self.wfile.write(body[: mirror.cut.pop(0)] if mirror.cut else body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is no news

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/file.pt"
        yield mirror
        server.shutdown()
        thread.join()
