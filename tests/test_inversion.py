"""DDIM inversion on a prior of which all is known: a step, the levels and the exact path by hand."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_prior import A, GaussianPrior, climb
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.score.inversion import invert, levels_up_to

MUG = 0.7
MEANS: dict[str, Tensor | float] = {"mug": MUG}


def latents() -> Tensor:
    return torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_step_of_an_inversion_by_hand() -> None:
    """x = 2 at alpha_bar 0.64 holds noise 1: clean (2 - 0.6) / 0.8 = 1.75; at 0.36 that is 0.6 x 1.75 + 0.8 = 1.85."""
    x = torch.full((1, 1, 1, 1, 1), 2.0, dtype=torch.float64)
    levels = [torch.tensor([0]), torch.tensor([1])]
    asked = []

    def one(x: Tensor, t: Tensor) -> Tensor:
        asked.append((x.item(), t.tolist()))
        return torch.ones_like(x)

    schedule = torch.tensor([0.64, 0.36], dtype=torch.float64)
    found = invert(x, levels, predict=one, alphas_cumprod=schedule)
    assert found.noisy.item() == pytest.approx(1.85) and found.noise.item() == 1 and asked == [(2.0, [0])]
    # eta 0.5: variance (1 - 0.64) / (1 - 0.36) (1 - 0.36 / 0.64) = 0.5625 x 0.4375
    fresh = invert(x, levels, predict=one, alphas_cumprod=schedule, eta=0.5, generator=torch.Generator().manual_seed(3))
    z = torch.randn(1, generator=torch.Generator().manual_seed(3)).item()
    assert fresh.noisy.item() == pytest.approx(1.85 + 0.5 * math.sqrt(0.5625 * 0.4375) * z)


def test_levels_rise_evenly_and_each_object_stops_at_its_own() -> None:
    assert [each.tolist() for each in levels_up_to(torch.tensor([250, 90]), stride=100)] == [
        [0, 0], [100, 90], [200, 90], [250, 90],
    ]  # fmt: skip
    assert [each.tolist() for each in levels_up_to(torch.tensor([200]), stride=100)] == [[0], [100], [200]]
    assert [each.tolist() for each in levels_up_to(torch.tensor([0]), stride=100)] == [[0], [0]]
    with pytest.raises(InputError, match="stride"):
        levels_up_to(torch.tensor([10]), stride=0)


def test_an_object_that_has_arrived_waits_for_the_others() -> None:
    prior, x = GaussianPrior(MEANS), latents()
    levels = levels_up_to(torch.tensor([430, 90]), stride=100)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return prior.noise(x, t, MUG)

    both = invert(x, levels, predict=predict, alphas_cumprod=prior.alphas_cumprod).noisy
    torch.testing.assert_close(both[0], climb(prior, x, [0, 100, 200, 300, 400, 430], MUG)[0][0])
    torch.testing.assert_close(both[1], climb(prior, x, [0, 90], MUG)[0][1])


def test_an_inversion_follows_the_exact_path_the_closer_the_finer() -> None:
    """On a Gaussian the flow keeps each number's place in it: (x_t - sqrt(a_t) m) / deviation_t never changes."""
    prior, x, t = GaussianPrior(MEANS, std=0.5), latents(), 600
    spread = [math.sqrt(a * 0.25 + 1 - a) for a in A]
    exact = math.sqrt(A[t]) * MUG + spread[t] / spread[0] * (x - math.sqrt(A[0]) * MUG)
    errors = []
    for stride in (100, 10, 1):
        levels = levels_up_to(torch.full((2,), t), stride=stride)
        found = invert(x, levels, predict=lambda x, t: prior.noise(x, t, MUG), alphas_cumprod=prior.alphas_cumprod)
        errors.append(float((found.noisy - exact).abs().max()))
    assert errors[2] < 0.03 and errors[0] > 5 * errors[1] > 25 * errors[2], "first order"
