"""Runs of `viewfold render`: shared, limited, stopped, and with options that mean nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from viewfold.cli import main
from viewfold.data.render import RenderSettings, render_assets
from viewfold.errors import InputError
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.mesh import Mesh

SETTINGS = RenderSettings(size=16, views=2)


def toy(folder: Path, uid: str) -> None:
    mesh = Mesh(
        vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        faces=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    )
    to_trimesh(mesh).export(folder / f"{uid}.glb")
    (folder / f"{uid}.json").write_text(json.dumps({"captions": [uid]}))


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    for uid in ("one", "two"):
        toy(folder, uid)
    return folder


def test_a_folder_of_other_settings_is_refused_by_name_and_left_alone(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render_assets(assets, out, settings=SETTINGS)
    before = {path: path.read_bytes() for path in out.glob("*/*")}
    toy(assets, "three")
    with pytest.raises(
        InputError, match="`out` must hold renders of these settings; .* has `size` 16, not 8, `views` 2"
    ):
        render_assets(assets, out, settings=dataclasses.replace(SETTINGS, size=8, views=3))
    assert {path: path.read_bytes() for path in out.glob("*/*")} == before
    (out / "one" / "meta.json").write_text('{"views": null}')
    with pytest.raises(InputError, match="does not say how it was made"):
        render_assets(assets, out, settings=SETTINGS)


def test_what_another_process_is_at_is_left_to_it_and_taken_over_when_it_dies(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; from viewfold.store import Claims; claims = Claims(sys.argv[1])"
    code += "; claims.take('one'); print(flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(out)]
    seen: list[tuple[int, int]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()

        def progress(done: int, total: int) -> None:
            seen.append((done, total))
            if done == 1:
                assert not (out / "one").exists() and (out / "two" / "meta.json").is_file()
                other.kill()

        report = render_assets(assets, out, settings=SETTINGS, progress=progress)
    assert (report.done, report.skipped, report.failed) == (2, 0, []) and seen == [(1, 2), (2, 2)]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.sqlite", "one", "two"]


@pytest.mark.slow
def test_two_runs_on_one_folder_share_the_work(assets: Path, tmp_path: Path) -> None:
    for i in range(20):
        toy(assets, f"more {i}")
    command = [
        sys.executable,
        "-m",
        "viewfold.cli",
        "render",
        str(assets),
        "--out",
        str(tmp_path / "out"),
        "--size",
        "8",
    ]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    counts = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    done = [int(count.split(": ")[1].split()[0]) for count in counts]
    assert sum(done) == 22 and len(list((tmp_path / "out").glob("*/meta.json"))) == 22
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")) == []


@pytest.mark.slow
def test_an_asset_that_takes_too_long_is_named_and_leaves_nothing_behind(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = Mesh(
        vertices=torch.tensor([[-1.0, 0, -1], [1, 0, -1], [0, 0, 1]]),
        faces=torch.tensor([[0, 1, 2]]).repeat(400_000, 1),  # each covers the picture
    )
    (assets / "stack.txt").write_text("a stack")
    (tmp_path / "stack.glb").write_bytes(to_trimesh(stack).export(file_type="glb"))  # pyright: ignore[reportArgumentType]
    arguments = ["--out", str(tmp_path / "out"), "--retries", "0", "--size", "256"]
    assert main(["render", str(assets), *arguments]) == 0
    (tmp_path / "stack.glb").rename(assets / "stack.glb")
    assert main(["render", str(assets), *arguments, "--timeout", "0.5"]) == 3  # to read it alone takes longer
    shown = capsys.readouterr()
    assert "stack.glb: it took more than 0.5 s" in shown.err and "2 were there" in shown.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_a_run_and_its_processes_and_leaves_nothing_half_done(
    assets: Path, tmp_path: Path, workers: str
) -> None:
    for i in range(200):
        toy(assets, f"more {i}")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "viewfold.cli", "render", str(assets), "--out", str(out), "--workers", workers]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        while not list(out.glob("*/meta.json")):
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=20)
    assert run.returncode == 130 and "Traceback" not in errors and "stopped" in errors
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()
    assert all((folder / "meta.json").is_file() for folder in out.iterdir() if folder.is_dir())
    assert subprocess.run(["pgrep", "-f", str(out)], capture_output=True, check=False).stdout == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "4"], "`--samples` must go with `--engine` blender; got builtin"),
        (["--gpu", "--engine", "moderngl"], "`--gpu` must go with `--engine` blender; got moderngl"),
        (["--blender", "x"], "`--blender` must go with"),
        (["--timeout", "0"], "`--timeout` must be more than 0"),
        (["--memory", "-1"], "`--memory` must be more than 0"),
        (["--engine", "blender", "--blender", "/none"], "pip install bpy==5.0.1"),
        (["--engine", "blender", "--light", "none", "--hdri", "x"], "`--hdri` must go with light"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["render", str(assets), "--out", str(tmp_path / "out"), *arguments]) in (2, 6)
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_processes_that_begin_a_manifest_at_once_all_have_it(tmp_path: Path) -> None:
    """One makes its tables; the others neither drop them nor stumble over them."""
    gate = tmp_path / "gate"
    code = (
        "import sys; from pathlib import Path; from viewfold.data.manifest import Manifest\n"
        "print(flush=True)\n"
        "while not Path(sys.argv[1], 'gate').exists(): pass\n"
        "for i in range(40):\n"
        "    with Manifest(Path(sys.argv[1], str(i))): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for run in runs:
        assert run.stdout is not None
        run.stdout.readline()
    gate.touch()
    assert [(run.communicate()[1], run.returncode) for run in runs] == [("", 0)] * 3
