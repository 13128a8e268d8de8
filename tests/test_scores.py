"""Six losses on a prior of which all is known: gradients, inversions and fixed points by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gaussian_prior import A, GaussianPrior, climb
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.prior import Learnable, Learner, Prior
from viewfold.lifting.score import ASD, ISM, SCORES, SDI, SDS, VSD, Reconstruction, Score, begin
from viewfold.lifting.score.sdi import find_noise

MEANS: dict[str, Tensor | float] = {"mug": 0.7, "bad": -0.4, "": 0.1}
SHAPE = (2, 4, 3, 2, 2)
B_V = 8
GUIDANCE = 3.0
MUG, BAD = 0.7, -0.4
GUIDED = BAD + GUIDANCE * (MUG - BAD)
"""What guidance makes of the two means, for a prior with one deviation."""


def latents(seed: int = 0) -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_()


def gradient(
    score: Score, prior: GaussianPrior, x: Tensor, t: int, *, guidance: float = GUIDANCE, seed: int = 5
) -> Tensor:
    """Return the gradient of one step on the latents, with the same noise each time."""
    loss = begin(
        score,
        prior=prior,
        prompts=["mug"] * len(x),
        negatives=["bad"] * len(x),
        guidance=guidance,
        generator=torch.Generator().manual_seed(seed),
    )
    (found,) = torch.autograd.grad(loss(x, cameras=None, t=torch.full((len(x),), t)), x)
    return found


def drawn(seed: int = 5) -> Tensor:
    """Return the noise of the first step of `gradient`."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).double()


def test_the_fakes_keep_to_the_protocols() -> None:
    prior = GaussianPrior(MEANS)
    assert isinstance(prior, Prior) and isinstance(prior, Learnable) and isinstance(prior.learner(rank=1), Learner)


# One closed form each -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [120, 500, 870])
def test_reconstruction_and_sds_of_a_prior_that_is_sure(t: int) -> None:
    """x0 is what it believes, whatever the noise: x - m, and for SDS sqrt(a (1 - a)) (x - m)."""
    prior, x = GaussianPrior(MEANS, std=0.0), latents()
    wanted = (x.detach() - GUIDED) / B_V
    torch.testing.assert_close(gradient(Reconstruction(rescale=0.0), prior, x, t), wanted)
    torch.testing.assert_close(gradient(SDS(), prior, x, t), math.sqrt(A[t] * (1 - A[t])) * wanted)


@pytest.mark.parametrize("t", [120, 500, 870])
def test_sdi_is_the_reconstruction_with_the_noise_of_its_own_inversion(t: int) -> None:
    """By hand: up in tenths of the schedule with guidance 2 - g, then the guided x0 at the end of that path."""
    prior, x = GaussianPrior(MEANS), latents()
    upwards = BAD + (2 - GUIDANCE) * (MUG - BAD)
    end, _ = climb(prior, x.detach(), [*range(0, t, 100), t], upwards)
    clean = (end - math.sqrt(1 - A[t]) * prior.noise(end, t, GUIDED)) / math.sqrt(A[t])
    found = gradient(SDI(eta=0.0), prior, x, t)
    torch.testing.assert_close(found, (x.detach() - clean) / B_V)
    assert torch.equal(found, gradient(SDI(eta=0.0), prior, x, t, seed=6)), "nothing is drawn"
    assert [texts for texts, *_ in prior.calls] == [["mug", "mug", "bad", "bad"]] * len(prior.calls)
    ends, _ = climb(prior, x.detach(), [*range(0, t, 250), t], BAD + 0.5 * (MUG - BAD))
    clean = (ends - math.sqrt(1 - A[t]) * prior.noise(ends, t, GUIDED)) / math.sqrt(A[t])
    settings = SDI(eta=0.0, steps=4, inversion_guidance=0.5)
    torch.testing.assert_close(gradient(settings, prior, x, t), (x.detach() - clean) / B_V)


def test_the_noise_that_sdi_finds_brings_the_latents_to_the_end_of_the_path() -> None:
    prior, x, t = GaussianPrior(MEANS), latents().detach(), torch.full((2,), 640)
    told: dict[str, Any] = {"prior": prior, "condition": ["mug", "mug", "bad", "bad"], "cameras": None}
    noise = find_noise(x, **told, t=t, guidance=1.0, settings=SDI(eta=0.0))
    end, _ = climb(prior, x, [0, 100, 200, 300, 400, 500, 600, 640], MUG)
    torch.testing.assert_close(math.sqrt(A[640]) * x + math.sqrt(1 - A[640]) * noise, end)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    one, two = (find_noise(x, **told, t=t, guidance=1.0, settings=SDI(), generator=g) for g in generators)
    assert 0 < float((one - two).std()) < 0.5 * float(noise.std()), "by default a little is drawn"


