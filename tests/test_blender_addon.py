"""The Blender add-on: what it says to a server and hears from it, and, in Blender, that the object stands."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_serve import DONE, JOB, QUEUED, FakeServe, running, serving

import viewfold
from viewfold.data.engines.blender import PROGRAM
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh

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


def make(addon: Any, fake: FakeServe, *, token: str = "", patience_s: float = 5.0, **changes: Any) -> Any:
    """Run a job to its end, in this thread."""
    told = {"quality": "draft", "seed": 7, "poll_s": 0.001, **changes}
    making = addon.Making(client(addon, fake.address, token), "a red mug", patience_s=patience_s, **told)
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


DRIVE = """
import json, sys, time, types, bpy
import addon_utils  # which is there when bpy is
sys.path.insert(0, sys.argv[1])
address, how = sys.argv[2:]
bpy.ops.wm.read_factory_settings(use_empty=True)
assert addon_utils.enable("viewfold_blender", default_set=True) is not None
from viewfold_blender import panel
assert bpy.types.VIEWFOLD_PT_panel.bl_category == "viewfold"
told = bpy.context.preferences.addons["viewfold_blender"].preferences
assert told.address == "http://127.0.0.1:8420" and told.token == ""
told.address, told.token = address, "s3cret"
scene = bpy.context.scene
assert (scene.viewfold.quality, scene.viewfold.seed) == ("standard", 0)
scene.viewfold.prompt, scene.viewfold.quality, scene.viewfold.seed = " a red  box", "draft", 3
scene.cursor.location = (1, 2, 3)
said, result = [], None
try:
    if how == "wait":
        result = bpy.ops.viewfold.make()
    else:  # what the button does: nothing ticks where there are no windows, so the clock is here
        class Windows:
            timers, handlers, windows = [], [], ()
            event_timer_add = lambda self, every_s, window: self.timers.append(every_s) or "timer"
            event_timer_remove = lambda self, timer: self.timers.pop()
            modal_handler_add = lambda self, operator: self.handlers.append(operator)

        class Operator:
            report = lambda self, kinds, words: said.append(words)
            _finish, _forget_timer = panel.VIEWFOLD_OT_make._finish, panel.VIEWFOLD_OT_make._forget_timer

        operator, seen = Operator(), types.SimpleNamespace(window=None, window_manager=Windows(), **{
            name: getattr(bpy.context, name) for name in ("preferences", "scene", "object", "view_layer")})
        tick, key = types.SimpleNamespace(type="TIMER"), types.SimpleNamespace(type="A")
        result = panel.VIEWFOLD_OT_make.invoke(operator, seen, key)
        if result == {"RUNNING_MODAL"}:
            assert seen.window_manager.handlers == [operator] and seen.window_manager.timers
            assert not bpy.ops.viewfold.make.poll() and bpy.ops.viewfold.cancel.poll()
            if how == "cancel":
                bpy.ops.viewfold.cancel()
            elif how == "leave":
                panel.VIEWFOLD_OT_make.cancel(operator, seen)
            result = {"PASS_THROUGH"}
        while result == {"PASS_THROUGH"}:
            assert panel.VIEWFOLD_OT_make.modal(operator, seen, key) == {"PASS_THROUGH"}, "Blender goes on"
            said.append(panel.Current.making.said if panel.Current.making else "")
            time.sleep(0.01)
            result = panel.VIEWFOLD_OT_make.modal(operator, seen, tick)
        assert not seen.window_manager.timers and panel.Current.making is None
except (RuntimeError, panel.ServerError) as error:
    said.append(str(error))
