"""The networks, cameras and noise schedule reproduce numbers of the original code (tests/parity/README.md)."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.model.unet import MultiViewUNet
from viewfold.weights.convert import write_scheduler
from viewfold.weights.original import unet_from_original, vae_from_original

pytestmark = pytest.mark.parity

DATA = Path(__file__).parent / "parity"
UNETS = ("unet_small", "unet_sd21like", "unet_sd15like")
VIEWS = {"mv4": 4, "mode2d": 1, "mv1cam": 1, "mv6": 6, "mv4nocam": 4}
UNET_TOLERANCE = 2e-5  # absolute; the reference itself moves by 3.3e-6


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", DATA / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def numbers(name: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{name}.safetensors")


@cache
def facts(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text())


def original_weights(name: str) -> dict[str, Tensor]:
    stored = {key: value for key, value in numbers(name).items() if key.startswith("weights.")}
    if stored:
        return {key.removeprefix("weights."): value.float() for key, value in stored.items()}
    arrays = recipe().state_dict_for(facts(name)["shapes"], facts(name)["seed"])
    assert recipe().digest(arrays) == facts(name)["weights_sha256"]
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


@cache
def unet(name: str) -> MultiViewUNet:
    config = facts(name)["config"]
    return unet_from_original(
        original_weights(name), heads=config.get("num_heads"), head_channels=config.get("num_head_channels")
    )


def run_case(network: MultiViewUNet, data: dict[str, Tensor], case: str) -> tuple[Tensor, Tensor]:
    def by_object(key: str) -> Tensor:
        return data[f"{case}.{key}"].unflatten(0, (-1, VIEWS[case]))

    cameras = by_object("camera") if f"{case}.camera" in data else None
    with torch.no_grad():
        out = network(by_object("x"), by_object("timesteps")[:, 0], by_object("context"), cameras)
    return out, by_object("out")


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("name", UNETS)
def test_the_unet_equals_the_original(name: str, case: str) -> None:
    out, expected = run_case(unet(name), numbers(name), case)
    assert (out - expected).abs().max() <= UNET_TOLERANCE


@pytest.mark.parametrize("name", UNETS)
def test_every_tensor_of_the_original_is_used_once(name: str) -> None:
    assert sum(p.numel() for p in unet(name).parameters()) == facts(name)["n_params"]
    assert len(unet(name).state_dict()) == facts(name)["n_keys"]


@pytest.mark.parametrize("name", UNETS)
def test_norms_use_the_epsilons_of_the_original(name: str) -> None:
    for path, module in unet(name).named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            in_transformer = "attentions" in path
            assert (module.eps, module.num_groups) == (1e-6 if in_transformer else 1e-5, 32), path
        elif isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-5, path


@cache
def vae() -> torch.nn.Module:
    arrays = recipe().state_dict_for(facts("vae")["shapes"], facts("vae")["seed"])
    assert recipe().digest(arrays) == facts("vae")["weights_sha256"]
    return vae_from_original({key: torch.from_numpy(value) for key, value in arrays.items()})


def test_the_vae_posterior_equals_the_original() -> None:
    data = numbers("vae")
    with torch.no_grad():
        posterior = vae().encode(data["image"]).latent_dist  # type: ignore[operator]
    assert (posterior.mean - data["mean"]).abs().max() <= 2e-5
    assert (posterior.logvar - data["logvar"].clamp(-30, 20)).abs().max() <= 2e-5


def test_the_vae_decodes_as_the_original() -> None:
    data = numbers("vae")
    with torch.no_grad():
        decoded = vae().decode(data["z"]).sample  # type: ignore[operator]
    assert (decoded - data["decoded"]).abs().max() <= 2e-5


def test_cameras_equal_the_original_codes() -> None:
    checked = 0
    for entry in facts("camera")["get_camera"]:
        args = entry["args"]
        too_many = entry["shape"][0] != args["num_frames"]  # a defect of the original: one camera more than asked for
        elevation = float(args.get("elevation", 15))
        if too_many or not args.get("blender_coord", True) or abs(elevation) > 89.9:
            continue
        cameras = Cameras.orbit(
            args["num_frames"],
            elevation_deg=elevation,
            azimuth_deg=float(args.get("azimuth_start", 0)),
            span_deg=float(args.get("azimuth_span", 360)),
        )
        assert (cameras.code() - torch.tensor(entry["value"])).abs().max() <= 1e-6, args
        checked += 1
    assert checked >= 6


def test_the_converted_scheduler_has_the_noise_schedule_of_the_original(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    write_scheduler(tmp_path)
    data: dict[str, Any] = dict(numbers("ddim"))
    scheduler: Any = DDIMScheduler.from_pretrained(tmp_path)
    for ours, theirs in ((scheduler.betas, "betas"), (scheduler.alphas_cumprod, "alphas_cumprod")):
        torch.testing.assert_close(ours, data[f"schedule.{theirs}"].float(), rtol=1e-5, atol=0.0)
    noisy = scheduler.add_noise(data["q.x0"], data["q.noise"], data["q.t"])
    torch.testing.assert_close(noisy, data["q.x_t"].float(), rtol=1e-5, atol=1e-5)
    velocity = scheduler.get_velocity(data["q.x0"], data["q.noise"], data["q.t"])
    torch.testing.assert_close(velocity, data["q.v"].float(), rtol=1e-5, atol=1e-5)