def test_sdi_with_rescale_has_the_contrast_of_the_unguided_prediction() -> None:
    prior = GaussianPrior({"mug": torch.tensor([1.0, 3.0]), "bad": torch.tensor([-1.0, -3.0])}, std=0.0)
    x = latents()
    clean = x.detach() - B_V * gradient(SDI(rescale=1.0), prior, x, 500)
    wanted = torch.tensor([1.0, 3.0], dtype=torch.float64).expand(SHAPE)
    torch.testing.assert_close(clean.std((1, 2, 3, 4)), wanted.std((1, 2, 3, 4)))


@pytest.mark.parametrize(("t", "below"), [(60, [0, 0]), (300, [0, 200, 220]), (480, [0, 200, 400])])
def test_ism_compares_the_two_ends_of_an_interval_on_a_path_without_text(t: int, below: list[int]) -> None:
    prior, x = GaussianPrior(MEANS), latents()
    start = math.sqrt(A[0]) * x.detach() + math.sqrt(1 - A[0]) * drawn()
    end, before = climb(prior, start, [*below, t], BAD)
    weight = math.sqrt((1 - A[t]) / A[t])
    found = gradient(ISM(), prior, x, t)
    torch.testing.assert_close(found, weight * (prior.noise(end, t, GUIDED) - before) / B_V)
    assert [texts for texts, *_ in prior.calls] == [["bad"] * 2] * len(below) + [["mug"] * 2 + ["bad"] * 2]
    assert [levels[0] for _, levels, _ in prior.calls] == [*below, t]
    end, before = climb(prior, start, [0, t - 50, t], BAD)
    torch.testing.assert_close(
        gradient(ISM(interval=0.05, stride=1.0), prior, x, t),
        weight * (prior.noise(end, t, GUIDED) - before) / B_V,
    )


def test_ism_of_a_prior_that_is_sure_is_the_difference_of_the_texts_alone() -> None:
    """It sees the same noise all along a path, so x drops out: g (mean without text - mean with it)."""
    found = gradient(ISM(), GaussianPrior(MEANS, std=0.0), latents(), 400)
    torch.testing.assert_close(found, torch.full(SHAPE, GUIDANCE * (BAD - MUG) / B_V, dtype=torch.float64))


@pytest.mark.parametrize(("t", "later"), [(10, 10), (20, 20), (520, 570), (527, 577), (990, 999)])
def test_asd_compares_with_the_text_alone_a_little_later(t: int, later: int) -> None:
    """Hand-worked shift: t + floor(0.1 (t - 20)); the noise drops out for a prior that is sure."""
    assert ASD().later(torch.tensor([t]), n_levels=1000).tolist() == [later]
    prior, x = GaussianPrior(MEANS, std=0.0), latents()
    ratio = [math.sqrt(a / (1 - a)) for a in (A[t], A[later])]
    wanted = (1 - A[t]) * (ratio[0] * (x.detach() - GUIDED) - ratio[1] * (x.detach() - MUG)) / B_V
    torch.testing.assert_close(gradient(ASD(), prior, x, t), wanted)
    ((texts, levels, _),) = prior.calls
    assert texts == ["mug", "mug", "bad", "bad", "mug", "mug"] and levels == [t, t, t, t, later, later]


def test_asd_without_shift_is_what_guidance_adds() -> None:
    prior, x, t = GaussianPrior(MEANS), latents(), 500
    noisy = math.sqrt(A[t]) * x.detach() + math.sqrt(1 - A[t]) * drawn()
    wanted = (1 - A[t]) * (prior.noise(noisy, t, GUIDED) - prior.noise(noisy, t, MUG)) / B_V
    torch.testing.assert_close(gradient(ASD(shift=0.0), prior, x, t), wanted)
    assert ASD(shift=0.5, lowest=0.4).later(torch.tensor([500, 300]), n_levels=1000).tolist() == [550, 300]


