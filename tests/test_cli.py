"""The command line: help at once, results where it says, and every foreseen failure as one line and an exit code."""

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from viewfold.cli import command, main, option
from viewfold.errors import FitError, InputError, OutputError


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A verb that fails as it is told."""

    error: BaseException
    views: int = 0
    head_channels: int = 0

    def run(self) -> None:
        raise self.error


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: Failing(error=error))
    return main([])


@pytest.mark.parametrize("arguments", [[], ["sing"], ["generate", "mug", "--veiws", "3"], ["assets", "many"]])
def test_a_wrong_command_line_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("`n_views` must lie between 1 and 256; got 0."), 2, "`--views` must lie between 1 and 256; got 0."),
        (InputError("`head_channels` or `heads` must be given."), 2, "`--head-channels` or `heads` must be given."),
        (FitError("the fit diverged."), 5, "the fit diverged."),
        (OutputError("`out/x.glb` cannot be written: no space."), 4, "`out/x.glb` cannot be written"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 4, "`out/x` could not be used: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 4, "permission denied"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "not enough memory"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fail_with(error, monkeypatch) == code
    message = capsys.readouterr().err
    assert says in message
    assert message.startswith("viewfold: ") and message.count("\n") == 1 and "Traceback" not in message


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        fail_with(RuntimeError("shape mismatch"), monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "a mug", "--views", "0"], "`--views` must lie between 1 and 256; got 0"),
        (["generate", "a mug", "--views", "1000"], "`--views` must lie between 1 and 256; got 1000"),
        (["generate", "a mug", "--elevation", "95"], "`--elevation` must lie between"),
        (["generate"], "`PROMPT` must be given"),
        (["generate", "a mug", "--prompts", "list.txt"], "`PROMPT` must be given"),
        (["generate", "a mug", "--elevation", "nan"], "`--elevation` must be finite; got nan"),
        (["generate", "a mug", "--prompts", "nowhere.txt"], "`PROMPT` must be given"),
        (["generate", "--prompts", "nowhere.txt"], "`--prompts` must be a text file"),
        (["lift"], "`PROMPT` must be given"),
        (["lift", "a mug", "--prompts", "list.txt"], "`PROMPT` must be given, or a file of them with `--prompts`"),
        (["lift", "--prompts", "nowhere.txt"], "`--prompts` must be a text file"),
        (["lift", "--prompts", "list.txt", "--from", "views"], "`--from` must be left out with `--prompts`"),
        (["lift", "--prompts", "list.txt", "--out", "mug.glb"], "`--out` must be a folder with `--prompts`"),
        (["lift", "a mug", "--format", "obj"], "`--format` must go with `--prompts`"),
        (["lift", "a mug", "--out", "mug.fbx"], "`--out` must end in .glb"),
        (["lift", "a mug", "--guidance", "nan"], "`--guidance` must be a finite number"),
        (["lift", "a mug", "--faces", "0"], "`--faces` must lie between"),
        (["lift", "a mug", "--texture", "0"], "`--texture` must lie between"),
        (["lift", "a mug", "--splats"], "`--splats` must come with `--representation` gaussians"),
        (["lift", "a mug", "--splats", "--representation", "sdf"], "`--splats` must come with"),
        (["lift", "a mug", "--quality", "mvdream", "--representation", "gaussians"], "`--representation` must not be"),
        (["render", "nowhere", "--out", "renders"], "`FOLDER` must be a folder of assets"),
        (["render", ".", "--out", "renders", "--views", "1000"], "`--views` must lie between 1 and 256"),
        (["assets", "0", "--out", "assets"], "`COUNT` must be 1 or more"),
        (["train", "nowhere", "--out", "run"], "`OBJECTS` must be a folder of shards"),
    ],
)
def test_a_value_out_of_range_names_its_flag(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lift", "a mug", "--from", "nowhere"], "`--from` must be a folder"),
        (["lift", "a mug", "--from", "."], "holds no transforms.json"),
        (["generate", "a mug", "--model", ""], "`--model` must be toybox, mvdream-sd21, mvdream-sd15"),
        (["generate", "a mug", "--model", "nowhere"], "`--model` must be"),
        (["weights", "show", "nowhere.pt"], "`FILE` must be a file of weights"),
        (["weights", "convert", "nowhere.pt", "--to", "model", "--heads", "8"], "nowhere.pt"),
    ],
)
def test_a_missing_file_is_named(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model on disk."""
    from fakes import tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(folder)
    return str(folder)


def test_generate_writes_views_where_it_says(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mug"
    arguments = ["--model", model, "--views", "3", "--steps", "2", "--seed", "4", "--out", str(out)]
    assert main(["generate", "a red mug", *arguments]) == 0
    assert str(out) in capsys.readouterr().out
    assert {"000.png", "002.png", "contact.png", "transforms.json", "run.json"} <= {p.name for p in out.iterdir()}
    assert json.loads((out / "run.json").read_text())["settings"]["seed"] == 4


def test_a_file_of_prompts_is_resumed(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a red mug\n\na green car\n")
    arguments = [
        "--prompts",
        str(listed),
        "--model",
        model,
        "--steps",
        "1",
        "--views",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["generate", *arguments]) == 0
    assert "2 made, 0 there already" in capsys.readouterr().out
    assert main(["generate", *arguments]) == 0
    assert "0 made, 2 there already" in capsys.readouterr().out


def test_what_the_model_cannot_read_of_a_prompt_is_said(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model, "--steps", "1", "--views", "1", "--out", str(tmp_path / "out")]
    assert main(["generate", "a red mug " + "with a green car " * 5, *arguments]) == 0
    assert "note: the prompt is longer than" in capsys.readouterr().err
    assert main(["generate", "  ", *arguments]) == 2
    assert "`PROMPT` must" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "gaussians"])
