"""Lists of prompts: what tells two units apart, what is refused before anything is drawn, and what is reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from test_claims import holder

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, OutputError
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline import MultiViewPipeline, batch, generate, generate_batch
from viewfold.pipeline.batch import BatchReport, folder_name, read_prompts
from viewfold.views import Views

FOUR = Cameras.orbit(4)


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Draw nothing, note what would have been drawn."""
    asked: list[dict[str, Any]] = []

    def fake(model: MultiViewPipeline, prompt: str, **settings: Any) -> Views:
        asked.append({"prompt": prompt, **settings})
        run = {"weights_sha256": "0" * 64, "dtype": "float32", "scheduler": "DDIMScheduler"}
        return Views(rgb=torch.zeros(len(settings["cameras"]), 3, 8, 8), cameras=settings["cameras"], run=run)

    monkeypatch.setattr(batch, "generate", fake)
    return asked


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_folder_tells_prompt_cameras_lens_and_every_setting_apart() -> None:
    base: dict[str, Any] = {"prompt": "a mug", "cameras": FOUR, "seed": 0, "steps": 30, "negative": ""}
    distance = float(FOUR.position[0].norm())
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "a  mug"},
        {"cameras": Cameras.orbit(4, fov_deg=41, distance=distance)},
        {"cameras": Cameras.orbit(4, elevation_deg=16)},
        {"cameras": Cameras.orbit(4, azimuth_deg=1)},
        {"cameras": Cameras.orbit(4, distance=distance + 0.01)},
        {"cameras": Cameras.orbit(3)},
        {"cameras": FOUR[[1, 0, 2, 3]]},
        {"seed": 1},
        {"steps": 31},
        {"negative": "x"},
        {"suffix": ", 3d asset"},
    ]
    names = [folder_name(**{**base, **change}) for change in changes]
    assert len(set(names)) == len(names)
    assert folder_name(**dict(reversed(base.items()))) == names[0], "the order of settings says nothing"


def test_poses_that_differ_by_rounding_alone_have_one_name() -> None:
    off = Cameras(world_from_camera=FOUR.world_from_camera + 1e-7, fov_deg=FOUR.fov_deg)
    minus = Cameras(world_from_camera=FOUR.world_from_camera - 1e-7, fov_deg=FOUR.fov_deg)
    assert len({folder_name("a mug", cameras=c) for c in (FOUR, off, minus)}) == 1


def test_a_name_can_be_read_and_has_a_bounded_length() -> None:
    name = folder_name("A  Red,  Mug!", cameras=FOUR)
    assert name.startswith("a-red-mug-") and len(name) == len("a-red-mug-") + 10
    words, _, digest = folder_name("x" * 39 + " y" * 300, cameras=FOUR).rpartition("-")
    assert words == "x" * 39 and len(digest) == 10
    assert folder_name("\u732b", cameras=FOUR).startswith("prompt-")


# What is asked for ----------------------------------------------------------------------------------------------------


def test_every_setting_reaches_the_model_and_what_is_left_out_is_its_own(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    generate_batch(model, ["a mug"], tmp_path)
    own = {"seed": 0, "steps": 30, "guidance": 7.5, "rescale": 0.0, "negative": "", "origin": ORIGIN}
    assert {name: calls[0][name] for name in own} == own and "suffix" not in calls[0]
    assert torch.equal(calls[0]["cameras"].code(), Cameras.orbit(4, elevation_deg=15).code())
    asked = {"seed": 3, "steps": 2, "guidance": 1.5, "rescale": 0.5, "negative": "a car", "suffix": " x"}
    asked |= {"origin": None, "cameras": Cameras.orbit(2)}
    generate_batch(model, ["a mug"], tmp_path / "other", **asked)
    assert {name: calls[1][name] for name in asked} == asked
    named = MultiViewPipeline(
        **model.components, guidance=2.0, steps=7, negative="n", suffix=", 3d", elevation_deg=40.0
    )
    generate_batch(named, ["a mug"], tmp_path / "third")
    own = {"guidance": 2.0, "steps": 7, "negative": "n", "suffix": ", 3d"}
    assert {name: calls[2][name] for name in own} == own
    torch.testing.assert_close(calls[2]["cameras"].elevation_deg, torch.full((4,), 40.0))
    generate_batch(named, ["a mug"], tmp_path / "fourth", suffix="", steps=1, guidance=0.0, negative="")
    own = {"guidance": 0.0, "steps": 1, "negative": "", "suffix": ""}
    assert {name: calls[3][name] for name in own} == own


def test_a_batch_draws_what_the_verb_draws(model: MultiViewPipeline, tmp_path: Path) -> None:
    (made,) = generate_batch(model, ["a red mug"], tmp_path, seed=3, steps=1).done
    torch.testing.assert_close(
        Views.load(made).rgb, generate(model, "a red mug", seed=3, steps=1).rgb, atol=0.003, rtol=0
    )


def test_a_setting_that_no_prompt_could_satisfy_stops_the_whole_list(model: MultiViewPipeline, tmp_path: Path) -> None:
    for bad in ({"steps": 0}, {"steps": 1001}, {"guidance": -1.0}, {"rescale": 2.0}, {"seed": -1}):
        with pytest.raises(InputError, match=f"`{next(iter(bad)).rstrip('s')}"):
            generate_batch(model, ["a mug", "a car"], tmp_path / "out", **bad)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_list_and_other_failures_do_not(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Path]] = []
    report = generate_batch(model, ["a mug", "a car"], tmp_path, progress=lambda *at: seen.append(at))
    assert [prompt for prompt, _ in seen] == ["a mug", "a car"] and [folder for _, folder in seen] == report.done

    def full(*_: object, **__: object) -> Path:
        raise OutputError("the disk is full")

    monkeypatch.setattr(Views, "save", full)
    with pytest.raises(OutputError, match="full"):
        generate_batch(model, ["a duck", "a chair"], tmp_path)


