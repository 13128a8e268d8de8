"""The objective's closed forms: what a network that knows the truth loses, how steps are weighted and drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from viewfold.diffusion.guidance import velocity
from viewfold.errors import InputError
from viewfold.training.objective import ObjectiveSettings, diffusion_loss, drop, loss_weight, n_pictures

ALPHAS = torch.linspace(0.999, 0.001, 1000)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_truth_has_no_loss(prediction: str) -> None:
    clean = torch.randn(6, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def oracle(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        alpha_bar = ALPHAS[t]
        shape = (-1, 1, 1, 1, 1)
        noise = (x - alpha_bar.sqrt().reshape(shape) * clean) / (1 - alpha_bar).sqrt().reshape(shape)
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity(clean, noise, alpha_bar)}[prediction]

    settings = ObjectiveSettings(prediction=prediction)  # type: ignore[arg-type]
    loss = diffusion_loss(
        oracle, clean, None, None, alphas_cumprod=ALPHAS, settings=settings,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert loss.item() < 1e-6


def test_all_views_of_an_object_share_a_time_step_and_objects_cover_the_schedule() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        seen.append(t)
        return x

    latents = torch.zeros(10, 4, 1, 2, 2)
    diffusion_loss(
        record, latents, None, None, alphas_cumprod=ALPHAS,
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


def test_weights_multiply_each_samples_mean_squared_error() -> None:
    latents = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def zero(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    settings = ObjectiveSettings(prediction="sample", snr_cap=5.0)
    loss = diffusion_loss(
        zero, latents, None, None, alphas_cumprod=ALPHAS, settings=settings,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    snr = (ALPHAS / (1 - ALPHAS))[seen[0]].clamp(max=5)
    assert torch.allclose(loss, (snr * latents.square().mean((1, 2, 3, 4))).mean())


def test_without_a_cap_all_steps_weigh_alike() -> None:
    settings = ObjectiveSettings(prediction="sample", snr_cap=None)
    assert loss_weight(torch.tensor([0.1, 0.9]), settings).tolist() == [1, 1]


def test_each_object_has_noise_of_its_own_and_a_step_of_its_own_stratum() -> None:
    noisy: list[Tensor] = []

    def record(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        noisy.append(x)
        return x

    diffusion_loss(
        record, torch.zeros(4, 2, 1, 8, 8), None, None, alphas_cumprod=torch.zeros(1000),
        settings=ObjectiveSettings(), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    flat = noisy[0].flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 0.5 and flat.std().item() == pytest.approx(1.0, abs=0.1)


def test_the_terms_are_the_papers_and_min_snrs() -> None:
    settings = ObjectiveSettings()
    assert (settings.share_2d, settings.drop_text, settings.snr_cap) == (0.3, 0.1, 5.0)
    assert settings.prediction == "v_prediction"


def test_which_texts_are_dropped_depends_on_the_generator_alone() -> None:
    first, second = (drop(64, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, drop(64, 0.5, torch.Generator().manual_seed(4)))


def test_the_time_steps_are_all_those_of_the_schedule_one_a_stratum() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        seen.append(t)
        return x

    for seed in range(20):
        diffusion_loss(
            record, torch.zeros(4, 1, 1, 2, 2), None, None, alphas_cumprod=torch.rand(4),
            settings=ObjectiveSettings(), generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
    assert all(t.tolist() == [0, 1, 2, 3] for t in seen)


def test_a_bias_draws_noisy_time_steps_more_often_by_the_power_that_it_says() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, t: Tensor, condition: Any, cameras: Any) -> Tensor:
        seen.append(t)
        return x

    for bias in (0.0, 2.0):
        diffusion_loss(
            record, torch.zeros(4000, 1, 1, 1, 1), None, None, alphas_cumprod=torch.rand(1000),
            settings=ObjectiveSettings(timestep_bias=bias), generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    even, biased = seen
    shares = [float((biased < limit).float().mean()) for limit in (250, 500, 1000)]
    assert shares == pytest.approx([0.25**3, 0.5**3, 1.0], abs=2e-3), "the density grows as the square"
    assert float((even < 500).float().mean()) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("bias", [-0.5, float("inf"), float("nan")])
def test_a_bias_that_is_none_is_refused(bias: float) -> None:
    with pytest.raises(InputError, match="`timestep_bias` must be a finite number of at least 0"):
        ObjectiveSettings(timestep_bias=bias)
