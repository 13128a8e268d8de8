"""The command keeps its work beside the result: asked to stop or killed, the same command ends in the same files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_model
from lift_fakes import ball, ball_views
from test_lift_resume import SMALL, Killed, kill_at
from test_stopping import terminal  # noqa: F401

from viewfold import make
from viewfold.camera import Cameras
from viewfold.cli import lift as lift_cli
from viewfold.cli import main
from viewfold.lifting.keeping import Keeper
from viewfold.lifting.survey import Survey
from viewfold.views import Views


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and true views of a ball."""
    made = tmp_path_factory.mktemp("kept")
    tiny_model(made / "tiny")
    ball_views().save(made / "views", turntable=False)
    return made


def reporting(progress: Callable[[str, int, int], None]) -> Any:
    @contextmanager
    def bars() -> Iterator[Callable[[str, int, int], None]]:
        yield progress

    return bars


def files(out: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """Return the mesh, the turntable, and what the report says but for seconds and memory."""
    report = json.loads(out.with_suffix(".json").read_text())
    del report["seconds"], report["peak_memory_mib"]
    return out.read_bytes(), out.with_suffix(".webp").read_bytes(), report


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
def test_the_command_stops_is_held_to_its_settings_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("viewfold.lifting.presets.STANDARD", replace(SMALL, polish=replace(SMALL.polish, steps=0)))
    stages: list[str] = []

    def run(name: str, *options: str, stop: bool = False) -> int:
        def progress(stage: str, step: int, total: int) -> None:
            stages.append(stage)
            if stop and (stage, step) == ("distil", 1):
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(lift_cli, "progress_bars", reporting(progress))
        told = ["--model", str(folder / "tiny"), "--from", str(folder / "views"), "--out", str(tmp_path / name)]
        return main(["lift", "a red ball", *told, *options])

    assert run("whole/ball.glb") == 0 and not (tmp_path / "whole" / "ball.lift").exists()
    assert run("ball.glb", "--previews", stop=True) == 143
    said = capsys.readouterr().err
    assert f"{tmp_path / 'ball.lift'} keeps the work; the same command goes on from there." in said
    assert not (tmp_path / "ball.glb").exists()
    kept = {path.name for path in (tmp_path / "ball.lift").iterdir()} - {".lock"}
    assert kept == {"record.json", "fit.0.state", "distil.0.state", "preview.webp"}
    assert run("ball.glb", "--seed", "3", "--texture", "64") == 2
    said = capsys.readouterr().err
    assert "`--out` must be resumed with the settings that" in said
    assert "seed was 0, is 3; settings.mesh.texture_size was 32, is 64." in said and "remove that folder" in said
    stages.clear()
    assert run("ball.glb") == 0 and "note: the lift goes on from what" in capsys.readouterr().err
    assert "fit" not in stages and stages.count("distil") == SMALL.distil.steps - 2 + 1
    assert files(tmp_path / "ball.glb") == files(tmp_path / "whole" / "ball.glb")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "ball.glb", "ball.json", "ball.webp"}


def test_views_are_drawn_once_and_signed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def generate(model: Any, prompt: str, *, seed: int, cameras: Any, given: Views | None = None, **_: Any) -> Views:
        asked.append(len(cameras))
        cameras = cameras if given is None else Cameras.cat([given.cameras, cameras])
        return Views(rgb=ball(cameras, size=32)[0], cameras=cameras, prompt=prompt, run={"seconds": 0.1})

    monkeypatch.setattr(make, "generate", generate)
    model = tiny_model()
    settings = replace(SMALL, survey=Survey(views=6), distil=replace(SMALL.distil, steps=1))
    told: dict[str, Any] = {"settings": settings, "tries": 2, "scorer": lambda views: float(views.rgb.mean())}
    with pytest.raises(Killed):
        make.lift(model, "a red mug", **told, keeper=Keeper(tmp_path), progress=kill_at("mesh", 0))
    assert asked == [4, 4, 2], "two tries, and the others around one"
    found = make.lift(model, "a red mug", **told, keeper=Keeper(tmp_path))
    assert len(asked) == 3
    whole = make.lift(model, "a red mug", **told)
    assert asked[3:] == [4, 4, 2] and found.views.run == whole.views.run and len(found.views) == 6
    assert found.label == whole.label and found.views.label == whole.views.label
    assert found.report["faces"] == whole.report["faces"]


@pytest.mark.slow
def test_a_process_that_is_killed_at_any_moment_ends_in_the_same_files(tmp_path: Path) -> None:
    """The shipped model, a small grid; SIGKILL soon after each kind of state, then one run is left to end."""
    options = ["--quality", "draft", "--steps", "8", "--faces", "500", "--texture", "128", "--seed", "1"]
    program = (
        "import functools, sys; from dataclasses import replace\n"
        "from viewfold.cli import main; from viewfold.lifting import keeping, presets, stages\n"
        "grid, mesh = stages.GridSettings(resolution=24, samples=24), stages.MeshSettings(resolution=32)\n"
        "told = {'representation': grid, 'mesh': mesh, 'fit': stages.FitSettings(steps=20)}\n"
        "presets.DRAFT = replace(presets.DRAFT, **told)\n"
        "keeping.keeping = functools.partial(keeping.keeping, every_s=0.0)\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, "lift", "a red mug", *options, "--out", str(tmp_path / name)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)

    assert start("whole/mug.glb").wait() == 0
    moments = random.Random(0)
    for state in ("first-1", "fit", "distil"):
        process = start("mug.glb")
        while process.poll() is None and not list((tmp_path / "mug.lift").glob(f"{state}.*.state")):
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.0, 0.5))
        assert process.returncode is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    assert start("mug.glb").wait() == 0
    assert files(tmp_path / "mug.glb") == files(tmp_path / "whole" / "mug.glb")
    assert not (tmp_path / "mug.lift").exists()
