"""What a worker makes of a request: every file that the page offers, and what is said on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_model
from PIL import Image
from test_lift_resume import SMALL

from viewfold.errors import InputError, MissingExtraError
from viewfold.scene.meshfile import load_mesh
from viewfold.serve.attempt import Cancelled
from viewfold.serve.folder import bundle_of, files_of, jobs_folder, picture_path
from viewfold.serve.job import new_id
from viewfold.serve.journal import Journal
from viewfold.serve.knowledge import Knowledge, describe, read_knowledge, write_knowledge
from viewfold.serve.progress import read_progress
from viewfold.serve.work import Models, begin, do
from viewfold.views import Views


@pytest.fixture(scope="module")
def models() -> Models:
    """A worker that holds a tiny model, by the name of toybox."""
    return Models(open=lambda name, *, device, dtype: tiny_model())


def ask(data: Path, **asked: Any) -> str:
    job = new_id()
    begin(data, job, "ann", {"kind": "make", "prompt": "a red mug", "quality": "views"} | asked)
    return job


def test_views_come_with_cameras_a_sheet_and_a_small_picture(tmp_path: Path, models: Models):
    job = ask(tmp_path, seed=3, steps=3, views=3, negative="blue", guidance=2.0)
    figures = do(tmp_path, job, models)
    folder = jobs_folder(tmp_path) / job
    files = files_of(folder)
    assert [name for name in files if name.startswith("view-")] == ["view-000.png", "view-001.png", "view-002.png"]
    assert {"contact.png", "turntable.webp", "transforms.json", "run.json", "thumb.webp"} <= set(files)
    assert [name for name, _ in bundle_of(folder, "views.zip")][-1] == "turntable.webp"
    settings = Views.load(folder / "views").run["settings"]
    told = {"seed": 3, "steps": 3, "guidance": 2.0, "negative": "blue"}
    assert {name: settings[name] for name in told} == told
    assert figures["views"] == 3 and 0 <= figures["agreement"] <= 1 and figures["seconds"] > 0
    assert read_progress(folder) is None and not (folder / "preview.webp").exists()


def test_the_same_request_makes_the_same_views_whatever_ran_before(tmp_path: Path, models: Models):
    first, other, again = ask(tmp_path, steps=2), ask(tmp_path, steps=2, seed=9), ask(tmp_path, steps=2)
    for job in (first, other, again):
        do(tmp_path, job, models)
    pixels = [Views.load(jobs_folder(tmp_path) / job / "views").rgb for job in (first, other, again)]
    assert pixels[0].equal(pixels[2]) and not pixels[0].equal(pixels[1])


def test_of_several_tries_the_best_is_kept(tmp_path: Path, models: Models):
    job = ask(tmp_path, steps=2, tries=3)
    do(tmp_path, job, models)
    tries = Views.load(jobs_folder(tmp_path) / job / "views").run["tries"]
    assert tries["seeds"] == [0, 1, 2] and tries["chosen"] == tries["scores"].index(max(tries["scores"]))


def test_a_job_says_how_far_it_is_and_shows_its_views(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("viewfold.serve.journal.EVERY_S", 0.0)
    monkeypatch.setattr("viewfold.pipeline.generation.SHOW_EVERY_S", 0.0)
    job, seen = ask(tmp_path, prompt="red " * 200, steps=4), []
    write = Journal._write

    def watched(self: Journal) -> None:
        write(self)
        seen.append(read_progress(self.folder))

    monkeypatch.setattr(Journal, "_write", watched)
    figures = do(tmp_path, job, models)
    phases = list(dict.fromkeys(each["phase"] for each in seen))
    shares = [each["share"] for each in seen]
    assert phases == ["load", "generate", "save"] and shares == sorted(shares) and 0 <= shares[0] < shares[-1] <= 1
    assert [each["step"] for each in seen if each["phase"] == "generate"][-1] == 4
    assert seen[-1]["preview"] >= 3 and "longer than" in figures["notes"][0]


def test_a_job_ends_where_it_is_told_to_and_leaves_nothing_to_go_on_from(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("viewfold.lifting.presets.DRAFT", SMALL)
    job, calls = ask(tmp_path, quality="draft", steps=2), iter(range(1000))

    def stopping() -> None:
        if next(calls) == 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        do(tmp_path, job, models, stopping=stopping)
    assert not (jobs_folder(tmp_path) / job / "lift").exists()


@pytest.mark.slow
def test_an_asset_comes_in_every_format_with_its_views_as_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small = replace(SMALL, polish=replace(SMALL.polish, steps=0), distil=replace(SMALL.distil, steps=0))
    monkeypatch.setattr("viewfold.lifting.presets.DRAFT", small)
    job = ask(tmp_path, quality="draft", seed=2, guidance=3.0, steps=6, views=8)
    figures = do(tmp_path, job, Models())
    folder = jobs_folder(tmp_path) / job
    assert {"asset.glb", "asset.ply", "asset.stl", "asset.json", "asset.webp"} <= set(files_of(folder))
    assert [name for name, _ in bundle_of(folder, "asset-obj.zip")] == ["asset.mtl", "asset.obj", "asset_0.png"]
    meshes = [load_mesh(path) for path in (folder / "asset.glb", folder / "asset.ply", folder / "asset" / "asset.obj")]
    assert len({len(mesh.faces) for mesh in meshes}) == 1 and figures["faces"] == len(meshes[0].faces)
    views = Views.load(folder / "views")
    assert len(views) == 8 and views.run["settings"]["guidance"] == 3.0 and views.run["settings"]["steps"] == 6
    assert not (folder / "lift").exists() and figures["agreement"] > 0.5


@pytest.mark.slow
def test_a_subject_is_learned_and_then_drawn(tmp_path: Path):
    models = Models(open=lambda name, *, device, dtype: tiny_model())
    pytest.importorskip("peft", reason="LoRA files are read with peft")
    picture = new_id()
    path = picture_path(tmp_path, picture, "ann")
    path.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(path)
    learned = ask(tmp_path)
    asked = {"kind": "personalize", "pictures": [picture], "subject": "a zorb mug", "class": "mug", "steps": 2}
    begin(tmp_path, learned, "ann", asked)
    figures = do(tmp_path, learned, models)
    folder = jobs_folder(tmp_path) / learned
    assert {"lora.safetensors", "thumb.webp", "posed-000.png"} <= set(files_of(folder))
    assert figures["pictures"] == 1 and not (folder / "learn").exists() and not (folder / "pictures").exists()
    plain, with_it = ask(tmp_path, steps=2), ask(tmp_path, steps=2, subjects=[learned])
    for job in (plain, with_it, plain):
        do(tmp_path, job, models)
    runs = [Views.load(jobs_folder(tmp_path) / job / "views").run for job in (plain, with_it)]
    assert "lora" not in runs[0] and len(runs[1]["lora"]) == 1
    (folder / "lora.safetensors").unlink()
    with pytest.raises(InputError, match="still there"):
        do(tmp_path, with_it, models)


def test_pictures_of_others_cannot_be_learned(tmp_path: Path, models: Models):
    picture = new_id()
    path = picture_path(tmp_path, picture, "bob")
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(path)
    job = new_id()
    asked = {"kind": "personalize", "pictures": [picture], "subject": "a zorb mug", "class": "mug"}
    begin(tmp_path, job, "ann", asked)
    with pytest.raises(InputError, match="Send it again"):
        do(tmp_path, job, models)


def test_a_model_is_loaded_once_and_anew_for_another_name_or_to_be_trained():
    opened: list[tuple[str, Any]] = []

    def load(name: str, *, device: Any, dtype: Any) -> Any:
        opened.append((name, dtype))
        return tiny_model()

    models = Models(open=load)
    for name, exact in (("a", False), ("a", False), ("b", False), ("a", False), ("a", True)):
        models.get(name, exact=exact)
    assert [name for name, _ in opened] == ["a", "b", "a", "a"] and opened[-1][1] is not None


def test_a_subject_that_cannot_be_read_leaves_no_other_in_the_model(monkeypatch: pytest.MonkeyPatch):
    on: list[str] = []
    model = tiny_model()

    def put_on(path: Path) -> None:
        if path.name == "broken":
            raise InputError("`path` must be a LoRA file.")
        on.append(path.name)

    monkeypatch.setattr(model, "load_lora_weights", put_on)
    monkeypatch.setattr(model, "unload_lora_weights", on.clear)
    models = Models(open=lambda name, *, device, dtype: model)
    models.get("toybox", subjects=[Path("one"), Path("two")])
    assert on == ["one", "two"]
    with pytest.raises(InputError):
        models.get("toybox", subjects=[Path("three"), Path("broken")])
    models.get("toybox")
    assert on == []


def test_what_a_model_knows_is_written_down_and_read_without_it(tmp_path: Path, models: Models):
    known = describe("toybox", models.get("toybox"))
    write_knowledge(tmp_path, known)
    assert read_knowledge(tmp_path, "toybox") == known and "mug" in known.kinds and known.image_size > 0
    assert read_knowledge(tmp_path, "../../etc") == Knowledge(name="../../etc")
    (tmp_path / "models" / "toybox.json").write_text(json.dumps({"surprise": 1}))
    assert read_knowledge(tmp_path, "toybox") == Knowledge(name="toybox")


def test_a_missing_package_is_an_error_that_says_what_to_install(tmp_path: Path, models: Models):
    def load(name: str, *, device: Any, dtype: Any) -> Any:
        raise MissingExtraError("`lora` needs peft. Run pip install 'viewfold[lora]'.")

    with pytest.raises(MissingExtraError, match="pip install"):
        do(tmp_path, ask(tmp_path), Models(open=load))


def test_a_figure_that_is_no_number_is_left_out(tmp_path: Path):
    Journal(tmp_path, phases=("train",))("train", 0, 2, loss=float("inf"), rate=0.5, other=float("nan"))
    assert read_progress(tmp_path)["figures"] == {"rate": 0.5}


def test_a_journal_whose_disk_is_full_does_not_end_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("viewfold.serve.journal.os.replace", full)
    journal: Callable[..., None] = Journal(tmp_path, phases=("load",))
    journal("load", 0, 1)
    assert list(tmp_path.iterdir()) == []
