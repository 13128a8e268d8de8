"""The Blender add-on: what it says to a server and hears from it, and, in Blender, that the object stands."""

from __future__ import annotations

import ast
import importlib
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serve_fakes
from fake_serve import DONE, JOB, QUEUED, FakeServe, running, serving

import viewfold
from viewfold.serve.work import MESH_PHASES

ROOT = Path(__file__).parents[1]
ADDON = ROOT / "integrations" / "blender" / "viewfold_blender"


@pytest.fixture
def addon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The add-on's modules that know no Blender."""
    monkeypatch.syspath_prepend(str(ADDON.parent))
    yield importlib.import_module("viewfold_blender.making")
    for name in [name for name in sys.modules if name.startswith("viewfold_blender")]:
        del sys.modules[name]


def client(addon: Any, address: str, token: str = "") -> Any:
    return sys.modules["viewfold_blender.client"].Client(address, token, timeout_s=5)


def make(
    addon: Any, fake: Any, *, prompt: str = "a red mug", token: str = "", patience_s: float = 5.0, **changes: Any
) -> Any:
    """Run a job to its end, in this thread."""
    told = {"quality": "draft", "seed": 7, "poll_s": 0.001, **changes}
    making = addon.Making(client(addon, fake.address, token), prompt, patience_s=patience_s, **told)
    making.run()
    return making


def test_a_job_is_asked_for_watched_and_fetched(addon: Any) -> None:
    with serving(FakeServe(file=b"glTF" * 50_000)) as fake:
        making = make(addon, fake)
        assert making.is_over and making.error is None and making.path.read_bytes() == fake.file
    asked = {"kind": "make", "prompt": "a red mug", "quality": "draft", "seed": 7}
    assert fake.heard[0] == ("POST", "/v1/jobs", asked)
    assert [path for _, path, _ in fake.heard[1:]] == [f"/v1/jobs/{JOB}"] * 2 + [f"/v1/jobs/{JOB}/files/asset.glb"]
    assert 8 <= len(fake.headers[0]["idempotency-key"]) <= 64 and "authorization" not in fake.headers[0]
    folder = making.path.parent
    making.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("step", "words", "share"),
    [
        (QUEUED, "waiting: 2 before it", 0.0),
        ({"state": "queued", "position": 0}, "waiting for a free worker", 0.0),
        (running("fit", 0.5, 4.2), "fitting the object, about 4 s to go", 0.5),
        (running("generate", 0.25), "drawing views", 0.25),
        (running("dream", 7.0), "working", 1.0),
        ({"state": "running", "progress": None}, "working", 0.0),
    ],
)
def test_what_the_server_says_becomes_words_and_a_share(addon: Any, step: Any, words: str, share: float) -> None:
    making = addon.Making(client(addon, "http://127.0.0.1:1"), "a mug", quality="draft", seed=0)
    assert making._goes_on(step) and making.said == words and making.share == share


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([QUEUED, {"state": "failed", "error": {"code": "fit", "message": "no surface was found."}}], "no surface"),
        ([422], "a sentence about 422"),
        ([429], "a sentence about 429"),
        (["<html>"], "no viewfold server"),
        (['["a list"]'], "no viewfold server"),
        ([{"state": "melted"}], "another version"),
        ([307], "leads elsewhere"),
        ([QUEUED, 302], "leads elsewhere"),
        ([{"state": "running", "id": "../../etc"}], "a name that is none"),
        ([{"state": "done", "files": [{"name": "../x.glb", "format": "glb"}]}], "a name that is none"),
        ([{"state": "running", "progress": 3}], "went wrong in the add-on"),
    ],
)
def test_what_goes_wrong_is_said_in_words(addon: Any, steps: list[Any], says: str) -> None:
    with serving(FakeServe(steps=steps)) as fake:
        making = make(addon, fake)
    assert making.is_over and making.path is None and says in making.error


def test_the_token_goes_with_every_request_and_a_missing_one_is_asked_for(addon: Any) -> None:
    with serving(FakeServe(token="s3cret")) as fake:
        assert make(addon, fake, token=" s3cret ").path is not None
        assert {each["authorization"] for each in fake.headers} == {"Bearer s3cret"}
        assert "add-on's preferences" in make(addon, fake).error


def test_a_server_that_is_away_for_a_while_is_waited_for(addon: Any) -> None:
    with serving(FakeServe(steps=[QUEUED, 503, 502, running("fit", 0.5), 504, DONE])) as fake:
        assert make(addon, fake).path is not None


