"""Training: the objective's closed forms, exact resume, averaged weights, the normalised VAE."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewfold.errors import AssetError, FitError, InputError, WeightsError
from viewfold.guidance import velocity
from viewfold.train.autoencoder import (
    AutoencoderSettings,
    make_autoencoder,
    normalise_latents,
    reconstruction_loss,
    train_autoencoder,
)
from viewfold.train.loop import Ema, LoopSettings, fit, learning_rate, step_generator
from viewfold.train.objective import ObjectiveSettings, diffusion_loss, drop, loss_weight, n_pictures
from viewfold.train.optimizer import Optimizer

ALPHAS = torch.linspace(0.999, 0.001, 1000)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_truth_has_no_loss(prediction: str) -> None:
    clean = torch.randn(6, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def oracle(x: Tensor, t: Tensor, text: Tensor, cameras: Tensor | None) -> Tensor:
        alpha_bar = ALPHAS[t]
        shape = (-1, 1, 1, 1, 1)
        noise = (x - alpha_bar.sqrt().reshape(shape) * clean) / (1 - alpha_bar).sqrt().reshape(shape)
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity(clean, noise, alpha_bar)}[prediction]

    settings = ObjectiveSettings(prediction=prediction)  # type: ignore[arg-type]
    loss = diffusion_loss(
        oracle, clean, torch.zeros(6, 1, 1), None, alphas_cumprod=ALPHAS, settings=settings,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert loss.item() < 1e-6


def test_all_views_of_an_object_share_a_time_step_and_objects_cover_the_schedule() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, t: Tensor, text: Tensor, cameras: Tensor | None) -> Tensor:
        seen.append(t)
        return x

    latents = torch.zeros(10, 4, 1, 2, 2)
    diffusion_loss(
        record, latents, torch.zeros(10, 1, 1), None, alphas_cumprod=ALPHAS,
        settings=ObjectiveSettings(), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert seen[0].shape == (10,)
    assert torch.equal(seen[0] // 100, torch.arange(10)), "one time step in each tenth of the schedule"


@pytest.mark.parametrize(
    ("prediction", "snr", "weight"),
    [
        ("epsilon", 1.0, 1.0), ("epsilon", 10.0, 0.5), ("v_prediction", 1.0, 1.0), ("v_prediction", 9.0, 0.6),
        ("sample", 2.0, 2.0), ("sample", 50.0, 5.0),
    ],
)  # fmt: skip
def test_min_snr_weights_match_hand_worked_numbers(prediction: str, snr: float, weight: float) -> None:
    alpha_bar = torch.tensor([snr / (1 + snr)])
    settings = ObjectiveSettings(prediction=prediction, snr_cap=5.0)  # type: ignore[arg-type]
    assert loss_weight(alpha_bar, settings).item() == pytest.approx(weight, rel=1e-4)


def test_pictures_make_up_their_share_of_the_samples() -> None:
    assert n_pictures(70, 0.3) == 30 and n_pictures(7, 0.0) == 0
    share = drop(20_000, 0.1, torch.Generator().manual_seed(0)).float().mean()
    assert share.item() == pytest.approx(0.1, abs=0.01)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def squared_error(network: nn.Linear):  # noqa: ANN201
    def loss_of_step(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.randn(16, 3, generator=generator)
        return {"loss": (network(x) - x.sum(-1, keepdim=True)).square().mean()}

    return loss_of_step


FAST = LoopSettings(steps=60, lr=0.05, warmup=5, precision="fp32", weight_decay=0.0, ema=0.9)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loop_finds_the_minimum(optimizer: Any, tmp_path: Path) -> None:
    network = line()
    settings = replace(FAST, optimizer=optimizer, steps=200, cooldown=150, lr=0.1)
    ema = fit(network, squared_error(network), tmp_path, settings=settings)
    assert torch.allclose(ema.weights["weight"], torch.ones(1, 3), atol=0.1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 200


def test_a_checkpoint_of_the_other_optimiser_is_refused(tmp_path: Path) -> None:
    network = line()
    fit(network, squared_error(network), tmp_path, settings=replace(FAST, optimizer="adamw"))
    with pytest.raises(WeightsError, match="the optimiser was adamw, not muon"):
        fit(network, squared_error(network), tmp_path, settings=FAST)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_takes_the_step_of_its_matrix_however_it_lies_in_memory(
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 3, 2, bias=False).to(memory_format=memory_format)
    plain = nn.Parameter(conv.weight.detach().flatten(1).clone())
    gradient = torch.randn(3, 5, 2, 2)
    conv.weight.grad, plain.grad = gradient.clone(), gradient.flatten(1)
    Optimizer(conv, "muon", beta2=0.99, weight_decay=0.0).step(0.1)
    torch.optim.Muon([plain], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    assert torch.allclose(conv.weight.flatten(1), plain, atol=1e-3)  # steps of 0.02, computed in bfloat16


def test_biases_and_frozen_weights_are_none_of_muons_business() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].requires_grad_(False)
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.ones(1, 4)).sum().backward()
    optimizer = Optimizer(network, "muon", beta2=0.99, weight_decay=0.0)
    optimizer.step(0.1)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert moved == [True, True, False, False]
    sizes = {name: len(part["state"]) for name, part in optimizer.state_dict().items()}
    assert sizes == {"muon": 1, "adamw": 1}


def test_a_stopped_run_continues_exactly(tmp_path: Path) -> None:
    whole = line()
    straight = fit(whole, squared_error(whole), tmp_path / "whole", settings=FAST)
    first = line()
    fit(first, squared_error(first), tmp_path / "parts", settings=replace(FAST, steps=25))
    second = line()
    resumed = fit(second, squared_error(second), tmp_path / "parts", settings=FAST)
    assert torch.equal(whole.weight, second.weight)
    assert torch.equal(straight.weights["weight"], resumed.weights["weight"])


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C as in a terminal; a suite that a shell starts in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_ends_after_the_step_and_the_run_continues_exactly(tmp_path: Path) -> None:
    network, whole = line(), line()
    inner = squared_error(network)

    def interrupted(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == 10:
            signal.raise_signal(signal.SIGINT)
        return inner(step, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(network, interrupted, tmp_path / "parts", settings=FAST)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 11
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = line()
    fit(resumed, squared_error(resumed), tmp_path / "parts", settings=FAST)
    fit(whole, squared_error(whole), tmp_path / "whole", settings=FAST)
    assert torch.equal(whole.weight, resumed.weight)


@pytest.mark.parametrize("failing", [0, 3])
def test_what_a_step_cannot_use_keeps_the_steps_before_it(failing: int, tmp_path: Path) -> None:
    network = line()
    inner = squared_error(network)

    def damaged(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == failing:
            raise AssetError("a shard is damaged.")
        return inner(step, generator)

    with pytest.raises(AssetError):
        fit(network, damaged, tmp_path, settings=FAST)
    assert (tmp_path / "checkpoint.pt").exists() == (failing > 0)


@pytest.mark.parametrize("content", [[1, 2], {"network": 3}, {"network": {}, "optimizer": {}, "ema": {}, "step": 1}])
def test_a_checkpoint_that_is_none_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="does not fit this network"):
        fit(line(), squared_error(line()), tmp_path, settings=FAST)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, ("ran",)

    monkeypatch.chdir(tmp_path)
    torch.save({"network": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="would run code"):
        fit(line(), squared_error(line()), tmp_path, settings=FAST)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "wrong", [{"lr": float("nan")}, {"lr": 0.0}, {"steps": -1}, {"minutes": 0.0}, {"optimizer": "sgd"}]
)
def test_settings_that_cannot_train_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        LoopSettings(**wrong)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    network = line()
    fit(network, squared_error(network), tmp_path, settings=FAST)
    before = network.weight.clone()
    again = line()
    fit(again, squared_error(again), tmp_path, settings=FAST)
    assert torch.equal(again.weight, before)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 60


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    network = line()
    fit(network, squared_error(network), tmp_path, settings=FAST)
    other = nn.Linear(4, 1)
    with pytest.raises(WeightsError, match="does not fit"):
        fit(other, squared_error(other), tmp_path, settings=FAST)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(WeightsError, match=r"checkpoint\.pt"):
        fit(line(), squared_error(line()), tmp_path, settings=FAST)


def test_a_loss_that_stays_nan_ends_the_run(tmp_path: Path) -> None:
    network = line()

    def broken(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": network(torch.full((1, 3), float("nan"))).sum()}

    with pytest.raises(FitError, match="not finite"):
        fit(network, broken, tmp_path, settings=FAST)
    assert bool(torch.isfinite(network.weight).all())


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision"):
        fit(line(), squared_error(line()), tmp_path, settings=LoopSettings(precision="int3"))


def test_the_learning_rate_rises_holds_and_falls() -> None:
    settings = LoopSettings(steps=100, lr=1.0, warmup=10, cooldown=20)
    assert [learning_rate(step, settings) for step in (4, 9, 50, 90, 99)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.05])


def test_averaged_weights_follow_a_constant_exactly() -> None:
    network = line()
    ema = Ema(network, 0.99)
    for step in range(5):
        ema.update(network, step)
    assert torch.allclose(ema.weights["weight"], network.weight)


def test_every_process_and_step_draws_its_own_numbers() -> None:
    draws = {torch.rand(1, generator=step_generator(0, step, rank)).item() for step in range(50) for rank in range(4)}
    assert len(draws) == 200


def test_normalising_latents_leaves_decoding_unchanged() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder(AutoencoderSettings(channels=(8, 16), latent_channels=3), image_size=16).eval()
    pictures = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    x = pictures.float() / 127.5 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mean).sample
        spread = vae.encode(x).latent_dist
        noise = (spread.std / spread.mean.std((0, 2, 3), keepdim=True)).clone()
        normalise_latents(vae, pictures)
        after = vae.encode(x).latent_dist
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(3), atol=1e-4)
        assert torch.allclose(after.std, noise, rtol=1e-3)
        assert torch.allclose(vae.decode(after.mean).sample, before, atol=1e-4)


def test_training_the_decoder_alone_leaves_the_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = AutoencoderSettings(channels=(8, 16), latent_channels=3, batch=4, decoder_only=True)
    vae = make_autoencoder(settings, image_size=16).eval()
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    x = pictures.float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean
        before = vae.decode(latents).sample
    loop = LoopSettings(steps=3, precision="fp32", ema=0.5)
    trained = train_autoencoder(pictures, tmp_path, settings=settings, loop=loop, start=vae)
    with torch.no_grad():
        assert torch.allclose(trained.encode(x).latent_dist.mean, latents, atol=1e-6)
        assert not torch.allclose(trained.decode(latents).sample, before, atol=1e-4)


def test_the_reconstruction_loss_counts_pixels_and_edges() -> None:
    target = torch.zeros(1, 1, 2, 2)
    output = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert reconstruction_loss(output, target, edges=0.0).item() == pytest.approx(0.5 + 0.5)
    assert reconstruction_loss(output, target, edges=2.0).item() == pytest.approx(1.0 + 2.0 * 1.0)