objects = [{
    "name": each.name, "prompt": each.get("viewfold_prompt"), "seed": each.get("viewfold_seed"),
    "points": [list(each.matrix_world @ v.co) for v in each.data.vertices],
} for each in bpy.data.objects if each.type == "MESH"]
addon_utils.disable("viewfold_blender", default_set=True)
assert not hasattr(bpy.types.Scene, "viewfold") and not hasattr(bpy.types, "VIEWFOLD_PT_panel")
last = panel.Current.said
print("told:" + json.dumps({"objects": objects, "said": said, "result": sorted(result or ()), "last": last}))
"""


def box() -> Mesh:
    """A box of 0.4 x 0.6 x 1, taller than wide; z is up."""
    corners = torch.cartesian_prod(*(torch.tensor([-edge / 2, edge / 2]) for edge in (0.4, 0.6, 1.0)))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return Mesh(vertices=corners, faces=torch.tensor(faces))


def blender(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not (program := os.environ.get(PROGRAM)):
        pytest.skip(f"{PROGRAM} names no Python with bpy")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)


def drive(fake: FakeServe, how: str, folder: Path) -> dict[str, Any]:
    """Put the add-on into Blender, let it make an object, take it out again; return what was there."""
    (folder / "drive.py").write_text(DRIVE)
    done = blender(str(folder / "drive.py"), str(ADDON.parent), fake.address, how)
    line = next((line for line in done.stdout.splitlines() if line.startswith("told:")), None)
    assert line is not None, done.stderr
    return json.loads(line.removeprefix("told:"))


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["wait", "tick"])
def test_in_blender_the_object_stands_upright_at_the_cursor_in_its_size(how: str, tmp_path: Path) -> None:
    file = save_mesh(box(), tmp_path / "box.glb", name="a red box").read_bytes()
    with serving(FakeServe(file=file, token="s3cret")) as fake:
        told = drive(fake, how, tmp_path)
    assert fake.heard[0][2] == {"kind": "make", "prompt": "a red box", "quality": "draft", "seed": 3}
    assert told["result"] == ["FINISHED"] and told["last"] == "a red box: done"
    assert how == "wait" or "fitting the object, about 4 s to go" in told["said"]
    (each,) = told["objects"]
    points = torch.tensor(each["points"])
    assert torch.allclose(points.amin(0), torch.tensor([0.8, 1.7, 2.5]), atol=1e-4)
    assert torch.allclose(points.amax(0), torch.tensor([1.2, 2.3, 3.5]), atol=1e-4)
    assert each["name"].startswith("a_red_box") and (each["prompt"], each["seed"]) == ("a red box", 3)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("how", "fake", "says"),
    [
        ("wait", FakeServe(token="another"), "add-on's preferences"),
        ("tick", FakeServe(steps=[QUEUED, 500]), "a sentence about 500"),
        ("tick", FakeServe(file=b"no GLB at all"), "cannot read the file"),
        ("tick", FakeServe(token="another"), "add-on's preferences"),
        ("cancel", FakeServe(steps=[running("fit", 0.5)]), "cancelled"),
        ("leave", FakeServe(steps=[running("fit", 0.5)]), ""),
    ],
)
def test_in_blender_what_goes_wrong_leaves_the_scene_alone_and_is_said(
    how: str, fake: FakeServe, says: str, tmp_path: Path
) -> None:
    with serving(fake):
        told = drive(fake, how, tmp_path)
    assert told["objects"] == [] and told["result"] != ["FINISHED"]
    assert says in (told["last"] or told["said"][-1])


@pytest.mark.heavy
def test_blender_s_own_checker_takes_the_extension(tmp_path: Path) -> None:
    places = blender("-c", "import bpy, addon_utils, json; print(json.dumps(addon_utils.paths()))").stdout
    paths = [Path(place, "bl_pkg", "cli", "blender_ext.py") for place in json.loads(places.splitlines()[-1])]
    checker = next(str(path) for path in paths if path.is_file())
    for command in (["validate", str(ADDON)], ["build", "--source-dir", str(ADDON), "--output-dir", str(tmp_path)]):
        done = blender(checker, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.glob("*.zip")] == [f"viewfold_blender-{viewfold.__version__}.zip"]