def test_a_server_that_stays_away_ends_it_and_one_that_never_was_there_at_once(addon: Any) -> None:
    with serving(FakeServe(steps=[QUEUED, 503])) as fake:
        assert "not ready" in make(addon, fake, patience_s=0.05).error
        assert len(fake.heard) > 3
    gone = make(addon, fake, patience_s=60.0)
    assert "No server answers at http://127.0.0.1" in gone.error and "viewfold serve" in gone.error


def test_a_file_that_breaks_off_is_not_taken_for_whole(addon: Any, tmp_path: Path) -> None:
    with serving(FakeServe(steps=[DONE], file=b"x" * 10_000, cut=True)) as fake:
        making = make(addon, fake, patience_s=0.05)
    assert making.path is None and "broke" in making.error


def test_to_cancel_ends_the_job_on_the_server_too(addon: Any) -> None:
    with serving(FakeServe(steps=[running("fit", 0.1)])) as fake:
        making = addon.Making(client(addon, fake.address), "a mug", quality="draft", seed=0, poll_s=0.01)
        making.start()
        threading.Timer(0.05, making.stop).start()
        making.join(timeout=5)
    assert making.cancelled and making.error is None
    assert fake.heard[-1][:2] == ("POST", f"/v1/jobs/{JOB}/cancel")


def test_the_server_itself_takes_and_gives_what_the_add_on_says_and_hears(
    addon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewfold.serve.page.static", dict)
    with serve_fakes.serving(tmp_path / "data") as served:
        making = addon.Making(client(addon, served.address), "a red mug", quality="high", seed=5, poll_s=0.01)
        making.start()
        wait_for(lambda: making.said.startswith("waiting"))
        (job,) = served.queue.list("local", limit=2)
        assert (job.request["quality"], job.request["seed"], job.title) == ("high", 5, "a red mug")
        folder = served.make(job.id)
        making.join(timeout=10)
        assert making.path.read_bytes() == (folder / "asset.glb").read_bytes()
        making.close()
        assert "`prompt` must say something" in make(addon, served, prompt=" ").error
        dropped = addon.Making(client(addon, served.address), "a car", quality="draft", seed=0, poll_s=0.01)
        dropped.start()
        wait_for(lambda: dropped.said.startswith("waiting"))
        dropped.stop()
        dropped.join(timeout=10)
        assert dropped.cancelled and served.queue.list("local", limit=1)[0].state == "cancelled"
    assert {"load", "generate", *MESH_PHASES} <= addon.PHASES.keys(), "each has a word"


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:8420", "file:///etc/passwd", "ftp://here", "http://", "http://me:pw@here", "http://a?b=c"],
)
def test_what_is_no_address_of_a_server_is_refused(address: str, addon: Any) -> None:
    errors = sys.modules["viewfold_blender.client"]
    with pytest.raises(errors.ServerError, match="must look like http://127.0.0.1:8420"):
        client(addon, address)


def test_it_knows_which_servers_are_on_this_machine(addon: Any) -> None:
    here = ["http://127.0.0.1:8420", "http://localhost/", "http://[::1]:8420", "https://127.5.5.5"]
    away = [
        "http://gpu.example:8420",
        "http://192.168.1.4:8420",
        "http://localhost.example",
        "http://127.0.0.1.example",
    ]
    assert all(client(addon, address).is_here for address in here)
    assert not any(client(addon, address).is_here for address in away)


def test_it_imports_the_standard_library_alone() -> None:
    for path in ADDON.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            known = sys.stdlib_module_names | ({"bpy"} if path.name == "panel.py" else set())
            assert {name.split(".")[0] for name in names} <= known, path.name


def test_the_manifest_says_what_the_add_on_says_of_itself(addon: Any) -> None:
    told = tomllib.loads((ADDON / "blender_manifest.toml").read_text())
    about = sys.modules["viewfold_blender"].bl_info
    assert told["id"] == ADDON.name and told["type"] == "add-on" and told["schema_version"] == "1.0.0"
    assert told["version"] == ".".join(map(str, about["version"])) == viewfold.__version__
    assert told["blender_version_min"] == ".".join(map(str, about["blender"])) == "4.2.0"
    assert told["name"] == about["name"] and told["tagline"] == about["description"] and len(told["tagline"]) <= 64
    assert told["permissions"].keys() == {"network", "files"}
