"""Lists of prompts become assets: what is skipped, what is told apart, what is reported and what ends the list."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from test_claims import holder

from viewfold import lift_batch, make_batch
from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import FitError, InputError, MissingExtraError, OutputError
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.presets import DRAFT, HIGH, STANDARD
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline import MultiViewPipeline
from viewfold.scene.grid import GridField
from viewfold.scene.mesh import Mesh
from viewfold.views import Views

LIST = ["a red mug", "a car", "a duck"]


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Fit nothing, note what would have been lifted; what is blue has no surface."""
    asked: list[dict[str, Any]] = []

    def fake(model: MultiViewPipeline, prompt: str, **settings: Any) -> Asset3D:
        asked.append({"prompt": prompt, **settings})
        if settings["origin"] is not None:
            settings["origin"].check_prompt(prompt)
        if "blue" in prompt:
            raise FitError(f"no surface in {prompt}.")
        cameras = Cameras.orbit(1)
        corners = torch.eye(3).repeat_interleave(torch.tensor([1, 1, 1]), dim=0)
        mesh = Mesh(vertices=torch.cat([corners, torch.zeros(1, 3)]), faces=torch.tensor([[0, 1, 2], [0, 2, 3]]))
        views = Views(rgb=torch.zeros(1, 3, 8, 8), cameras=cameras)
        return Asset3D(mesh=mesh, representation=GridField(resolution=4), views=views, prompt=prompt)

    monkeypatch.setattr(make_batch, "lift", fake)
    monkeypatch.setattr(Asset3D, "_save_turntable", lambda self, path: path.write_bytes(b"frames"))
    return asked


def prompts_of(calls: list[dict[str, Any]]) -> list[str]:
    return [call["prompt"] for call in calls]


def stems(folder: Path) -> list[str]:
    return sorted({path.stem.rpartition("-")[0] for path in folder.iterdir()})


