"""The Blender add-on in Blender: it is enabled, asks a server, and what came stands at the cursor."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_serve import QUEUED, FakeServe, running, serving

import viewfold
from viewfold.data.engines.blender import PROGRAM
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh

ADDON = Path(__file__).parents[1] / "integrations" / "blender" / "viewfold_blender"

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
assert not {"address", "token"} & set(scene.viewfold.bl_rna.properties.keys()), "files keep neither"
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
        ("tick", FakeServe(address="http://192.0.2.1:8420"), "may not go online"),
        ("wait", FakeServe(address="here"), "must look like"),
    ],
)
def test_in_blender_what_goes_wrong_leaves_the_scene_alone_and_is_said(
    how: str, fake: FakeServe, says: str, tmp_path: Path
) -> None:
    with nullcontext() if fake.address else serving(fake):
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
