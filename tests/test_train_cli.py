"""`viewfold train`: its flags, its start, its stop, and the model that it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from fakes import tiny_model
from safetensors.torch import load_file
from tiny_shards import write_shards

from viewfold.cli import main
from viewfold.cli.command import VERBS
from viewfold.errors import InputError
from viewfold.model.weights_hash import hash_tensors
from viewfold.training.ranks import local_device
from viewfold.training.settings import LoopSettings


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a tiny model and shards of its latents."""
    model = tiny_model(tmp_path / "model")
    encoder = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
    write_shards(tmp_path / "objects", encoder=encoder)
    write_shards(tmp_path / "pictures", posed=False, encoder=encoder)
    return tmp_path


def command(place: Path, *flags: str, out: str = "run") -> list[str]:
    return ["train", str(place / "objects"), "--model", str(place / "model"), "--out", str(place / out),
            "--batch", "2", "--steps", "3", "--device", "cpu", *flags]  # fmt: skip


def report(place: Path, out: str = "run") -> dict[str, Any]:
    return json.loads((place / out / "run.json").read_text())


def test_every_setting_has_a_flag_that_reaches_it() -> None:
    flags = {
        "steps": 77, "minutes": 1.5, "optimizer": "adamw", "lr": 0.5, "warmup": 3, "schedule": "cosine",
        "weight_decay": 0.25, "clip": 0.75, "ema": 0.5, "accumulate": 3, "parallel": "fsdp", "precision": "fp32",
        "checkpoint_minutes": 2.5, "keep": 4, "check_steps": 9, "seed": 5, "read_ahead": 7,
    }  # fmt: skip
    spelled = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    verb: Any = tyro.cli(VERBS, args=["train", "objects", "--out", "run", *spelled])  # type: ignore[call-overload]
    settings = verb._loop()
    assert {name: getattr(settings, name) for name in flags} == flags
    assert {field.name for field in fields(LoopSettings)} - set(flags) == {"cooldown", "beta2"}
    cooling: Any = tyro.cli(VERBS, args=["train", "o", "--out", "r", "--cooldown", "7"])  # type: ignore[call-overload]
    assert cooling._loop().cooldown == 7


@pytest.mark.slow
def test_a_trained_model_is_a_folder_that_draws_and_the_rest_of_it_is_untouched(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, "--pictures", str(place / "pictures"))) == 0
    said = capsys.readouterr()
    assert "samples/s" in said.out and "waiting for data" in said.out and "of a large matrix product" in said.out
    model = str(place / "run" / "model")
    assert main(["generate", "a red mug", "--model", model, "--steps", "2", "--out", str(place / "views")]) == 0
    for part in ("vae", "text_encoder"):
        before, after = (load_file(next((folder / part).glob("*.safetensors"))) for folder in
                         (place / "model", place / "run" / "model"))  # fmt: skip
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    decides = report(place)["decides"]
    assert decides["batch"] == 2 and decides["objective"]["share_2d"] == 0.3 and decides["pictures"]["samples"] == 6


@pytest.mark.slow
def test_new_weights_depend_on_the_seed_alone_so_that_arms_of_an_ablation_start_alike(place: Path) -> None:
    starts = {}
    for name, flags in {"fold": [], "no-fold": ["--no-fold"], "other": ["--seed", "1"]}.items():
        torch.manual_seed(len(starts))  # whatever was drawn before
        assert main(command(place, "--fresh", *flags, out=name)) == 0
        starts[name] = report(place, name)["decides"]["start"]
    assert starts["fold"] == starts["no-fold"] != starts["other"]