def test_each_prompt_becomes_three_files_of_one_readable_stem_and_is_made_once(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    done = lift_batch(model, [*LIST, "a car"], tmp_path, progress=lambda *at: seen.append(at))
    assert prompts_of(calls) == LIST and stems(tmp_path) == ["a-car", "a-duck", "a-red-mug"]
    assert len(list(tmp_path.iterdir())) == 9
    for path, prompt in zip(done.done, LIST, strict=True):
        assert re.fullmatch(r"[a-z-]+-[0-9a-f]{10}\.glb", path.name) and path.with_suffix(".webp").is_file()
        report = json.loads(path.with_suffix(".json").read_text())
        assert report["prompt"] == prompt and report["unit"].startswith(path.stem[-10:]) and not report["warnings"]
    assert seen == [("prompts", 0, 3), ("prompts", 1, 3), ("prompts", 2, 3), ("prompts", 3, 3)]
    seen.clear()
    again = lift_batch(model, [*LIST, "a house"], tmp_path, progress=lambda *at: seen.append(at))
    assert again.skipped == done.done and len(again.done) == 1 and prompts_of(calls) == [*LIST, "a house"]
    assert seen == [("prompts", 3, 4), ("prompts", 4, 4)], "what was there counts for no speed"


def test_the_report_holds_the_doubts_about_the_prompt(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    (path,) = lift_batch(model, ["a red mug" + " with a green car" * 5], tmp_path).done
    (doubt,) = json.loads(path.with_suffix(".json").read_text())["warnings"]
    assert "longer than" in doubt


def test_every_setting_reaches_the_lift_and_what_is_left_out_is_its_own(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    lift_batch(model, ["a mug"], tmp_path)
    asked = {"seed": 3, "tries": 2, "scorer": lambda views: 0.0, "settings": DRAFT, "origin": None}
    lift_batch(model, ["a mug"], tmp_path, **asked)
    own = {"seed": 0, "tries": 1, "scorer": None, "settings": STANDARD, "origin": ORIGIN}
    for call, wanted in zip(calls, (own, asked), strict=True):
        assert call.pop("keeper").folder.suffix == ".lift" and call.pop("note") is None
        assert call == {"prompt": "a mug", **wanted}


def test_other_settings_and_other_models_have_other_names(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    changed = replace(STANDARD, mesh=replace(STANDARD.mesh, faces=3999))
    other = MultiViewPipeline(**tiny_model(seed=1).components)
    told = MultiViewPipeline(**model.components, guidance=2.0)
    for which, settings in (
        (model, {}),
        (model, {"seed": 1}),
        (model, {"settings": HIGH}),
        (model, {"settings": changed}),
        (model, {"tries": 2, "scorer": lambda views: 0.0}),
        (model, {"turntable": False}),
        (other, {}),
        (told, {}),
    ):
        assert not lift_batch(which, ["a mug"], tmp_path, **settings).skipped
    assert len({path.stem for path in tmp_path.iterdir()}) == len(calls) == 8


def test_a_file_whose_report_is_lost_or_is_another_units_is_made_again(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    (path,) = lift_batch(model, ["a mug"], tmp_path).done
    report = path.with_suffix(".json")
    for text in ('{"unit": "another"}', "{", "[]"):
        report.write_text(text)
        assert lift_batch(model, ["a mug"], tmp_path).done == [path]
        assert lift_batch(model, ["a mug"], tmp_path).skipped == [path]
    assert len(calls) == 4


def test_a_set_that_was_killed_half_way_is_completed_and_not_lifted_again(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    child = os.fork()
    if not child:
        real = os.replace
        os.replace = lambda *p: os.kill(os.getpid(), 9) if str(p[1]).endswith(".glb") else real(*p)
        lift_batch(model, ["a mug"], tmp_path)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]) and not list(tmp_path.glob("*.glb"))
    done = lift_batch(model, ["a mug"], tmp_path)
    assert len(done.done) == 1 and not calls
    assert {path.suffix for path in tmp_path.iterdir()} == {".glb", ".json", ".webp"}


def test_what_fails_is_reported_with_its_reason_and_the_rest_goes_on(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = lift_batch(model, ["a blue mug", "a red loli", "zzz", "a car"], tmp_path)
    assert [path.name[:6] for path in done.done] == ["a-car-"] and stems(tmp_path) == ["a-car"]
    assert done.failed["a blue mug"] == "no surface in a blue mug." and "sexualise" in done.failed["a red loli"]
    assert "words that the model reads" in done.failed["zzz"] and "zzz" not in prompts_of(calls)


@pytest.mark.parametrize(
    "error", [OutputError("the disk is full"), MissingExtraError("needs x"), InputError("`tries` must be 1")]
)
def test_what_would_happen_to_all_ends_the_list(
    model: MultiViewPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[str] = []

    def fail(model: MultiViewPipeline, prompt: str, **settings: Any) -> Asset3D:
        asked.append(prompt)
        raise error

    monkeypatch.setattr(make_batch, "lift", fail)
    with pytest.raises(type(error), match=str(error)):
        lift_batch(model, LIST, tmp_path / "out")
    assert asked == LIST[:1] and not (tmp_path / "out").exists()


def test_a_suffix_that_is_no_meshs_is_refused(model: MultiViewPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`suffix` must be one of .glb, .obj, .ply, .stl, .usdz; got '.webp'"):
        lift_batch(model, LIST, tmp_path / "out", suffix=".webp")


def test_what_another_process_lifts_is_waited_for(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {path.stem.rpartition("-")[0]: path for path in lift_batch(model, LIST, tmp_path / "names").done}
    calls.clear()
    mug, car = there["a-red-mug"], there["a-car"]
    with holder(tmp_path / "out", mug.name, car.name) as other:
        assert other.stdout is not None and other.stdout.readline() == "[True, True]\n"
        looks = []

        def look(seconds: float) -> None:
            """At the first look the other has made the mug; at the second it is gone, with no car made."""
            looks.append(prompts_of(calls))
            if len(looks) == 1:
                for path in (mug, mug.with_suffix(".json")):
                    path.rename(tmp_path / "out" / path.name)
            else:
                other.kill()
                other.wait()

        monkeypatch.setattr("time.sleep", look)
        done = lift_batch(model, LIST, tmp_path / "out")
    assert looks == [["a duck"], ["a duck"]] and prompts_of(calls) == ["a duck", "a car"]
    assert [path.name for path in done.skipped] == [mug.name] and not done.failed


def test_the_shell_makes_a_list_goes_on_with_it_and_says_what_failed(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("viewfold.cli.lift.open_model", lambda *_, **__: tiny_model())
    monkeypatch.chdir(tmp_path)
    Path("things.txt").write_text("# toys\na red mug\n\na blue mug\n")
    command = ["lift", "--prompts", "things.txt", "--format", "ply", "--quality", "draft", "--seed", "7"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "out/things: 1 made, 0 there already, 1 failed\n  'a blue mug': no surface in a blue mug." in said.out
    assert "1 prompts could not be lifted; the rest is done." in said.err
    assert {path.suffix for path in (tmp_path / "out" / "things").iterdir()} == {".ply", ".json", ".webp"}
    assert (calls[0]["seed"], calls[0]["settings"].survey) == (7, DRAFT.survey)
    Path("things.txt").write_text("a red mug\n")
    assert main(command) == 0 and "0 made, 1 there already, 0 failed" in capsys.readouterr().out
    assert len(calls) == 2
    assert main([*command, "--turntable", "none", "--out", "still"]) == 0
    assert {path.suffix for path in Path("still").iterdir()} == {".ply", ".json"}


def test_a_place_that_cannot_be_written_is_told_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("a mug")
    assert main(["lift", "--prompts", "list.txt", "--out", "list.txt", "--model", "nowhere"]) == 4
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_a_list(tmp_path: Path) -> None:
    """From a blob, which needs no views: the tiny model's own show nothing."""
    tiny_model(tmp_path / "model")
    (tmp_path / "list.txt").write_text("\n".join(LIST))
    program = f"""
import sys
from dataclasses import replace
from viewfold import lift_batch, load
from viewfold.lifting.presets import MVDREAM_REDUCED as BASE
from viewfold.lifting.phase import Phase
settings = replace(BASE, distil=replace(BASE.distil, steps=2, phases=(Phase(size=16),)),
                   mesh=replace(BASE.mesh, resolution=16, faces=100, texture_size=16))
model = load(sys.argv[1] + "/model", device="cpu")
done = lift_batch(model, {LIST!r}, sys.argv[1] + "/out", settings=settings)
print(done.summary())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = [int(re.search(r"(\d+) made", out)[1]) for out, _ in said]  # type: ignore[index]
    assert sum(made) == len(LIST) and min(made) > 0, said
    assert stems(tmp_path / "out") == ["a-car", "a-duck", "a-red-mug"]
    assert len(list((tmp_path / "out").iterdir())) == 9
