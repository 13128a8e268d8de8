"""The Python client against a real server: what it asks, what it gets, and a line that breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from serve_fakes import Served, serving

from viewfold.errors import InputError
from viewfold.serve import client as client_module
from viewfold.serve.client import Client, ServerError


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("client")) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    while (job := served.queue.claim("drain")) is not None:
        served.queue.finish(job.id, "drain", "failed")
    with Client(served.address) as client:
        yield client


def test_a_job_is_made_watched_and_its_asset_downloaded(served: Served, client: Client, tmp_path: Path):
    job = client.make("a red mug", quality="draft", seed=3)
    assert job["request"]["seed"] == 3
    threading.Timer(0.3, lambda: served.make(job["id"])).start()
    states = [told["state"] for told in client.watch(job["id"])]
    assert states[0] == "queued" and states[-1] == "done" and client.wait(job["id"])["state"] == "done"
    path = client.download(job["id"], "asset.glb", tmp_path / "mug.glb")
    assert path.read_bytes() == bytes(range(256)) * 8
    with pytest.raises(InputError, match="job's files; got 'asset.usdz'"):
        client.download(job["id"], "asset.usdz", tmp_path / "mug.usdz")
    assert not (tmp_path / "mug.usdz").exists()


def test_what_the_server_refuses_is_an_error_in_its_words(client: Client):
    with pytest.raises(InputError, match="`prompt` must say something"):
        client.make(" ")
    with pytest.raises(InputError, match="one of yours"):
        client.job("0" * 26)
    with pytest.raises(InputError, match="one of yours"):
        list(client.watch("0" * 26))


def test_jobs_are_listed_over_all_pages_cancelled_and_deleted(client: Client, monkeypatch: pytest.MonkeyPatch):
    made = [client.make(f"listed {number}")["id"] for number in range(3)]
    assert [job["id"] for job in client.jobs(words="listed")] == made[::-1]
    assert client.cancel(made[0])["state"] == "cancelled"
    assert [job["id"] for job in client.jobs(words="listed", state="cancelled")] == [made[0]]
    for job in made:
        client.delete(job)
    assert list(client.jobs(words="listed")) == []


def test_pictures_are_sent_and_one_that_is_none_is_named(client: Client, tmp_path: Path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    job = client.personalize([tmp_path / "a.png"], subject="a zorb mug", class_name="mug", steps=2)
    assert job["kind"] == "personalize" and len(job["request"]["pictures"]) == 1
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png: .*cannot be read"):
        client.personalize([tmp_path / "b.png"], subject="a zorb mug", class_name="mug")


class Breaking(httpx.BaseTransport):
    """Loses what it is told to: a request before it is sent, or an answer on its way back."""

    def __init__(self, *, before: int = 0, after: int = 0) -> None:
        self.inner, self.before, self.after = httpx.HTTPTransport(), before, after

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.before:
            self.before -= 1
            raise httpx.ConnectError("the line is dead")
        answer = self.inner.handle_request(request)
        if self.after:
            self.after -= 1
            answer.read()
            raise httpx.ReadError("the line broke")
        return answer

    def close(self) -> None:
        self.inner.close()


def test_a_job_whose_answer_was_lost_is_asked_for_again_and_made_once(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_module, "AGAIN_S", (0.0, 0.0))
    with Client(served.address, transport=Breaking(before=1, after=1)) as broken:
        job = broken.make("made once")
    assert [found["id"] for found in client.jobs(words="made once")] == [job["id"]]


def test_a_stream_that_breaks_is_taken_up_again(served: Served, client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "AGAIN_S", (0.0, 0.0))
    job = client.make("a red mug")
    with Client(served.address, transport=Breaking(before=2)) as broken:
        watched = broken.watch(job["id"])
        assert next(watched)["state"] == "queued"
        served.make(job["id"])
        assert list(watched)[-1]["state"] == "done"


def test_a_server_that_is_not_there_is_said_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "AGAIN_S", (0.0,))
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError, match="Is `viewfold serve` running"):
        client.about()


def test_another_server_is_told_from_ours():
    page = httpx.MockTransport(lambda request: httpx.Response(404, text="<html>nothing here</html>"))
    with Client("http://other", transport=page) as client, pytest.raises(InputError, match="no `viewfold serve`"):
        client.about()
