"""Who comes in, and what every answer carries: a middleware before all routes (ASGI).

Host            one of ours, or a page elsewhere has bound its name to this machine (DNS rebinding)
Origin          of what changes something: our own, or another page asks in the reader's name (CSRF)
token           where others can reach us: in a header for programs, in a cookie that no script reads for the page
body            no larger than it may be, however it is sent
answers         nothing from outside may be loaded, framed, guessed or kept where it should not
"""

from __future__ import annotations

import http.cookies
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.exceptions import HTTPException

from viewfold.serve.tokens import LOCAL, Tokens

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "viewfold_token"

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/", "/v1/about", "/v1/session", "/healthz", "/readyz", "/favicon.ico")
"""Besides /static/: what one may see without a token."""

SAFE = ("GET", "HEAD", "OPTIONS")

BODY_BYTES = 2 * 2**20
"""Of a request; a prompt of 1,000 letters has 4 kB at most."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob: "
    "data:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Door:
    """Lets requests in, or answers them."""

    def __init__(
        self, app: App, *, tokens: Tokens | None, hosts: Iterable[str] = (), sizes: dict[str, int] | None = None
    ) -> None:
        """Stand before `app`.

        Args:
            tokens: None lets everybody in as `LOCAL`.
            hosts: names of this machine, besides the loopback's.
            sizes: bytes that bodies of some paths may have, where not `BODY_BYTES`.
        """
        self.app, self.tokens, self.sizes = app, tokens, sizes or {}
        self.hosts = {host.lower() for host in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at a request, and pass it on or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = self._refuse(scope, headers)
        if reason is None:
            limit = self.sizes.get(scope["path"], BODY_BYTES)
            await self.app(scope, _bounded(receive, limit), _with_headers(send))
        else:
            await _answer(_with_headers(send), *reason)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        """Return why a request is not let in: status, code and words."""
        host = headers.get("host", "")
        if _without_port(host).lower() not in self.hosts:
            return 421, "wrong_host", "`Host` must be a name of this server. Add it with --allowed-host."
        changes = scope["method"] not in SAFE
        if changes and not _is_our_page(headers, scope.get("scheme", "http"), host):
            return 403, "wrong_origin", "`Origin` must be this server's own page; another page asked in your name."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.sizes.get(scope["path"], BODY_BYTES):
            return 413, "too_large", "the body must be smaller; nothing of it was read."
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if changes and (int(length) or "transfer-encoding" in headers) and kind not in _kinds(scope["path"]):
            return 415, "wrong_type", f"`Content-Type` must be {_kinds(scope['path'])[0]}; got {kind[:80] or 'none'}."
        scope.setdefault("state", {})["owner"] = owner = self._owner(headers)
        if owner is None and scope["path"] not in OPEN and not scope["path"].startswith("/static/"):
            return 401, "no_token", "a token must be given: `Authorization: Bearer TOKEN`, or log in on the page."
        return None

    def _owner(self, headers: dict[str, str]) -> str | None:
        if self.tokens is None:
            return LOCAL
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.tokens.owner(token.strip())
        try:
            found = http.cookies.SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except http.cookies.CookieError:
            return None
        return None if found is None else self.tokens.owner(found.value)


def _kinds(path: str) -> tuple[str, ...]:
    return ("multipart/form-data",) if path == "/v1/pictures" else ("application/json",)


def _without_port(host: str) -> str:
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]


def _is_our_page(headers: dict[str, str], scheme: str, host: str) -> bool:
    """Return whether a request comes from our own page, or from no page at all."""
    origin = headers.get("origin")
    if origin is not None and origin not in (f"{scheme}://{host}", f"https://{host}"):
        return False
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


class TooLarge(HTTPException):
    """A body that was longer than it said, or did not say."""

    def __init__(self) -> None:
        super().__init__(413, "the body must be smaller; the rest of it was not read.")


def _bounded(receive: Receive, limit: int) -> Receive:
    read = 0

    async def bounded() -> dict[str, Any]:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise TooLarge
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in there]
            if b"cache-control" not in there:
                more.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, code: str, words: str) -> None:
    body = json.dumps({"error": {"code": code, "message": words, "field": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
