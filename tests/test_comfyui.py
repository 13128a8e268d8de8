"""The ComfyUI nodes: loaded by ComfyUI's rules, run in its inference mode, saved into its folder and nowhere else."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from comfyui_fakes import Comfy, InterruptProcessingException, execute, inputs_of, is_widget, load_pack, to_prompt
from fakes import OLD_NUMPY, tiny_model
from lift_fakes import ball, ball_views

import viewfold
from viewfold.errors import InputError
from viewfold.lifting import presets
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import FitSettings, LiftSettings, MeshSettings
from viewfold.pipeline import MultiViewPipeline
from viewfold.scene.grid import GridSettings
from viewfold.scene.meshfile import load_mesh

ROOT = Path(__file__).parents[1]
PACK = ROOT / "integrations" / "comfyui"
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))

SMALL = LiftSettings(
    representation=GridSettings(resolution=16, samples=16),
    fit=FitSettings(steps=20),
    polish=PolishSettings(steps=0),
    mesh=MeshSettings(resolution=16, faces=200, texture_size=32),
)


class PreviewImage:
    """ComfyUI's own node, as far as a workflow sees it."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "show", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}}

    def show(self, images: torch.Tensor) -> tuple[()]:
        assert images.ndim == 4 and images.shape[3] == 3 and images.dtype == torch.float32
        assert 0 <= float(images.min()) and float(images.max()) <= 1
        return ()


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    return Comfy(tmp_path / "output").install(monkeypatch)


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The pack in a folder with a dot in its name, which nothing can import by name."""
    shutil.copytree(PACK, tmp_path / "custom_nodes" / "viewfold-0.1.0", ignore=shutil.ignore_patterns("__pycache__"))
    return load_pack(tmp_path / "custom_nodes" / "viewfold-0.1.0", monkeypatch)


def box(pack: ModuleType, name: str) -> Any:
    return pack.NODE_CLASS_MAPPINGS[f"Viewfold{name}"]()


@pytest.fixture
def draws_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tiny model draw true pictures of a ball; with all that a sampler does, but for its network."""

    def draw(self: Any, prompt: str, cameras: Any, *, callback_on_step_end: Any = None, **_: Any) -> torch.Tensor:
        for step in range(3):
            latents = torch.zeros(1, len(cameras), 4, 4, 4)
            callback_on_step_end(self, step, torch.tensor(0), {"latents": latents})
        return ball(cameras, size=16)[0][None]

    monkeypatch.setattr(MultiViewPipeline, "__call__", draw)


def test_the_pack_loads_and_its_classes_have_what_comfyui_reads(pack: ModuleType) -> None:
    assert set(pack.__all__) == {"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"}
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert len(set(pack.NODE_DISPLAY_NAME_MAPPINGS.values())) == len(pack.NODE_CLASS_MAPPINGS)
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        assert name.startswith("Viewfold"), "names are shared by all packs"
        assert isinstance(node, type) and node.CATEGORY and node.DESCRIPTION
        assert isinstance(inspect.getattr_static(node, "INPUT_TYPES"), classmethod)
        assert isinstance(node.RETURN_TYPES, tuple) and len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        told = node.INPUT_TYPES()
        assert told.keys() <= {"required", "optional", "hidden"}
        method = inspect.signature(getattr(node, node.FUNCTION))
        assert list(method.parameters)[1:] == list(inputs_of(node)), "it passes inputs by name"
        needed = [p.name for p in list(method.parameters.values())[1:] if p.default is p.empty]
        assert needed == list(told["required"])


def test_the_widgets_begin_with_values_of_their_own_kind_and_within_their_range(pack: ModuleType) -> None:
    kinds = {"INT": int, "FLOAT": float, "STRING": str}
    for node in pack.NODE_CLASS_MAPPINGS.values():
        for name, (kind, *rest) in inputs_of(node).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                assert options["default"] in kind and all(isinstance(each, str) for each in kind)
            elif is_widget(kind):
                assert type(options["default"]) is kinds[kind], name
                if kind != "STRING":
                    assert options["min"] <= options["default"] <= options["max"], name
            else:
                assert kind.isupper(), "sockets are named in capitals"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_nodes_sockets_and_links_that_exist(path: Path, pack: ModuleType) -> None:
    nodes = {**pack.NODE_CLASS_MAPPINGS, "PreviewImage": PreviewImage}
    flow = json.loads(path.read_text())
    by_id = {node["id"]: node for node in flow["nodes"]}
    assert flow["last_node_id"] == max(by_id) and flow["last_link_id"] == max(link[0] for link in flow["links"])
    for node in flow["nodes"]:
        kind = nodes[node["type"]]
        assert [out["type"] for out in node["outputs"]] == list(kind.RETURN_TYPES)
        assert all(inputs_of(kind)[plug["name"]][0] == plug["type"] for plug in node["inputs"])
    for link, origin, slot, target, place, kind in flow["links"]:
        assert link in by_id[origin]["outputs"][slot]["links"] and by_id[target]["inputs"][place]["link"] == link
        assert by_id[origin]["outputs"][slot]["type"] == by_id[target]["inputs"][place]["type"] == kind
    assert to_prompt(flow, nodes)


