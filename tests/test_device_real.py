"""The device itself, where there is one: what it computes is what the CPU computes.

Skipped without a CUDA device.  VIEWFOLD_TEST_DEVICE names another one; "cpu" tries these tests themselves.
Two processes over NCCL need two GPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from lift_fakes import ball_views
from test_lift import SMALL
from tiny_shards import write_shards

from viewfold.camera import Cameras
from viewfold.make import lift
from viewfold.pipeline.generation import generate
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.settings import LoopSettings

DEVICE = os.environ.get("VIEWFOLD_TEST_DEVICE", "cuda")
ROOT = Path(__file__).parents[1]
LOOP = LoopSettings(steps=3, precision="fp32", warmup=0, lr=1e-3, ema=0.5)

pytestmark = pytest.mark.skipif(
    DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="there is no CUDA device"
)


def train(out: Path, device: str, loop: LoopSettings) -> dict[str, torch.Tensor]:
    """Train the tiny network there; return its averaged weights on the CPU."""
    model = tiny_model().to(device)
    settings = DiffusionSettings(batch=3, loop=loop, objective=ObjectiveSettings(share_2d=0.4))
    trained = train_diffusion(
        model.unet, model.text, model.alphas_cumprod, out / "run", settings=settings,
        objects=write_shards(out / "objects"), pictures=write_shards(out / "pictures", posed=False),
    )  # fmt: skip
    assert all(value.device.type == torch.device(device).type for value in trained.network.state_dict().values())
    return {name: value.cpu() for name, value in trained.network.state_dict().items()}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Compute convolutions in float32, where cuDNN would by itself round to TF32."""
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    yield
    convolutions.fp32_precision = before


def strayed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return how far two trainings ended from each other, in parts of the way from where both began.

    Not the largest difference: where a gradient is nothing but rounding, AdamW takes whole steps in either direction.
    """
    start = tiny_model().unet.state_dict()
    apart = sum(float((a[name] - b[name]).square().sum()) for name in a)
    moved = sum(float((a[name] - start[name]).square().sum()) for name in a)
    return (apart / moved) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_generate_draws_what_the_cpu_draws(dtype: torch.dtype) -> None:
    here = generate(tiny_model(), "a red mug", steps=4, seed=3)
    model = tiny_model()
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(DEVICE, dtype)
    there = generate(model, "a red mug", steps=4, seed=3)
    assert there.rgb.device.type == "cpu" and torch.device(DEVICE).type in there.run["device"]
    assert float((there.rgb - here.rgb).abs().max()) < (0.02 if dtype == torch.float32 else 0.2)


def test_lift_makes_what_the_cpu_makes() -> None:
    settings = replace(SMALL, distil=replace(SMALL.distil, steps=3))
    drawn = []
    for device in ("cpu", DEVICE):
        asset = lift(tiny_model().to(device), "a red mug", views=ball_views(size=16), settings=settings)
        assert asset.report["faces"] > 0
        with torch.no_grad():
            drawn.append(asset.representation.render(Cameras.orbit(4, elevation_deg=20), size=16))
    assert float((drawn[0].alpha - drawn[1].alpha).abs().mean()) < 0.03
    assert float((drawn[0].rgb - drawn[1].rgb).abs().mean()) < 0.03


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_steps_are_those_of_the_cpu(optimizer: str, tmp_path: Path) -> None:
    loop = replace(LOOP, optimizer=optimizer, accumulate=2)
    here, there = train(tmp_path / "here", "cpu", loop), train(tmp_path / "there", DEVICE, loop)
    assert strayed(here, there) < 0.05


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(optimizer: str, tmp_path: Path) -> None:
    loop = replace(LOOP, optimizer=optimizer)
    whole = train(tmp_path / "whole", DEVICE, loop)
    train(tmp_path / "parts", DEVICE, replace(loop, steps=1))
    assert strayed(whole, train(tmp_path / "parts", DEVICE, loop)) < 0.02


def test_bfloat16_autocast_keeps_weights_and_averages_in_float32(tmp_path: Path) -> None:
    weights = train(tmp_path, DEVICE, replace(LOOP, precision="bf16"))
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in weights.values())


def cli(out: Path, *arguments: str, processes: int = 1) -> dict[str, Any]:
    """Train the tiny model by the command line, on so many GPUs; return the weights."""
    from safetensors.torch import load_file

    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", "viewfold.cli", "train", str(out / "objects"),
               "--model", str(out / "model"), "--device", "cuda", "--steps", "2", "--batch", "2",
               "--precision", "fp32", *arguments]  # fmt: skip
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}, check=True)
    return load_file(next(Path(arguments[1]).glob("model/unet/*.safetensors")))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_over_nccl_make_the_steps_of_one(parallel: str, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there are not two GPUs")
    tiny_model(tmp_path / "model")
    write_shards(tmp_path / "objects")
    common = "--parallel", parallel, "--optimizer", "adamw"
    one = cli(tmp_path, "--out", str(tmp_path / "one"), "--accumulate", "2", *common)
    two = cli(tmp_path, "--out", str(tmp_path / "two"), *common, processes=2)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 5e-3
