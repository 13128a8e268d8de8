"""Guidance and the conversions between noise, velocity and clean latents: hand-worked numbers, laws, parity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewfold.diffusion.guidance import compose, decompose, guide, rescale, velocity
from viewfold.errors import InputError

SHAPE = (2, 4, 3, 5, 5)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def random(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_by_hand():
    conditional, unconditional = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    assert guide(conditional, unconditional, scale=7.5).item() == 16.0


def test_scale_one_is_the_condition_and_scale_zero_is_none():
    conditional, unconditional = random(0), random(1)
    torch.testing.assert_close(guide(conditional, unconditional, scale=1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, scale=0.0), unconditional)


def test_rescale_by_hand():
    """Unbiased deviations of (1, -1) and (3, -3) are sqrt 2 and sqrt 18: the factor is 1/3; half of the way is 2/3."""
    guided, conditional = torch.tensor([[3.0, -3.0]]), torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(rescale(guided, conditional, strength=1.0), conditional)
    torch.testing.assert_close(rescale(guided, conditional, strength=0.5), torch.tensor([[2.0, -2.0]]))


def test_full_rescale_restores_the_deviation_of_each_object_over_all_of_its_views():
    guided, conditional = random(0) * torch.tensor([5.0, 2.0]).reshape(2, 1, 1, 1, 1), random(1)
    restored = rescale(guided, conditional, strength=1.0)
    torch.testing.assert_close(restored.flatten(1).std(1), conditional.flatten(1).std(1))
    ratio = restored / guided  # one number per object: views keep their brightness against each other
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1, :1].expand_as(ratio))


def test_no_rescale_changes_nothing_and_constant_predictions_stay_finite():
    guided = random(0)
    assert rescale(guided, random(1), strength=0.0) is guided
    assert rescale(torch.ones(SHAPE), torch.ones(SHAPE), strength=1.0).isfinite().all()


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_rescale_outside_its_range_is_refused(strength):
    with pytest.raises(InputError, match="between 0 and 1"):
        rescale(random(0), random(1), strength=strength)


def test_decomposition_by_hand():
    """alpha_bar 0.36: x = 0.6 clean + 0.8 noise, v = 0.6 noise - 0.8 clean; with clean 2 and noise 1, x = 2, v = -1."""
    alpha_bar, clean, noise = torch.tensor([0.36]), torch.tensor([[2.0]]), torch.tensor([[1.0]])
    torch.testing.assert_close(compose(clean, noise, alpha_bar), torch.tensor([[2.0]]))
    torch.testing.assert_close(velocity(clean, noise, alpha_bar), torch.tensor([[-1.0]]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("alpha_bar", [[0.9], [0.3, 0.999], [1e-3, 0.5]])
def test_every_prediction_leads_back_to_the_same_parts(prediction, alpha_bar):
    alpha_bar, clean, noise = torch.tensor(alpha_bar), random(0), random(1)
    noisy = compose(clean, noise, alpha_bar)
    predicted = {"epsilon": noise, "v_prediction": velocity(clean, noise, alpha_bar), "sample": clean}[prediction]
    parts = decompose(predicted, noisy, alpha_bar, prediction=prediction)
    torch.testing.assert_close(parts.clean, clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts.noise, noise, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("alpha_bar", [0.0, 1.0])
def test_both_ends_of_the_schedule_stay_finite(prediction, alpha_bar):
    parts = decompose(random(0), random(1), torch.tensor([alpha_bar]), prediction=prediction)
    assert parts.clean.isfinite().all() and parts.noise.isfinite().all()


def test_what_would_divide_by_nothing_divides_by_the_floors() -> None:
    """A guided prediction without contrast beside one of 3e-8: (3e-8 + 1e-8) / 1e-8 = 4; pure noise divides by 1e-6."""
    faint = torch.tensor([[1.0, -1.0]]) * 3e-8 / 2**0.5
    flat = torch.ones(1, 2)
    torch.testing.assert_close(rescale(flat, faint, strength=1.0), 4 * flat)
    noisy, predicted, none = torch.full((1, 1), 2.0), torch.full((1, 1), 0.5), torch.zeros(1)
    assert decompose(predicted, noisy, none, prediction="epsilon").clean.item() == pytest.approx(1.5e6)
    assert decompose(predicted, noisy, none + 1, prediction="sample").noise.item() == pytest.approx(1.5e6)


def test_a_velocity_at_pure_noise_is_minus_the_clean_sample():
    clean, noise = random(0), random(1)
    parts = decompose(-clean, noise, torch.zeros(1), prediction="v_prediction")
    assert torch.equal(parts.clean, clean) and torch.equal(parts.noise, noise)


def test_an_unknown_prediction_lists_the_known_ones():
    with pytest.raises(InputError, match="epsilon, v_prediction, sample"):
        decompose(random(0), random(1), torch.tensor([0.5]), prediction="score")


def test_the_conversions_equal_the_originals():
    saved = load_file(Path(__file__).parent / "parity" / "ddim.safetensors")
    alpha_bar = saved["schedule.alphas_cumprod"][saved["q.t"]]
    noisy = compose(saved["q.x0"], saved["q.noise"], alpha_bar)
    torch.testing.assert_close(noisy, saved["q.x_t"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(velocity(saved["q.x0"], saved["q.noise"], alpha_bar), saved["q.v"], atol=1e-5, rtol=1e-5)
    clean = decompose(saved["q.noise"], saved["q.x_t"], alpha_bar, prediction="epsilon").clean
    torch.testing.assert_close(clean, saved["q.x0_from_eps"], atol=1e-4, rtol=1e-4)
    noise = decompose(saved["q.v"], saved["q.x_t"], alpha_bar, prediction="v_prediction").noise
    torch.testing.assert_close(noise, saved["q.eps_from_v"], atol=1e-5, rtol=1e-5)