def test_a_prompt_that_cannot_be_made_is_reported_under_its_own_words(
    model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> Views:
        raise FitError("NaN at step 0")

    monkeypatch.setattr(batch, "generate", fail)
    assert generate_batch(model, ["a mug"], tmp_path).failed == {"a mug": "NaN at step 0"}


def test_the_summary_names_each_failure() -> None:
    report = BatchReport(done=[Path("a")], skipped=[Path("b"), Path("c")], failed={"x" * 80: "why", "y": "because"})
    assert report.summary().splitlines() == [
        "1 made, 2 there already, 2 failed",
        f"  {'x' * 60!r}: why",
        "  'y': because",
    ]
    assert BatchReport().summary() == "0 made, 0 there already, 0 failed"


# Going on -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "bfloat16"}, "type bfloat16, now float32"),
        ({"weights_sha256": "abcdef0123"}, "weights abcdef01, now [0-9a-f]{8}"),
        ({"scheduler": "EulerDiscreteScheduler"}, "scheduler EulerDiscreteScheduler, now DDIMScheduler"),
        ({"lora": [{"file": "x", "scale": 0.5, "sha256": "12345678ff"}]}, "LoRA x:0.5 12345678, now none"),
    ],
)
def test_a_finished_folder_of_another_maker_is_refused_before_anything_is_drawn(
    model: MultiViewPipeline, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    (made,) = generate_batch(model, ["a red mug"], tmp_path, steps=1).done
    run = json.loads((made / "run.json").read_text())
    (made / "run.json").write_text(json.dumps({**run, **change}))
    with pytest.raises(InputError, match=says):
        generate_batch(model, ["a car", "a red mug"], tmp_path, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


# Shared work ----------------------------------------------------------------------------------------------------------


def test_what_another_process_draws_is_waited_for_and_taken_over_when_that_is_gone(
    model: MultiViewPipeline, calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ["a mug", "a car", "a duck"]
    generate_batch(model, shared, tmp_path / "names")
    names = {prompt: next((tmp_path / "names").glob(prompt.replace(" ", "-") + "-*")).name for prompt in shared}
    calls.clear()
    with holder(tmp_path / "out", names["a mug"], names["a car"]) as other:
        assert other.stdout is not None and other.stdout.readline() == "[True, True]\n"
        looks = []

        def look(seconds: float) -> None:
            """At the first look the other has made the mug; at the second it is gone, with no car made."""
            looks.append([call["prompt"] for call in calls])
            if len(looks) == 1:
                (tmp_path / "names" / names["a mug"]).rename(tmp_path / "out" / names["a mug"])
            else:
                other.kill()
                other.wait()

        monkeypatch.setattr("time.sleep", look)
        report = generate_batch(model, shared, tmp_path / "out")
    assert looks == [["a duck"], ["a duck"]]
    assert [call["prompt"] for call in calls] == ["a duck", "a car"]
    assert [path.name for path in report.skipped] == [names["a mug"]] and not report.failed
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names.values())


@pytest.mark.slow
def test_two_processes_share_a_list(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    prompts = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("mug", "car")]
    (tmp_path / "list.txt").write_text("\n".join(prompts))
    command = [sys.executable, "-m", "viewfold.cli", "generate", "--prompts", str(tmp_path / "list.txt"), "--device"]
    command += ["cpu", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--steps", "100"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = [int(re.search(r"(\d+) made", out)[1]) for out, _ in said]  # type: ignore[index]
    assert sum(made) == len(prompts) and min(made) > 0, made
    assert sorted(path.name.rpartition("-")[0] for path in (tmp_path / "out").iterdir()) == sorted(
        prompt.replace(" ", "-") for prompt in prompts
    )


# Files of prompts -----------------------------------------------------------------------------------------------------


def test_a_file_of_prompts_is_bounded_and_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_text("  a caf\u00e9 table # 2\r\n\n#x\na car", encoding="utf-8")
    assert read_prompts(path) == ["a caf\u00e9 table # 2", "a car"]
    monkeypatch.setattr(limits, "PROMPT_FILE_BYTES", path.stat().st_size)
    assert len(read_prompts(path)) == 2
    monkeypatch.setattr(limits, "PROMPT_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="at most .* bytes"):
        read_prompts(path)
