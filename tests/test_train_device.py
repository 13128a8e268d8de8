"""Training where the network is: nothing of a step, of an average or of a resumed run is left on another device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model, tiny_unet
from second_device import move, on, second_device
from tiny_shards import write_shards

from viewfold.training import loop as training
from viewfold.training.autoencoder import AutoencoderSettings, make_autoencoder, train_autoencoder
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.run import Run
from viewfold.training.settings import LoopSettings

LOOP = LoopSettings(steps=2, precision="fp32", warmup=0, lr=1e-3, ema=0.5)


def train(
    tmp_path: Path, device: torch.device | str, loop: LoopSettings, *, checked: bool = False, **options: Any
) -> tuple[Any, Run]:
    """Train the tiny network there, with a held-out error if asked; return it and the state of its run."""
    runs: list[Run] = []

    class Kept(Run):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            runs.append(self)

    model, network = tiny_model(), tiny_unet()
    torch.manual_seed(0)
    network.load_state_dict({name: torch.randn_like(value) * 0.1 for name, value in network.state_dict().items()})
    move(model, device)  # type: ignore[arg-type]
    move(network, device)  # type: ignore[arg-type]
    settings = DiffusionSettings(batch=2, loop=loop, objective=ObjectiveSettings(share_2d=0.4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Run", Kept)
        trained = train_diffusion(
            network, model.text, model.alphas_cumprod, tmp_path / str(device), settings=settings,
            objects=write_shards(tmp_path / "objects"), pictures=write_shards(tmp_path / "pictures", posed=False),
            held_out=tmp_path / "objects" if checked else None, **options,
        )  # fmt: skip
    return trained.network, runs[0]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_network_on_another_device_takes_the_steps_that_it_would_take_here(optimizer: str, tmp_path: Path) -> None:
    loop = replace(LOOP, optimizer=optimizer, accumulate=2)
    here, _ = train(tmp_path, "cpu", loop, checked=True)
    expected = {name: value.clone() for name, value in here.state_dict().items()}
    with second_device() as device:
        there, run = train(tmp_path, device, loop, checked=True)
        assert on(device, there) and on(device, run.ema.weights)
        assert all(on(device, value) for value in run.optimizer.state().values() if value.ndim)
        for name, value in there.state_dict().items():
            assert torch.allclose(value.cpu(), expected[name], atol=2e-3 if optimizer == "muon" else 1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_is_all_on_the_device_and_exact(optimizer: str, tmp_path: Path) -> None:
    loop = replace(LOOP, optimizer=optimizer)
    with second_device() as device:
        whole, _ = train(tmp_path / "whole", device, loop)
        train(tmp_path / "parts", device, replace(loop, steps=1))
        resumed, run = train(tmp_path / "parts", device, loop)
        assert on(device, resumed) and on(device, run.ema.weights)
        assert all(on(device, value) for value in run.optimizer.state().values() if value.ndim)
        expected = whole.state_dict()
        assert all(torch.equal(expected[name].cpu(), value.cpu()) for name, value in resumed.state_dict().items())


@pytest.mark.slow
def test_a_step_waits_for_the_device_once(tmp_path: Path) -> None:
    waits: list[str] = []
    with second_device(waits) as device:
        counts = []
        train(tmp_path, device, replace(LOOP, steps=6), progress=lambda status: counts.append(len(waits)))
        a_step = [later - earlier for earlier, later in zip(counts[2:], counts[3:], strict=False)]
        assert set(a_step) == {1}, waits[counts[2] : counts[3]]


@pytest.mark.slow
def test_the_autoencoder_is_trained_and_normalised_on_the_device(tmp_path: Path) -> None:
    settings = AutoencoderSettings(channels=(8, 16), latent_channels=3, batch=4)
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here = train_autoencoder(pictures, tmp_path / "here", settings=settings, loop=replace(LOOP, optimizer="adamw"))
    start = make_autoencoder(settings, image_size=16)
    with second_device() as device:
        loop = replace(LOOP, optimizer="adamw")
        there = train_autoencoder(pictures, tmp_path / "there", settings=settings, loop=loop, start=move(start, device))
        assert on(device, there)
        moved = {name: value.cpu() for name, value in there.state_dict().items()}
        off = {name: float((moved[name] - value).abs().max()) for name, value in here.state_dict().items()}
        # A bias before a norm has no gradient but rounding, whose sign AdamW follows: by the rate at each of two steps.
        assert max(off.values()) <= 2 * loop.lr, off
        assert sum(difference < 1e-5 for difference in off.values()) >= 0.9 * len(off), off
