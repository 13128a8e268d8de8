"""A client of `viewfold serve`: the API from Python, for scripts and other programs.

    client = Client("http://127.0.0.1:8420")
    job = client.make("a red mug", quality="draft")
    for job in client.watch(job["id"]):
        print(job["state"], job["progress"])
    client.download(job["id"], "asset.glb", "mug.glb")

Jobs are what the API shows, as dictionaries.  Needs no torch.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from viewfold.errors import InputError, OutputError
from viewfold.serve.job import OVER
from viewfold.store import atomic_write

TIMEOUT_S = 30.0

AGAIN_S = (0.2, 1.0, 3.0, 10.0)
"""To wait before a request that did not get through is sent once more, and again."""


class ServerError(OutputError):
    """The server does not answer, or cannot do what it should."""


class Client:
    """One server, for one user."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8420",
        *,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to `address`, when something is asked.

        Args:
            address: where `viewfold serve` listens.
            token: what `viewfold serve --add-user` printed; None at this machine's own address.
            transport: httpx', for tests and proxies.
        """
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=TIMEOUT_S, transport=transport)

    def about(self) -> dict[str, Any]:
        """Return what the server offers: models with what they draw, qualities, formats, limits."""
        return self._ask("GET", "/v1/about").json()

    def make(self, prompt: str, **asked: Any) -> dict[str, Any]:
        """Ask for views and an asset of what a prompt says; return the job, which waits.

        Args:
            prompt: what to make.
            asked: quality ("views", "draft", "standard", "high"), seed, views, tries, negative, model, guidance, steps,
                subjects; see the server's /v1/openapi.json.

        Raises:
            InputError: the server refuses it, and says why.
            ServerError: no server, or one that cannot.
        """
        return self._submit({"kind": "make", "prompt": prompt, **asked})

    def personalize(
        self, pictures: Sequence[str | Path], *, subject: str, class_name: str, **asked: Any
    ) -> dict[str, Any]:
        """Send pictures of one thing, and ask for it to be learned; the job's id is then one of `subjects` of `make`.

        Raises:
            InputError: a picture that cannot be read, or as `make`.
        """
        names = []
        for path in map(Path, pictures):
            with path.open("rb") as file:
                answer = self._ask("POST", "/v1/pictures", files=[("files", (path.name, file))]).json()
            if answer["refused"]:
                raise InputError(f"`pictures` must be readable; {path}: {answer['refused'][0]['message']}")
            names.append(answer["pictures"][0]["id"])
        told = {"kind": "personalize", "pictures": names, "subject": subject, "class": class_name}
        return self._submit(told | asked)

    def job(self, job: str) -> dict[str, Any]:
        """Return a job as it is now."""
        return self._ask("GET", f"/v1/jobs/{job}").json()

    def jobs(self, *, state: str = "", words: str = "") -> Iterator[dict[str, Any]]:
        """Yield your jobs, the newest first."""
        asked: dict[str, Any] = {"state": state, "q": words, "limit": 200}
        while True:
            page = self._ask("GET", "/v1/jobs", params=asked).json()
            yield from page["jobs"]
            if page["next"] is None:
                return
            asked["before"] = page["next"]

    def watch(self, job: str) -> Iterator[dict[str, Any]]:
        """Yield a job at once and whenever it changes, until it is over; a lost connection is made anew.

        Raises:
            InputError: there is no such job.
            ServerError: the server is gone for good.
        """
        lost, last = 0, None
        while True:
            try:
                with self._http.stream("GET", f"/v1/jobs/{job}/events", timeout=60) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        _check(answer)
                    for line in answer.iter_lines():
                        if not line.startswith("data: ") or line == last:
                            continue
                        lost, last = 0, line
                        told = json.loads(line.removeprefix("data: "))
                        yield told
                        if told["state"] in OVER:
                            return
                reason = "it ended the stream"
            except httpx.TransportError as error:
                reason = _said(error)
            if lost == len(AGAIN_S):
                raise ServerError(f"`{self._http.base_url}` must answer; {reason}. Is `viewfold serve` running?")
            time.sleep(AGAIN_S[lost])
            lost += 1

    def wait(self, job: str) -> dict[str, Any]:
        """Return a job when it is over."""
        return list(self.watch(job))[-1]

    def cancel(self, job: str) -> dict[str, Any]:
        """End a job that waits or runs."""
        return self._ask("POST", f"/v1/jobs/{job}/cancel").json()

    def delete(self, job: str) -> None:
        """End a job, and remove it and its files."""
        self._ask("DELETE", f"/v1/jobs/{job}")

    def download(self, job: str, name: str, path: str | Path) -> Path:
        """Write a file of a job, "asset.glb" or any other that the job names; the whole of it or nothing.

        Raises:
            InputError: the job has no such file.
            OutputError: the place cannot be written.
        """
        found = next((file for file in self.job(job)["files"] if file["name"] == name), None)
        if found is None:
            raise InputError(f"`name` must be one of the job's files; got {name!r}, which it has not, or not yet.")
        with atomic_write(path) as temporary, self._http.stream("GET", found["url"]) as answer:
            if answer.status_code != 200:
                answer.read()
                _check(answer)
            with temporary.open("wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)
        return Path(path)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for a job under a key of its own, so that one that is sent twice is one."""
        headers = {"idempotency-key": uuid.uuid4().hex}
        return self._ask("POST", "/v1/jobs", json=asked, headers=headers, again=True).json()

    def _ask(self, method: str, path: str, *, again: bool = False, **more: Any) -> httpx.Response:
        for wait in (*(AGAIN_S if again or method == "GET" else ()), None):
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError as error:
                if wait is None:
                    raise ServerError(
                        f"`{self._http.base_url}` must answer; {_said(error)}. Is `viewfold serve` running?"
                    ) from error
                time.sleep(wait)
                continue
            _check(answer)
            return answer
        raise AssertionError("not reached")


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"it answered {answer.status_code}, and is no `viewfold serve`."
    raise InputError(message) if answer.status_code < 500 else ServerError(message)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