@pytest.mark.slow
@pytest.mark.usefixtures("draws_balls")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_from_a_text_to_a_glb_in_the_output_folder(
    path: Path, pack: ModuleType, comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(presets, "STANDARD", SMALL)
    nodes = {**pack.NODE_CLASS_MAPPINGS, "PreviewImage": PreviewImage}
    prompt = to_prompt(json.loads(path.read_text()), nodes)
    (load,) = (node for node in prompt.values() if node["class_type"] == "ViewfoldLoadModel")
    load["inputs"]["name"] = str(tmp_path / "tiny")
    done = execute(prompt, nodes)
    (saved,) = (done[number][0] for number, node in prompt.items() if node["class_type"] == "ViewfoldSaveAsset")
    assert saved == "3d/viewfold_00001_.glb"
    mesh = load_mesh(comfy.output / saved)
    assert len(mesh.faces) > 50 and mesh.materials[0].texture is not None
    assert json.loads((comfy.output / saved).with_suffix(".json").read_text())["prompt"] == "a red mug"
    (views,) = (done[n][1] for n, node in prompt.items() if node["class_type"] == "ViewfoldTextToViews")
    assert len(views) == 16 and views.run["settings"]["given"] == [0, 1, 2, 3]
    assert {(3, 30), (20, 20)} <= {move[:2] for move in comfy.moves}, "the bar followed the drawing and the fit"
    assert any(move[2] for move in comfy.moves), "pictures are shown on the way"


@pytest.mark.filterwarnings(OLD_NUMPY)
def test_what_is_made_in_inference_mode_can_be_fitted_to(pack: ModuleType, comfy: Comfy, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny")
    with torch.inference_mode():
        (model,) = box(pack, "LoadModel").load(str(tmp_path / "tiny"), "auto")
        told = {"views": 4, "elevation": 15.0, "seed": 3, "steps": 2, "guidance": 2.0, "negative": ""}
        images, views = box(pack, "TextToViews").draw(model=model, prompt="a red mug", **told)
        (posed,) = box(pack, "ImagesToViews").pose(torch.rand(1, 8, 8, 3), "0", "0", 40.0, 0.0, "")
    assert not any(weight.is_inference() for weight in model.unet.parameters())
    assert not views.rgb.is_inference() and not posed.rgb.is_inference()
    same = viewfold.generate(
        model, "a red mug", cameras=viewfold.Cameras.orbit(4, elevation_deg=15), seed=3, steps=2, guidance=2.0
    )
    assert torch.equal(views.rgb, same.rgb) and torch.equal(images, same.rgb.movedim(1, -1))


def test_what_is_left_to_the_model_is_left_to_the_model(
    pack: ModuleType, comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def generate(model: Any, prompt: str, **told: Any) -> viewfold.Views:
        asked.append({**told, "prompt": prompt, "azimuths": told["cameras"].azimuth_deg.round().tolist()})
        return ball_views(size=8, n_views=len(told["cameras"]))

    monkeypatch.setattr(viewfold, "generate", generate)
    draw = box(pack, "TextToViews").draw
    draw(tiny_model(), "a duck", " ", 3, 10.0, 5, 0, -1.0)
    draw(tiny_model(), "a duck", "red", 6, 10.0, 5, 4, 0.0)
    own, first, around = asked
    assert (own["steps"], own["guidance"], own["negative"], own.get("given")) == (None, None, None, None)
    assert own["azimuths"] == [0, 120, 240]
    assert (around["steps"], around["guidance"], around["negative"], around["seed"]) == (4, 0.0, "red", 5)
    assert first["azimuths"] == [0, 90, 180, 270] and len(around["given"]) == 4 and around["azimuths"] == [90, 270]


@pytest.mark.usefixtures("draws_balls")
@pytest.mark.parametrize("looks", [1, 3, 10])
def test_the_stop_button_ends_a_node_where_it_is(
    looks: int, pack: ModuleType, comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "DRAFT", SMALL)
    comfy.stop_after = looks
    with pytest.raises(InterruptProcessingException):
        box(pack, "ViewsToAsset").lift(tiny_model(), "a red ball", "draft", 0, ball_views(size=16))
    assert comfy.looks == looks + 1


def test_pictures_with_a_mask_are_views_with_alpha_from_the_cameras_that_are_named(pack: ModuleType) -> None:
    images, mask = torch.rand(2, 8, 8, 3), torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    (views,) = box(pack, "ImagesToViews").pose(images, "0 90", "10, -20", 30.0, 2.0, "a mug ", mask=mask)
    assert torch.equal(views.rgb, images.movedim(-1, 1)) and views.prompt == "a mug"
    assert views.alpha is not None and not views.alpha[:, :, :4].any() and views.alpha[:, :, 4:].all()
    assert views.cameras.azimuth_deg.tolist() == pytest.approx([0, 90], abs=1e-3)
    assert views.cameras.elevation_deg.tolist() == pytest.approx([10, -20], abs=1e-3)
    assert views.cameras.fov_deg.tolist() == [30, 30]
    assert views.cameras.position.norm(dim=1).tolist() == pytest.approx([2, 2])
    (four,) = box(pack, "ImagesToViews").pose(torch.rand(1, 8, 8, 4), "0", "0", 40.0, 0.0, "")
    assert four.rgb.shape == (1, 3, 8, 8) and four.alpha.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"images": torch.rand(1, 8, 9, 3)}, "square"),
        ({"azimuths": "front"}, "`azimuths` must be numbers"),
        ({"elevations": " , "}, "`elevations` must hold a number"),
        ({"azimuths": "0, 90"}, "one picture per camera"),
        ({"mask": torch.zeros(1, 4, 4)}, "`mask` must be as large"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_in_words(told: dict[str, Any], says: str, pack: ModuleType) -> None:
    good = {"images": torch.rand(1, 8, 8, 3), "azimuths": "0", "elevations": "0", "fov": 40.0, "distance": 0.0}
    with pytest.raises(InputError, match=says):
        box(pack, "ImagesToViews").pose(**{**good, "prompt": "", **told})


def test_auto_is_where_comfyui_computes_and_without_it_where_viewfold_would(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = sys.modules[f"{pack.__name__}.host"].compute_device
    assert device("auto") is None and device("cuda") == "cuda"
    Comfy(tmp_path, device="meta").install(monkeypatch)
    assert device("auto") == torch.device("meta") and device("cpu") == "cpu"


class Asset:
    """Saves a name."""

    def save(self, path: Path, *, turntable: bool) -> None:
        path.write_text("asset")


def test_files_are_numbered_and_nothing_is_replaced(pack: ModuleType, comfy: Comfy) -> None:
    save = box(pack, "SaveAsset").save
    names = [save(Asset(), "toys/mug", kind)["result"][0] for kind in ("glb", "glb", "stl")]
    assert names == ["toys/mug_00001_.glb", "toys/mug_00002_.glb", "toys/mug_00003_.stl"]
    shown = save(Asset(), "mug", "ply")["ui"]["3d"]
    assert shown == [{"filename": "mug_00001_.ply", "subfolder": "", "type": "output"}]


@pytest.mark.parametrize("prefix", ["../mug", "../new/mug", "a/../../mug", "/tmp/mug", "link/mug", ".."])
def test_no_prefix_leads_out_of_the_output_folder(prefix: str, pack: ModuleType, comfy: Comfy, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    comfy.output.mkdir()
    (comfy.output / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="filename_prefix"):
        box(pack, "SaveAsset").save(Asset(), prefix, "glb")
    assert not list((tmp_path / "elsewhere").iterdir()) and not list(tmp_path.glob("mug*"))
    assert not (tmp_path / "new").exists()


def test_without_comfyui_the_nodes_run_all_the_same(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        name = f"toys/mug_0000{number}_.glb"
        assert box(pack, "SaveAsset").save(Asset(), "toys/mug", "glb")["result"] == (name,)
        assert (tmp_path / "output" / name).is_file()


def test_a_comfyui_without_viewfold_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viewfold", None)
    with pytest.raises(ImportError, match="not installed in ComfyUI's Python"):
        load_pack(PACK, monkeypatch)


def test_the_registry_is_told_what_it_asks_for() -> None:
    told = tomllib.loads((PACK / "pyproject.toml").read_text())
    project = told["project"]
    assert project["name"] == "viewfold" and project["version"] == viewfold.__version__
    assert project["version"].count(".") == 2 and project["license"] == {"text": "Apache-2.0"}
    assert {"PublisherId", "DisplayName", "Icon"} <= told["tool"]["comfy"].keys() and "Repository" in project["urls"]
