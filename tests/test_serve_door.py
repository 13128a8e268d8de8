"""Who is let in by `viewfold serve`: names, pages, tokens; and what every answer carries."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_fakes import MUG, Served, serving

from viewfold.errors import AssetError, InputError
from viewfold.serve.tokens import Tokens


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this machine alone."""
    with serving(tmp_path_factory.mktemp("open"), hosts=("box.example",)) as served:
        yield served


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that wants a token; ann's is in its headers."""
    data = tmp_path_factory.mktemp("closed")
    tokens = Tokens(data)
    with serving(data, tokens=tokens) as served:
        served.headers["authorization"] = f"Bearer {tokens.add('ann')}"
        yield served


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80", "[::2]:80"])
def test_a_name_that_is_not_this_machines_is_refused(open_one: Served, host: str):
    answer = httpx.get(open_one.address + "/v1/jobs", headers={"host": host}, trust_env=False)
    assert answer.status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8420", "box.example", "BOX.example:80"])
def test_this_machines_names_are_let_in(open_one: Served, host: str):
    assert httpx.get(open_one.address + "/v1/jobs", headers={"host": host}, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:1"},
    ],
)
def test_another_page_cannot_ask_in_the_readers_name(open_one: Served, headers: dict[str, str]):
    with open_one.client() as client:
        for method, path in (("POST", "/v1/jobs"), ("DELETE", "/v1/jobs/" + "0" * 26), ("POST", "/v1/session")):
            answer = client.request(method, path, json=MUG, headers=headers)
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_origin"


def test_our_own_page_and_programs_may_ask(open_one: Served):
    with open_one.client() as client:
        for headers in ({"origin": open_one.address, "sec-fetch-site": "same-origin"}, {}):
            assert client.post("/v1/jobs", json=MUG, headers=headers).status_code == 202


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_form_of_another_page_could_send_is_refused(open_one: Served, kind: str):
    with open_one.client() as client:
        answer = client.post("/v1/jobs", content=b'{"kind": "make"}', headers={"content-type": kind})
    assert answer.status_code == 415


def test_no_answer_lets_another_page_read_it(open_one: Served):
    with open_one.client() as client:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        for answer in (client.options("/v1/jobs", headers=headers), client.get("/v1/about", headers=headers)):
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_keeps_out_what_is_foreign(open_one: Served):
    with open_one.client() as client:
        answers = [client.get("/"), client.get("/v1/jobs"), client.get("/nowhere"), client.post("/v1/jobs", json={})]
    answers.append(httpx.get(open_one.address, headers={"host": "evil.example"}, trust_env=False))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]


def test_without_a_token_one_sees_the_page_and_nothing_else(closed: Served):
    with httpx.Client(base_url=closed.address, trust_env=False) as client:
        about = client.get("/v1/about").json()
        assert about["login"] and about["user"] is None
        assert client.get("/healthz").status_code == 200
        for method, path in (
            ("GET", "/v1/jobs"),
            ("POST", "/v1/jobs"),
            ("GET", "/metrics"),
            ("GET", "/v1/openapi.json"),
        ):
            answer = client.request(method, path, json=MUG if method == "POST" else None)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("sent", ["Bearer wrong", "Bearer", "Basic YTpi", "Bearer \xff", "", "Bearer a b"])
def test_a_wrong_token_lets_nobody_in(closed: Served, sent: str):
    headers = [(b"authorization", sent.encode("latin-1"))]
    assert httpx.get(closed.address + "/v1/jobs", headers=headers, trust_env=False).status_code == 401


def test_the_page_keeps_its_token_where_no_script_reads_it(closed: Served):
    token = closed.headers["authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=closed.address, trust_env=False) as client:
        assert client.post("/v1/session", json={"token": "wrong"}).status_code == 401
        answer = client.post("/v1/session", json={"token": token})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/v1/about").json()["user"] == "ann" and client.get("/v1/jobs").status_code == 200
        assert client.post("/v1/jobs", json=MUG, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        client.delete("/v1/session")
        assert client.get("/v1/jobs").status_code == 401


def test_guesses_are_slowed_down(closed: Served):
    with httpx.Client(base_url=closed.address, trust_env=False) as client:
        codes = [client.post("/v1/session", json={"token": f"guess{n}"}).status_code for n in range(30)]
    assert codes[0] == 401 and codes[-1] == 429


def test_users_see_their_own_jobs_and_one_who_is_removed_sees_none(closed: Served):
    tokens = Tokens(closed.data)
    bob = {"authorization": f"Bearer {tokens.add('bob')}"}
    job = closed.put()["id"]
    with httpx.Client(base_url=closed.address, trust_env=False) as client:
        assert client.get(f"/v1/jobs/{job}", headers=closed.headers).status_code == 200
        assert client.get(f"/v1/jobs/{job}", headers=bob).status_code == 404
        assert client.get("/v1/jobs", headers=bob).json()["total"] == 0
        assert client.delete(f"/v1/jobs/{job}", headers=bob).status_code == 404
        tokens.remove("bob")
        assert client.get("/v1/jobs", headers=bob).status_code == 401


def test_tokens_are_hashed_at_rest_for_their_owner_alone(tmp_path: Path):
    tokens = Tokens(tmp_path)
    token = tokens.add("ann")
    content = (tmp_path / "tokens.json").read_text()
    assert token not in content and re.search('"[0-9a-f]{64}"', content) and len(token) >= 43
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0
    assert tokens.owner(token) == "ann" and tokens.owner(token[:-1]) is None and tokens.owner(None) is None
    with pytest.raises(InputError, match="is taken"):
        tokens.add("ann")
    for name in ("", "../x", "a b", "x" * 65, "local"):
        with pytest.raises(InputError, match="add_user"):
            tokens.add(name)
    with pytest.raises(InputError, match="one of ann; got 'bob'"):
        tokens.remove("bob")
    (tmp_path / "tokens.json").write_text('{"ann": ["x"]}')
    with pytest.raises(AssetError, match="damaged"):
        Tokens(tmp_path).owner(token)


def test_who_sends_slowly_or_goes_away_keeps_nobody_else_waiting(open_one: Served):
    host, port = open_one.address.removeprefix("http://").split(":")
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in slow:
        connection.sendall(head.encode())
    began = time.monotonic()
    with open_one.client() as client:
        assert client.get("/v1/jobs").status_code == 200
        for connection in slow:
            connection.close()
        assert client.post("/v1/jobs", json=MUG).status_code == 202
    assert time.monotonic() - began < 10


def test_what_is_no_http_or_has_a_head_without_end_is_refused(open_one: Served):
    host, port = open_one.address.removeprefix("http://").split(":")
    for sent in (b"\x16\x03\x01\x00\xa5" * 20 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 2**20 + b"\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            try:
                connection.sendall(sent)
                answer = connection.recv(100)
            except ConnectionError:
                answer = b""
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    with open_one.client() as client:
        assert client.get("/healthz").status_code == 200