def test_vsd_begins_with_what_guidance_adds() -> None:
    """The copy has learnt nothing yet, so it is the prior with the text alone."""
    x = latents()
    begun, same = gradient(VSD(), GaussianPrior(MEANS), x, 500), gradient(ASD(shift=0.0), GaussianPrior(MEANS), x, 500)
    torch.testing.assert_close(begun, same)


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_the_value_of_a_loss_is_half_its_squared_gradient(score: Score) -> None:
    """As released; a mean over b v, so that neither more views nor more objects pull harder on each."""
    x = latents()
    generator = torch.Generator().manual_seed(0)
    told: dict[str, Any] = {"prompts": ["mug"] * 2, "negatives": ["bad"] * 2, "guidance": 3.0, "generator": generator}
    loss = begin(score, prior=GaussianPrior(MEANS), **told)(x, cameras=None, t=torch.tensor([400, 400]))
    (found,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(0.5 * B_V * float(found.square().sum()))


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_every_score_tells_cameras_for_each_row_and_holds_the_prior_constant(score: Score) -> None:
    """Cameras that objects share are told once, their own as many times as there are rows of objects."""
    for cameras in (Cameras.orbit(4), Cameras.orbit(8)):
        prior = GaussianPrior(MEANS)
        told: dict[str, Any] = {"prompts": ["mug"] * 2, "negatives": ["bad"] * 2, "guidance": 3.0}
        begin(score, prior=prior, **told)(latents(), cameras=cameras, t=torch.tensor([400, 400]))
        for texts, _, seen in prior.calls:
            assert seen is not None
            position = seen.per_object(len(texts), 4).position.reshape(-1, 2 if len(cameras) == 8 else 1, 4, 3)
            assert len(seen) == (4 if len(cameras) == 4 else 4 * len(texts))
            assert torch.equal(position, cameras.position.reshape(1, -1, 4, 3).expand_as(position))


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_guidance_and_the_negative_prompt_reach_every_score(score: Score) -> None:
    x = latents()
    base = gradient(score, GaussianPrior(MEANS), x, 400)
    assert not torch.allclose(base, gradient(score, GaussianPrior(MEANS), x, 400, guidance=4.0))
    assert not torch.allclose(base, gradient(score, GaussianPrior(MEANS | {"bad": -0.5}), x, 400))
    assert not torch.allclose(base, gradient(score, GaussianPrior(MEANS | {"mug": 0.8}), x, 400))


@pytest.mark.parametrize(
    ("score", "guidance", "goal"),
    [
        (Reconstruction(rescale=0.0), 3.0, GUIDED),
        (SDS(), 3.0, GUIDED),
        (SDI(), 1.0, MUG),
        (ASD(), 1.0, MUG),
        (VSD(learning_rate=0.05), 3.0, GUIDED),
    ],
    ids=["reconstruction", "sds", "sdi", "asd", "vsd"],
)
def test_descent_ends_at_the_mean_that_the_prior_believes_in(score: Score, guidance: float, goal: float) -> None:
    """The fixed point: the guided mean.  ISM has none on a Gaussian: it pulls along the texts' difference alone."""
    x = torch.full((1, 4, 3, 2, 2), -2.0, dtype=torch.float64).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    told: dict[str, Any] = {"prompts": ["mug"], "negatives": ["bad"], "guidance": guidance, "generator": generator}
    loss = begin(score, prior=GaussianPrior(MEANS), **told)
    optimizer, found = torch.optim.Adam([x], lr=0.05), []
    steps = 200 if isinstance(score, SDI) else 400  # it inverts in each
    for step in range(steps):
        optimizer.zero_grad()
        t = torch.randint(200, 700, (1,), generator=generator)
        loss(x, cameras=None, t=t).backward()
        optimizer.step()
        found += [float(x.detach().mean())] if step >= 0.7 * steps else []
    assert sum(found) / len(found) == pytest.approx(goal, abs=0.1)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_a_nan_from_the_prior_is_seen_in_every_loss(score: Score) -> None:
    prior = GaussianPrior(MEANS | {"mug": float("nan")})
    told: dict[str, Any] = {"prompts": ["mug"], "negatives": ["bad"], "guidance": 3.0}
    assert not begin(score, prior=prior, **told)(latents()[:1], cameras=None, t=torch.tensor([300])).isfinite()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SDI(steps=0), "steps"),
        (lambda: SDI(eta=-0.1), "eta"),
        (lambda: SDI(rescale=1.5), "rescale"),
        (lambda: SDI(inversion_guidance=float("inf")), "inversion_guidance"),
        (lambda: ISM(interval=0.0), "interval"),
        (lambda: ISM(stride=1.5), "stride"),
        (lambda: ASD(shift=-0.1), "shift"),
        (lambda: ASD(lowest=1.1), "lowest"),
        (lambda: VSD(rank=0), "rank"),
        (lambda: VSD(updates=0), "updates"),
        (lambda: VSD(learning_rate=0.0), "learning_rate"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(make, name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}`"):
        make()
