"""The HTTP API of `viewfold serve`, as far as the add-on needs it; knows no Blender.

The token goes to the server that was named and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DEFAULT_ADDRESS = "http://127.0.0.1:8420"

TIMEOUT_S = 10.0

ANSWER_BYTES = 2**22
"""Of JSON; a job has some kB."""

FILE_BYTES = 2**29
"""Of a GLB; those that are made have about one MB."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a job or a file may be called: it becomes a part of an address."""


class ServerError(Exception):
    """What went wrong, in words for the person at the screen."""


class Unreachable(ServerError):
    """Nobody answered, or the server said that it is not ready: worth another try."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Client:
    """One server, spoken to as one user."""

    def __init__(self, address: str = DEFAULT_ADDRESS, token: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        """Name a server.

        Raises:
            ServerError: the address is none of a server.
        """
        self.address = address.strip().rstrip("/")
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ServerError(f"The server's address must look like {DEFAULT_ADDRESS}; it is {address!r}.")
        self._token, self._timeout_s = token.strip(), timeout_s
        if not (self._token.isascii() and self._token.isprintable()):
            raise ServerError("The token must be the letters that `viewfold serve --add-user` printed.")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if self.is_here:
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy knows this machine's own address
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        host = urllib.parse.urlsplit(self.address).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def make(self, prompt: str, *, quality: str, seed: int, key: str) -> dict[str, Any]:
        """Ask for an object; return the job.  Asked again with the same `key`, it is one job."""
        asked = {"kind": "make", "prompt": prompt, "quality": quality, "seed": seed}
        return self._json("POST", "/v1/jobs", asked, {"Idempotency-Key": key})

    def job(self, job: str) -> dict[str, Any]:
        """Return a job as it stands."""
        return self._json("GET", f"/v1/jobs/{_name(job)}")

    def cancel(self, job: str) -> dict[str, Any]:
        """End a job."""
        return self._json("POST", f"/v1/jobs/{_name(job)}/cancel", {})

    def fetch(self, job: str, name: str, path: Path) -> Path:
        """Write a file of a job to `path`, whole or not at all."""
        half = path.with_suffix(path.suffix + ".part")
        try:
            with self._open("GET", f"/v1/jobs/{_name(job)}/files/{_name(name)}") as answer, half.open("wb") as file:
                expected, read = answer.headers.get("Content-Length"), 0
                while chunk := answer.read(2**16):
                    read += len(chunk)
                    if read > FILE_BYTES:
                        raise ServerError(f"The server's file is larger than {FILE_BYTES >> 20} MiB; it was not read.")
                    file.write(chunk)
            if expected is not None and expected.isdecimal() and read != int(expected):
                raise Unreachable("The connection broke while the file came.")
            half.replace(path)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"The file did not come: {error}.") from error
        finally:
            half.unlink(missing_ok=True)
        return path

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            with self._open(method, path, body, headers) as answer:
                text = answer.read(ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"The connection to {self.address} broke: {error}.") from error
        try:
            told = json.loads(text) if len(text) <= ANSWER_BYTES else None
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ServerError(f"What answers at {self.address} is no viewfold server.")
        return told

    def _open(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Any:
        sent = {"Accept": "application/json, */*", "User-Agent": "viewfold-blender/0.1", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.address + path, data=data, headers=sent, method=method)
        try:
            return self._opener.open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"No server answers at {self.address} ({reason}). Start one: viewfold serve.") from error

    def _refused(self, error: urllib.error.HTTPError) -> ServerError:
        try:
            told = json.loads(error.read(ANSWER_BYTES))["error"]["message"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            told = None
        words = told if isinstance(told, str) and told else f"the server said {error.code}"
        if error.code == 401:
            return ServerError(
                "The server asks for a token, or knows this one not. Put it in the add-on's preferences."
            )
        if error.code in (502, 503, 504):
            return Unreachable(f"The server is not ready: {words}")
        if error.code in (301, 302, 303, 307, 308):
            return ServerError(f"{self.address} leads elsewhere. Give the address of the server itself.")
        return ServerError(words)


def _name(text: str) -> str:
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise ServerError("The server gave a name that is none. Is it a viewfold server?")
    return text
