"""The API of `viewfold serve`: what goes in, what comes out, and what is refused in words."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from serve_fakes import MUG, Served, serving

from viewfold.serve.queue import QueueLimits


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve"), limits=QueueLimits(queued_each=10_000, queued=10_000)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    while (job := served.queue.claim("drain")) is not None:  # what another test left
        served.queue.finish(job.id, "drain", "failed")
    with served.client() as client:
        yield client


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message", "field"}
    return answer.json()["error"]


def test_it_says_what_it_offers(client: httpx.Client):
    about = client.get("/v1/about").json()
    assert about["models"][0]["kinds"] == ["car", "mug"] and "words" not in about["models"][0]
    assert [quality["name"] for quality in about["qualities"]] == ["views", "draft", "standard", "high"]
    assert about["user"] == "local" and not about["login"] and about["queue"]["workers"] == 1


def test_a_job_is_taken_shown_listed_and_found_by_its_words(client: httpx.Client):
    answer = client.post("/v1/jobs", json=MUG | {"prompt": " a  very red\nmug "})
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["title"] == "a very red mug" and job["state"] == "queued" and job["request"]["seed"] == 0
    assert client.get(answer.headers["location"]).json()["id"] == job["id"]
    assert client.get("/v1/jobs", params={"q": "VERY"}).json()["jobs"][0]["id"] == job["id"]
    assert client.get("/v1/jobs", params={"state": "done", "q": "very"}).json()["jobs"] == []


def test_the_list_goes_on_from_where_it_stopped(client: httpx.Client):
    made = [client.post("/v1/jobs", json=MUG | {"prompt": f"page {n}"}).json()["id"] for n in range(5)]
    first = client.get("/v1/jobs", params={"limit": 2, "q": "page"}).json()
    second = client.get("/v1/jobs", params={"limit": 2, "q": "page", "before": first["next"]}).json()
    last = client.get("/v1/jobs", params={"limit": 2, "q": "page", "before": second["next"]}).json()
    assert [job["id"] for page in (first, second, last) for job in page["jobs"]] == made[::-1]
    assert last["next"] is None and last["total"] == 5
    assert [job["position"] for job in last["jobs"] + second["jobs"][::-1]] == [0, 1, 2]
    assert client.get("/v1/jobs", params={"kind": "personalize", "q": "page"}).json()["total"] == 0


def test_a_key_that_comes_twice_is_one_job(client: httpx.Client):
    headers = {"idempotency-key": "once-and-only"}
    first, again = (client.post("/v1/jobs", json=MUG, headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"]
    assert error(client.post("/v1/jobs", json=MUG | {"seed": 1}, headers=headers), 409)["code"] == "key_used"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ""}, "must say something"),
        ({"prompt": "   \n"}, "must say something"),
        ({"prompt": "x" * 1001}, "1000 characters"),
        ({"prompt": "a\x00mug"}, r"U\+0000"),
        ({"prompt": "a\x1b[31mmug"}, r"U\+001B"),
        ({"prompt": 7}, "valid string"),
        ({"views": 0}, "greater than or equal to 1"),
        ({"views": 17}, "less than or equal to 16"),
        ({"views": 2.5}, "integer"),
        ({"seed": -1}, "greater"),
        ({"seed": 2**40}, "less"),
        ({"tries": 9}, "less"),
        ({"tries": 2, "views": 1}, "`tries` must be 1"),
        ({"guidance": 1e9}, "less"),
        ({"quality": "best"}, "'views', 'draft', 'standard' or 'high'"),
        ({"model": "../../etc"}, "served, toybox"),
        ({"subjects": ["../x"]}, "name that the server gave"),
        ({"subjects": ["0" * 26]}, "finished jobs of yours"),
        ({"colour": "red"}, "not permitted"),
        ({"kind": "train"}, "'make', 'personalize'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(client: httpx.Client, body: dict[str, Any], said: str):
    import re

    message = error(client.post("/v1/jobs", json=MUG | body), 422)["message"]
    assert re.search(said, message), message
    assert message.startswith("`") and "value_error" not in message


@pytest.mark.parametrize(
    "prompt", ["<script>alert(1)</script>", "'; DROP TABLE job; --", "%s%n{0}${x}", "ملك \u202e x", "🫖"]
)
def test_words_that_would_be_code_elsewhere_are_words(client: httpx.Client, prompt: str):
    job = client.post("/v1/jobs", json=MUG | {"prompt": prompt}).json()
    assert client.get(f"/v1/jobs/{job['id']}").json()["request"]["prompt"] == prompt
    assert client.get("/v1/jobs", params={"q": prompt}).json()["jobs"][0]["id"] == job["id"]
    assert client.get("/v1/jobs").headers["content-type"] == "application/json"


def test_a_prompt_of_a_megabyte_and_more_is_refused_before_and_after_it_is_read(client: httpx.Client):
    assert error(client.post("/v1/jobs", json=MUG | {"prompt": "x" * 2**20}), 422)["code"] == "invalid"
    assert error(client.post("/v1/jobs", json=MUG | {"prompt": "x" * 2**22}), 413)["code"] == "too_large"
    body = json.dumps(MUG | {"prompt": "x" * 2**22}).encode()
    pieces = (body[at : at + 2**16] for at in range(0, len(body), 2**16))  # without a length: in chunks
    answer = client.post("/v1/jobs", content=pieces, headers={"content-type": "application/json"})
    assert error(answer, 413)["code"] == "too_large"


def test_a_body_that_is_no_json_or_nested_without_end_is_refused(client: httpx.Client):
    headers = {"content-type": "application/json"}
    for body in (b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"kind": "make", "prompt": NaN}'):
        answer = client.post("/v1/jobs", content=body, headers=headers)
        assert answer.status_code in (400, 422)
        assert error(answer, answer.status_code)["message"].startswith(("`body`", "`kind`", "`prompt`"))


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/..%2f..%2fetc", "/v1/jobs/%00", "/v1/jobs/" + "0" * 25, "/v1/jobs/" + "U" * 26, "/v1/pictures/../x"],
)
def test_forged_names_are_refused(client: httpx.Client, path: str):
    assert client.get(path).status_code in (404, 422)


def test_names_of_nobodys_jobs_are_not_there(client: httpx.Client):
    nobody = "/v1/jobs/" + "0" * 26
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/events"), ("GET", "/views.zip")):
        assert error(client.request(method, nobody + path), 404)["code"] == "not_found"


def test_files_are_had_by_their_names_alone(served: Served, client: httpx.Client):
    job = served.put()["id"]
    folder = served.make(job)
    (folder / "secret.json").write_text("{}")
    (folder / "views" / "004.png").symlink_to("/etc/passwd")
    shown = client.get(f"/v1/jobs/{job}").json()
    names = [file["name"] for file in shown["files"]]
    assert names[0] == "asset.glb" and "view-000.png" in names and "view-004.png" not in names
    for file in shown["files"]:
        answer = client.get(file["url"])
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(file["type"])
    for name in (
        "secret.json",
        "request.json",
        "..%2f..%2fqueue.sqlite",
        "%2e%2e%2f%2e%2e%2fqueue.sqlite",
        "views%2f000.png",
    ):
        assert client.get(f"/v1/jobs/{job}/files/{name}").status_code == 404
    assert client.get(f"/v1/jobs/{job}/files/view-004.png").status_code == 404


def test_a_part_of_a_file_is_sent_where_a_part_is_asked_for(served: Served, client: httpx.Client):
    job = served.put()["id"]
    served.make(job)
    url = f"/v1/jobs/{job}/files/asset.glb"
    whole = client.get(url)
    part = client.get(url, headers={"range": "bytes=256-511"})
    assert part.status_code == 206 and part.content == whole.content[256:512]
    assert part.headers["content-range"] == "bytes 256-511/2048"
    assert client.get(url, headers={"range": "bytes=9999-"}).status_code == 416
    assert "immutable" in whole.headers["cache-control"] and whole.headers["etag"]


def test_a_download_is_named_by_the_prompts_letters_and_nothing_else(served: Served, client: httpx.Client):
    job = served.put(prompt='a "red"/../mug\r\nSet-Cookie: x=1 ☕')["id"]
    served.make(job)
    answer = client.get(f"/v1/jobs/{job}/files/asset.glb", params={"download": "1"})
    assert answer.headers["content-disposition"] == 'attachment; filename="a-red-mug-set-cookie-x-1.glb"'
    assert "set-cookie" not in answer.headers


def test_the_archive_holds_the_views_and_their_cameras(served: Served, client: httpx.Client):
    job = served.put()["id"]
    served.make(job)
    answer = client.get(f"/v1/jobs/{job}/views.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["000.png", "001.png", "002.png", "003.png", "transforms.json"]
        assert archive.testzip() is None
    assert answer.headers["content-disposition"] == 'attachment; filename="a-red-mug-views.zip"'
    assert error(client.get(f"/v1/jobs/{job}/asset-obj.zip"), 404)["code"] == "not_found"


def test_a_part_of_the_page_that_has_not_changed_is_not_sent_again(client: httpx.Client):
    first = client.get("/")
    assert first.status_code == 200 and "<html" in first.text
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    assert client.get("/static/nothing.js").status_code == 404 and client.get("/static/..%2fapp.py").status_code == 404
    viewer = client.get("/static/model-viewer.min.js")
    assert viewer.headers["content-encoding"] == "gzip" and b"customElements" in viewer.content


def test_a_deleted_job_is_gone(served: Served, client: httpx.Client):
    job = served.put()["id"]
    served.make(job)
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert client.get(f"/v1/jobs/{job}/files/asset.glb").status_code == 404
    assert client.delete(f"/v1/jobs/{job}").status_code == 404


def events(served: Served, job: str, seen: list[dict[str, Any]]) -> None:
    """Read a job's events to the end."""
    with served.client() as client, client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))


