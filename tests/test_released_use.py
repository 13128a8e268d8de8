"""From the shell, as somebody with released files would go: convert, train on, draw, lift, ask where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from released import heads_of, released
from safetensors.torch import save_file

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.data.toybox import Asset
from viewfold.pipeline import load
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

QUICK = ["--quality", "draft", "--steps", "1", "--texture", "32", "--faces", "300"]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Views of a toy: what networks of random weights draw shows no object."""
    cameras = Cameras.orbit(4)
    rendering = rasterize(Asset.of("mug", "red", "blue").mesh().fit_sphere(), cameras, size=32)
    return Views(rgb=rendering.over(0.5), cameras=cameras).save(tmp_path / "toy", turntable=False)


def smaller(folder: Path) -> Path:
    """Let a model draw 16 px, which is quick."""
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 8}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd21", "sd15"])
def test_a_converted_file_draws_lifts_and_says_where_it_comes_from(
    kind: str, tmp_path: Path, toy: Path, capsys: Any
) -> None:
    torch.save(released(kind), tmp_path / "file.pt")
    ((flag, value),) = heads_of(kind).items()
    model, asset = tmp_path / "model", tmp_path / "toy.glb"
    run("weights", "convert", tmp_path / "file.pt", "--to", model, f"--{flag.replace('_', '-')}", value)
    smaller(model)
    run("generate", "a mug", "--model", model, "--steps", 2, "--views", 2, "--out", tmp_path / "views")
    run("lift", "a mug", "--model", model, "--from", toy, *QUICK, "--out", asset)
    assert asset.read_bytes()[:4] == b"glTF"
    capsys.readouterr()
    run("provenance", "--json", tmp_path / "views" / "000.png", asset, asset.with_suffix(".webp"))
    records = [json.loads(line)["record"] for line in capsys.readouterr().out.splitlines()]
    assert {record["model"] for record in records} == {"model"}
    assert len({record["weights_sha256"] for record in records}) == 1


@pytest.mark.slow
def test_a_plain_2d_folder_is_trained_to_draw_views(tmp_path: Path, capsys: Any) -> None:
    save_file(released("sd15", camera=False), tmp_path / "plain.safetensors")
    plain, shards = tmp_path / "plain", tmp_path / "shards"
    run("weights", "convert", tmp_path / "plain.safetensors", "--to", plain, "--heads", heads_of("sd15")["heads"])
    draw = ["generate", "a mug", "--steps", "1", "--views", "2"]
    smaller(plain)
    assert main([*draw, "--model", str(plain), "--out", str(tmp_path / "no")]) == 2
    assert "plain 2D network. Train it with `viewfold train`" in capsys.readouterr().err
    run("doctor", "--model", plain)
    run("assets", 2, "--out", tmp_path / "assets")
    run("render", tmp_path / "assets", "--out", tmp_path / "renders", "--size", 16)
    run("pack", tmp_path / "renders", "--out", shards, "--latents", plain)
    run("train", shards, "--model", plain, "--steps", 2, "--batch", 1, "--out", tmp_path / "run")
    trained = tmp_path / "run" / "model"
    run(*draw, "--model", trained, "--out", tmp_path / "views")
    before, after = load(plain, device="cpu").unet, load(trained, device="cpu").unet
    assert before.class_embedding is None and after.class_embedding is not None
    assert after.class_embedding.linear_2.weight.any() and not torch.equal(before.conv_in.weight, after.conv_in.weight)