def test_lift_writes_a_mesh_a_turntable_and_a_report(
    kind: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From true renders of a toy: the tiny model's own pictures show nothing."""
    import torch

    from viewfold.camera import Cameras
    from viewfold.data.toybox import Asset
    from viewfold.scene.rasterize import rasterize
    from viewfold.views import Views

    cameras = Cameras.orbit(4)
    rendering = rasterize(Asset.of("mug", "red", "blue").mesh().fit_sphere(), cameras, size=32)
    Views(rgb=rendering.over(0.5), cameras=cameras).save(tmp_path / "views", turntable=False)
    out = tmp_path / "toy.glb"
    arguments = [
        "--model",
        model,
        "--from",
        str(tmp_path / "views"),
        "--steps",
        "1",
        "--texture",
        "64",
        "--faces",
        "2000",
    ]
    arguments += [] if kind == "grid" else ["--representation", kind]
    arguments += ["--splats"] if kind == "gaussians" else ["--maps", "--turntable", "none"]
    assert main(["lift", "a red mug", *arguments, "--out", str(out)]) == 0
    assert str(out) in (said := capsys.readouterr().out)
    assert out.with_suffix(".splats.ply").is_file() == ("toy.splats.ply" in said) == (kind == "gaussians")
    assert out.read_bytes()[:4] == b"glTF"
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["settings"]["distil"]["steps"] == 1 and report["faces"] <= 2000
    assert report["settings"]["representation"]["kind"] == kind
    assert out.with_suffix(".webp").is_file() == ("turntable toy.webp" in said) == (kind == "gaussians")
    assert out.with_suffix(".maps").is_dir() == ("maps toy.maps" in said) == (kind == "grid")
    assert torch.isfinite(torch.tensor(report["rerender_psnr_db"]))


def test_an_output_that_cannot_be_written_exits_with_four(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["--model", model, "--steps", "1", "--views", "1", "--out", str(tmp_path / "file" / "mug")]
    assert main(["generate", "a red mug", *arguments]) == 4
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_what_sampling_refuses_names_its_flag(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for options, says in (
        (["--seed", "-1"], "`--seed` must lie between 0 and 2^63 - 1; got -1."),
        (["--steps", "0"], "`--steps` must lie between 1 and 1000; got 0."),
        (["--guidance", "nan"], "`--guidance` must be a finite number of at least 0; got nan."),
        (["--device", "cuda"], "`--device` must be one that PyTorch finds on this machine; got 'cuda'"),
    ):
        assert main(["generate", "a red mug", "--model", model, *options]) == 2
        assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_would_run_code_are_refused_by_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, ("ran",)

    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "evil.pt")
    for arguments in (
        ["generate", "a mug", "--model", "evil.pt"],
        ["weights", "convert", "evil.pt", "--to", "model", "--heads", "8"],
        ["weights", "show", "evil.pt"],
    ):
        assert main(arguments) == 3
        assert "evil.pt would run code when opened" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_stopping_in_the_middle_leaves_nothing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from viewfold import views

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(views, "contact_sheet", stopped)
    arguments = ["--model", model, "--steps", "1", "--views", "1", "--out", str(tmp_path / "out")]
    assert main(["generate", "a red mug", *arguments]) == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_assets_become_renders_become_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assets, renders, shards = (str(tmp_path / name) for name in ("assets", "renders", "shards"))
    commands = [
        ["assets", "2", "--out", assets],
        ["render", assets, "--out", renders, "--size", "16", "--views", "2", "--orbits", "1"],
        ["pack", renders, "--out", shards],
    ]
    for arguments in commands:
        assert main(arguments) == 0
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 1
    assert "2 samples packed into 1 shards" in capsys.readouterr().out
    assert main(commands[0]) == 0
    assert "0 assets written, 2 were there already" in capsys.readouterr().out


def test_assets_that_cannot_be_used_are_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assets", "1", "--out", str(tmp_path / "assets")]) == 0
    (tmp_path / "assets" / "broken.glb").write_bytes(b"glTF")
    arguments = ["render", str(tmp_path / "assets"), "--out", str(tmp_path / "renders"), "--size", "8", "--views", "1"]
    assert main(arguments) == 3
    output = capsys.readouterr()
    assert "1 assets rendered" in output.out and "broken.glb" in output.err


def test_slugs_are_safe_names() -> None:
    assert option.slug("A red mug!") == "a-red-mug"
    assert option.slug("../../etc/passwd") == "etc-passwd"
    assert option.slug("???") == "untitled"
    assert len(option.slug("very " * 100)) <= 48


@pytest.mark.parametrize("length", [1, 10**6])
def test_a_closed_pipe_is_no_error(length: int) -> None:
    """`viewfold ... | head`: whether the reader leaves in the middle of the output or before the last of it."""
    code = (
        "import sys; from viewfold.cli import command\n"
        f"class Verb: run = lambda self: print('x' * {length})\n"
        "command.tyro.cli = lambda *_, **__: Verb()\n"
        "sys.exit(command.main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(), errors) == (0, "")