def wait_for(seen: list[dict[str, Any]], what: Any) -> dict[str, Any]:
    import time

    end = time.monotonic() + 20
    while not (found := [each for each in seen if what(each)]):
        assert time.monotonic() < end, seen[-1:]
        time.sleep(0.01)
    return found[-1]


def test_events_tell_of_a_job_from_the_queue_to_its_end(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("viewfold.serve.journal.EVERY_S", 0.0)
    job, seen = served.put()["id"], []
    thread = threading.Thread(target=events, args=(served, job, seen))
    thread.start()
    assert wait_for(seen, lambda job: job["state"] == "queued")["position"] == 0
    claimed = served.queue.claim("w")
    assert claimed is not None and claimed.id == job
    journal = served.journal(job)
    journal("generate", 0, 8)
    journal("generate", 4, 8, loss=0.25)
    wait_for(seen, lambda job: (job["progress"] or {}).get("step") == 4)
    import torch

    journal.show(torch.rand(4, 3, 8, 8))
    journal.note("the model does not know 'zorb'")
    shown = wait_for(seen, lambda job: (job["progress"] or {}).get("preview") and job["notes"])
    strip = Image.open(io.BytesIO(client.get(shown["progress"]["preview"]).content))
    assert strip.size == (32, 8) and shown["progress"]["figures"] == {"loss": 0.25}
    assert 0 < shown["progress"]["share"] < 1 and shown["progress"]["eta_s"] is not None
    served.queue.finish(job, "w", "done", result={"faces": 3, "notes": ["a note"]})
    thread.join(20)
    assert not thread.is_alive() and seen[-1]["state"] == "done" and seen[-1]["notes"] == ["a note"]
    assert seen[-1]["figures"] == {"faces": 3}


def test_who_goes_away_is_not_watched_for_any_longer(served: Served, client: httpx.Client):
    job = served.put()["id"]
    with served.client() as other, other.stream("GET", f"/v1/jobs/{job}/events") as answer:
        next(answer.iter_lines())
        assert served.app.state.board.watchers == 1
    import time

    end = time.monotonic() + 20
    while served.app.state.board.watchers and time.monotonic() < end:
        served.queue.cancel(job, "local")
        time.sleep(0.05)
    assert served.app.state.board.watchers == 0


def test_a_full_queue_is_said_and_when_to_come_back(tmp_path: Path):
    with serving(tmp_path, limits=QueueLimits(queued_each=1)) as served, served.client() as client:
        served.put()
        answer = client.post("/v1/jobs", json=MUG)
        assert error(answer, 429)["code"] == "queue_full" and answer.headers["retry-after"] == "30"


def test_a_server_that_is_about_to_end_takes_nothing_new_and_ends_its_streams(tmp_path: Path):
    with serving(tmp_path) as served, served.client() as client:
        job, seen = served.put()["id"], []
        thread = threading.Thread(target=events, args=(served, job, seen))
        thread.start()
        wait_for(seen, lambda job: True)
        served.app.state.draining = True
        assert error(client.post("/v1/jobs", json=MUG), 503)["code"] == "unavailable"
        assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
        served.app.state.board.close()
        thread.join(20)
        assert not thread.is_alive()


def test_metrics_count_routes_and_jobs_and_know_no_prompt(served: Served, client: httpx.Client):
    client.post("/v1/jobs", json=MUG | {"prompt": "a secret thing"})
    client.get("/v1/jobs/" + "0" * 26)
    text = client.get("/metrics").text
    assert 'viewfold_requests_total{method="POST",route="/v1/jobs",status="202"}' in text
    assert 'route="/v1/jobs/{job}",status="404"' in text and 'viewfold_jobs{state="queued"}' in text
    assert "secret" not in text and "0" * 26 not in text