@pytest.mark.slow
def test_a_plain_2d_network_gets_a_cameras_embedding_that_depends_on_the_seed_alone(place: Path) -> None:
    path = place / "model" / "unet" / "config.json"
    config = json.loads(path.read_text()) | {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    path.write_text(json.dumps(config))
    weights = next((place / "model" / "unet").glob("*.safetensors"))
    from safetensors.torch import save_file

    kept = {name: t for name, t in load_file(weights).items() if not name.startswith("class_embedding")}
    save_file(kept, weights, metadata={"format": "pt"})
    starts = []
    for out in ("one", "two"):
        torch.manual_seed(len(starts))
        assert main(command(place, out=out)) == 0
        starts.append(report(place, out)["decides"]["start"])
    assert starts[0] == starts[1]


@pytest.mark.slow
def test_a_model_that_inference_would_halve_is_trained_in_float32(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.pipeline import placement

    monkeypatch.setattr(placement, "LARGE_BYTES", 1)
    monkeypatch.setattr(placement, "has_native_bfloat16", lambda device: True)
    assert main(command(place, "--lr", "1e-7", "--warmup", "0", "--optimizer", "adamw")) == 0
    before, after = (load_file(next((folder / "unet").glob("*.safetensors"))) for folder in
                     (place / "model", place / "run" / "model"))  # fmt: skip
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    gap = (after["conv_in.weight"] - before["conv_in.weight"]).abs().max()
    assert 1e-8 < gap < 1e-6, "a step of 1e-7 is not lost"


def test_latents_are_cached_in_float32_compute(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold import pipeline

    asked = []
    original = pipeline.load
    monkeypatch.setattr(pipeline, "load", lambda *args, **options: asked.append(options) or original(*args, **options))
    renders = place / "renders"
    assert main(["assets", "1", "--out", str(place / "assets")]) == 0
    assert main(["render", str(place / "assets"), "--out", str(renders), "--size", "16", "--views", "4"]) == 0
    packed = ["pack", str(renders), "--out", str(place / "packed"), "--latents", str(place / "model")]
    assert main(packed) == 0 and asked[0]["dtype"] == torch.float32


@pytest.mark.slow
def test_other_settings_are_refused_and_can_be_insisted_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(place)) == 0
    assert main([*command(place, "--seed", "3"), "--steps", "4"]) == 2
    assert "seed was 0, is 3" in capsys.readouterr().err
    assert main([*command(place, "--seed", "3", "--override"), "--steps", "4"]) == 0
    model = tiny_model(place / "other", seed=9)
    assert model is not None
    wrong = [str(place / "other") if word == str(place / "model") else word for word in command(place)]
    assert main(wrong) == 2
    assert "model's own autoencoder" in capsys.readouterr().err


def test_a_network_of_nan_ends_with_an_error_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    weights = next((place / "model" / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["conv_out.bias"].fill_(torch.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert main(command(place)) == 3
    assert "conv_out.bias holds NaN" in capsys.readouterr().err and not (place / "run" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
def test_sheets_and_held_out_error_are_noted(fold: bool, place: Path) -> None:
    flags = [
        *([] if fold else ["--no-fold"]),
        "--held-out",
        str(place / "objects"),
        "--sheet",
        "a red mug",
        "a blue car",
        "--check-steps",
        "2",
    ]
    assert main(command(place, *flags)) == 0
    assert sorted(path.name for path in (place / "run" / "samples").iterdir()) == [
        f"0000000{step}-{name}.png" for step in (2, 3) for name in ("a-blue-car", "a-red-mug")
    ]
    from PIL import Image

    with Image.open(place / "run" / "samples" / "00000003-a-red-mug.png") as sheet:
        assert sheet.size == (64, 16), "four views beside each other"


@pytest.mark.slow
def test_a_sheet_has_the_views_that_are_trained(place: Path) -> None:
    assert main(command(place, "--views", "2", "--sheet", "a red mug")) == 0
    from PIL import Image

    with Image.open(place / "run" / "samples" / "00000003-a-red-mug.png") as sheet:
        assert sheet.size == (32, 16)


@pytest.mark.parametrize("sheet", [["a red mug", "a red mug!"], [""]])
def test_sheets_that_cannot_be_drawn_are_refused_before_the_first_step(
    sheet: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, "--sheet", *sheet)) == 2
    assert not (place / "run" / "log.jsonl").exists() and "must" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--pictures", "--held-out"])
def test_a_folder_that_is_not_there_is_refused(flag: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(place, flag, str(place / "nowhere"))) == 2
    assert f"`{flag}` must be a folder of shards" in capsys.readouterr().err


def start(arguments: list[str], *, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "viewfold.cli", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_a_line_and_a_code_of_its_own_and_the_run_goes_on(place: Path) -> None:
    endless = [*command(place), "--steps", "100000"]
    process = start(endless)
    log = place / "run" / "log.jsonl"
    try:
        until = time.monotonic() + 120
        while not log.exists() or len(log.read_text().splitlines()) < 3:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and "a checkpoint is saved" in errors and "Traceback" not in errors
    (newest,) = (place / "run").glob("checkpoint-*")
    done = int(newest.name[-8:])
    assert main([*command(place), "--steps", str(done + 2)]) == 0
    assert [json.loads(text)["step"] for text in log.read_text().splitlines()] == list(range(done + 2))


@pytest.mark.slow
def test_torchrun_trains_one_network_on_two_processes(place: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(command(place, "--fresh", "--pictures", str(place / "pictures")), launcher=launcher)
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    assert said.count("use it with --model") == 1
    assert report(place)["processes"] == 2 and report(place)["decides"]["parts"] == 2
    assert len((place / "run" / "log.jsonl").read_text().splitlines()) == 3
    assert (place / "run" / "model" / "model_index.json").is_file()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert local_device(None) is None and local_device("cuda:1") == "cuda:1", "alone, the user chooses"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device(None) == local_device("cuda") == torch.device("cuda:1") and taken == [1, 1]
    assert local_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cuda without a number"):
        local_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="a GPU for each process; process 2 of this machine finds 2"):
        local_device(None)
