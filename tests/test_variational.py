"""Variational score distillation on a prior of which all is known: what its copy learns, and where that leads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gaussian_prior import A, GaussianPrior
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.lifting.score import VSD
from viewfold.lifting.score.variational import Variational

MUG, BAD, GUIDANCE = 0.7, -0.4, 3.0
MEANS: dict[str, Tensor | float] = {"mug": MUG, "bad": BAD}
GUIDED = BAD + GUIDANCE * (MUG - BAD)
SHAPE = (2, 4, 3, 2, 2)
B_V = 8


def latents() -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.requires_grad_()


def drawn() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)).double()


def begin_vsd(prior: GaussianPrior, **settings: Any) -> Variational:
    return Variational(
        VSD(**settings),
        prior=prior,
        prompts=["mug"] * 2,
        negatives=["bad"] * 2,
        guidance=GUIDANCE,
        generator=torch.Generator().manual_seed(0),
    )


def test_a_copy_that_has_learnt_the_renders_leaves_the_way_to_the_mean() -> None:
    """Of renders that are all x it learns the mean x; then VSD is (1 - a) sqrt(a (1 - a)) (x - m) / variance."""
    prior, t = GaussianPrior(MEANS), 500
    x = torch.full(SHAPE, -1.3, dtype=torch.float64).requires_grad_()
    run = begin_vsd(prior, learning_rate=0.02)
    losses = [run.train(x.detach(), cameras=None) for _ in range(400)]
    shift = prior.learners[0].shift
    assert float(shift.detach()) == pytest.approx(-1.3 - MUG, abs=0.03) and sum(losses[-50:]) < 0.5 * sum(losses[:50])
    loss = run.loss(x, cameras=None, t=torch.full((2,), t), noise=drawn())
    (found,) = torch.autograd.grad(loss, x)
    variance = A[t] * 0.25 + 1 - A[t]
    wanted = (1 - A[t]) * math.sqrt(A[t] * (1 - A[t])) * (x.detach() - GUIDED) / variance / B_V
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0)


def test_a_step_of_the_copys_training_by_hand() -> None:
    """The loss is the mean squared error of its noise, t uniform over all levels; AdamW's first step is its rate."""
    prior, x = GaussianPrior(MEANS), torch.full(SHAPE, 2.0, dtype=torch.float64)
    run = begin_vsd(prior, learning_rate=0.125, rank=3)
    (learner,) = prior.learners
    found = run.train(x, cameras=Cameras.orbit(4))
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (2,), generator=generator)
    noise = torch.randn(SHAPE, generator=generator).double()
    a = prior.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
    wanted = (prior.noise(a.sqrt() * x + (1 - a).sqrt() * noise, t, MUG) - noise).square().mean()
    assert found == pytest.approx(float(wanted))
    assert float(learner.shift.detach()) == pytest.approx(0.125) and learner.rank == 3, "towards 2 - 0.7"
    ((texts, levels, cameras),) = learner.calls
    assert texts == ["mug", "mug"] and levels == t.tolist() and cameras is not None and len(cameras) == 4
    assert prior.calls == [], "the prior itself is not asked, nor changed"


def test_the_copy_is_asked_first_and_then_trained_on_the_same_latents() -> None:
    prior, x, cameras = GaussianPrior(MEANS), latents(), Cameras.orbit(4)
    run = begin_vsd(prior, updates=3)
    run.loss(x, cameras=cameras, t=torch.tensor([300, 300]), noise=drawn())
    (learner,) = prior.learners
    assert len(learner.calls) == 4 and learner.calls[0][1] == [300, 300]
    assert all(told is cameras for *_, told in learner.calls) and x.grad is None
    spread = begin_vsd(GaussianPrior(MEANS))
    for _ in range(100):
        spread.train(x.detach(), cameras=None)
    (learner,) = spread.prior.learners  # type: ignore[attr-defined]
    levels = [t for _, drawn, _ in learner.calls for t in drawn]
    assert min(levels) < 50 and max(levels) > 950


def test_latents_that_are_not_finite_teach_nothing() -> None:
    prior = GaussianPrior(MEANS)
    run = begin_vsd(prior)
    loss = run.loss(latents() * float("nan"), cameras=None, t=torch.tensor([300, 300]), noise=drawn())
    assert not bool(loss.isfinite()) and float(prior.learners[0].shift.detach()) == 0
