"""A step of distillation, added up by hand: what it looks at, what counts, how much, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from lift_fakes import BETAS
from sphere import Sphere
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.schedule import Anneal
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import Fitted
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard
from viewfold.lifting.observation import Observed
from viewfold.lifting.photometric import Photometric
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.score import SDS
from viewfold.scene.background import Background
from viewfold.scene.rendering import RaySamples, Rendering
from viewfold.views import Views

CAMERAS = Cameras.cat([Cameras.orbit(1, fov_deg=20.0 + 10 * i, distance=2.0 + i / 6) for i in range(4)])
"""35 degrees in the mean, and a distance of 2.25."""

GROUNDS = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2], [0.6, 0.6, 0.6]])
ALIKE = {"score": SDS(), "steps": 7, "photometric_weight": 0.0}
"""The score of `Agreeing` is 0, so that the rest of a loss can be read."""


class Haze(Sphere):
    """Covers a quarter of every pixel, in a grey; its own loss is 2, and one sample of one ray turns its back."""

    def __init__(self, *, covers: float = 0.25) -> None:
        super().__init__(0.3, torch.full((3,), 0.75))
        self.covers, self.seen = covers, []

    def render(self, cameras: Cameras, *, size: int, **how: Any) -> Rendering:
        self.calls.append(f"render {len(cameras)} at {size}")
        self.seen.append(cameras)
        flat = torch.zeros(len(cameras), 1, size, size)
        up = torch.tensor([[0.0, 0, 1]])
        one, zero = torch.ones(1), torch.zeros(1, dtype=torch.long)
        samples = RaySamples(
            pixel=zero, weight=one, rgb=up, position=up, distance=one, normal=up, direction=up, n_rays=1
        )
        covered, nothing = flat + self.covers + 0 * self.radius, flat.expand(-1, 3, -1, -1)
        return Rendering(
            rgb=covered * self.color[:, None, None], alpha=covered, depth=flat, normal=nothing, samples=samples
        )

    def prior_loss(self) -> Tensor:
        return 2 + 0 * self.radius


class Agreeing:
    """A prior that finds the noise that was added, whatever the picture: its score is 0.  It keeps the pictures."""

    device, image_size, alphas_cumprod = torch.device("cpu"), 16, (1 - BETAS).cumprod(0).float()

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def condition(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def encode(self, images: Tensor) -> Tensor:
        self.pictures.append(images.detach())
        return images * 0

    def predict_noise(self, x: Tensor, t: Tensor, condition: list[str], cameras: Cameras | None) -> Tensor:
        return x / (1 - self.alphas_cumprod[t][:, None, None, None, None]).sqrt()


def fitted(*, alpha: float = 0.25, size: int = 32) -> Fitted:
    """A haze beside views of black that cover `alpha` of every pixel, on grounds of their own."""
    covered = torch.full((4, 1, size, size), alpha)
    views = Views(rgb=torch.zeros(4, 3, size, size), alpha=covered, cameras=CAMERAS)
    foreground = Foreground(background=GROUNDS, alpha=covered, certainty=torch.ones_like(covered))
    observed = Observed(views=views, foreground=foreground)
    return Fitted(representation=Haze(), observed=observed, pictures=Photometric.of(observed), loss=0.0)


def losses(monkeypatch: pytest.MonkeyPatch, began: Fitted, **settings: Any) -> list[float]:
    """Return the loss of each step, while nothing moves."""
    seen: list[float] = []

    def advance(self: Guard, loss: Tensor, *, coverage: Tensor, decay: float) -> bool:
        assert float(coverage) == 0.25
        seen.append(float(loss))
        return True

    monkeypatch.setattr(Guard, "advance", advance)
    distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE | settings), generator=torch.Generator())
    return seen


def test_the_representations_own_loss_counts_once_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert losses(monkeypatch, fitted()) == pytest.approx([2.0] * 7)


def test_pictures_are_compared_every_third_step_at_their_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey of 0.75 and a black that both cover a quarter are 0.25 x 0.75 apart, over any ground."""
    apart = 4 * (0.25 * 0.75) ** 2
    expected = [2 + apart * (step in (0, 3, 6)) for step in range(7)]
    assert losses(monkeypatch, fitted(), photometric_weight=4.0) == pytest.approx(expected, rel=1e-5)


def test_regularisers_weigh_what_they_do_at_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = Regularizer(orientation=Anneal(start=1.0, end=5.0, steps=4))
    expected = [2 + weight for weight in (1, 2, 3, 4, 5, 5, 5)]
    assert losses(monkeypatch, fitted(), regularizer=rising) == pytest.approx(expected)


def test_the_prior_sees_the_object_on_the_views_mean_ground_through_their_mean_lens() -> None:
    began, prior = fitted(), Agreeing()
    haze = began.representation
    distil(began, prior, "a", settings=DistilSettings(**ALIKE | {"steps": 1}), generator=torch.Generator())
    ground = torch.tensor([0.3, 0.3, 0.3])
    torch.testing.assert_close(prior.pictures[0], (0.25 * 0.75 + 0.75 * ground)[:, None, None].expand(4, 3, 16, 16))
    assert isinstance(haze, Haze) and haze.calls.count("render 4 at 16") == 1
    torch.testing.assert_close(haze.seen[0].fov_deg, torch.full((4,), 35.0))
    torch.testing.assert_close(haze.seen[0].position.norm(dim=-1), torch.full((4,), 2.25))


@pytest.mark.parametrize(("size", "compared"), [(32, 16), (8, 8)])
def test_pictures_are_compared_no_larger_than_the_prior_sees(size: int, compared: int) -> None:
    began = fitted(size=size)
    distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE | {"photometric_weight": 1.0}))
    haze = began.representation
    assert isinstance(haze, Haze)
    renders = [call for call in haze.calls if "render" in call]
    assert len(renders) == 7 + 3 and set(renders) == {f"render 4 at {compared}", "render 4 at 16"}


def test_empty_space_is_looked_for_every_ten_steps_and_at_the_end() -> None:
    began, seen = fitted(), []
    haze = began.representation
    assert isinstance(haze, Haze)
    settings = DistilSettings(**ALIKE | {"steps": 21})
    distil(began, Agreeing(), "a", settings=settings, progress=lambda *step: seen.append(step))
    refreshed = [i for i, call in enumerate(call for call in haze.calls if call != "constrain") if call == "refresh"]
    assert refreshed == [0, 11, 22, 24], "before steps 0, 10, 20, and after the last"
    assert seen == [("distil", step, 21) for step in range(22)]


def test_an_object_that_leaves_its_silhouettes_is_taken_back_and_told_of() -> None:
    """Of silhouettes that cover 0.4 a healthy object leaves a quarter; a blob may be as thin as it likes."""
    for covers, back in ((0.11, 0), (0.09, MAX_ROLLBACKS + 1)):
        told: list[str] = []
        began = replace(fitted(alpha=0.4), representation=Haze(covers=covers))
        refined = distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE), note=told.append)
        assert refined.rollbacks == len(told) == back
    assert "the object covered 9.0% of the pictures" in told[0] and "return 1 of 3" in told[0]
    assert told[-1].endswith("(it ends there).")
    assert distil(replace(began, pictures=None), Agreeing(), "a", settings=DistilSettings(**ALIKE)).rollbacks == 0


def test_no_steps_return_what_was_fitted() -> None:
    began = fitted()
    refined = distil(began, Agreeing(), "a", settings=DistilSettings(steps=0))
    assert refined.representation is began.representation and refined.observed is began.observed
    assert refined.rollbacks == 0


def test_a_step_that_is_done_again_draws_the_same_cameras() -> None:
    class Short(Haze):
        def render(self, cameras: Cameras, *, size: int, **how: Any) -> Rendering:
            drawn = super().render(cameras, size=size, **how)
            if len(self.seen) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return drawn

    began = replace(fitted(), representation=(short := Short()))
    with pytest.warns(UserWarning, match="memory ran out"):
        distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE), generator=torch.Generator())
    failed, again = short.seen[2], short.seen[3:5]
    assert [len(part) for part in again] == [2, 2]
    torch.testing.assert_close(Cameras.cat(again).world_from_camera, failed.world_from_camera)
    assert not torch.allclose(short.seen[1].world_from_camera, failed.world_from_camera)


def test_numbers_that_the_last_step_spoils_are_taken_back() -> None:
    class Spoiled(Haze):
        def constrain(self) -> None:
            super().constrain()
            if self.calls.count("constrain") == 7:
                self.color.detach().fill_(float("nan"))

    told: list[str] = []
    began = replace(fitted(), representation=(spoiled := Spoiled()))
    refined = distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE), note=told.append)
    assert refined.rollbacks == 1 and spoiled.is_finite() and spoiled.color.tolist() == [0.75] * 3
    assert told == ["distil, step 7: the last steps left numbers that are not finite; back to the last good state "
                    "(return 1 of 3)."]  # fmt: skip


def test_the_views_stay_what_a_distilled_object_is_compared_with() -> None:
    began = fitted()
    assert distil(began, Agreeing(), "a", settings=DistilSettings(**ALIKE)).observed is began.observed
    alone = distil(replace(began, pictures=None), Agreeing(), "a", settings=DistilSettings(**ALIKE)).observed
    assert alone is not began.observed and float(alone.views.cameras.fov_deg[0]) == pytest.approx(35)


@pytest.mark.parametrize("decay", [{}, {"decay": 0.25}])
def test_a_first_step_of_the_guard_is_as_long_as_the_rate_that_is_left(decay: dict[str, float]) -> None:
    haze = Haze()
    guard = Guard(haze, coverage=0.25, learning_rate=0.1)
    loss = haze.color.sum() + 0 * haze.radius
    guard.backward(loss)
    assert guard.advance(loss, coverage=0.25, **decay)
    assert haze.color.tolist() == pytest.approx([0.75 - 0.1 * decay.get("decay", 1.0)] * 3)


def test_the_guard_goes_back_to_the_last_tenth_step() -> None:
    """A constant slope moves Adam by the rate in each step: 17 good ones, and the state before the eleventh."""
    haze = Haze()
    guard = Guard(haze, coverage=0.25, learning_rate=0.01)
    for _ in range(17):
        assert guard.step(haze.color.sum() + 0 * haze.radius, coverage=0.25)
    assert haze.color.tolist() == pytest.approx([0.58] * 3, abs=1e-4)
    assert not guard.step(haze.color.sum(), coverage=0.0)
    assert haze.color.tolist() == pytest.approx([0.65] * 3, abs=1e-4)
    assert guard.step(haze.color.sum() + 0 * haze.radius, coverage=0.25)
    assert haze.color.tolist() == pytest.approx([0.645] * 3, abs=1e-4), "half the rate from there on"


def test_a_guard_that_goes_on_has_the_background_the_momentum_and_the_good_state_of_the_one_before() -> None:
    def slope(haze: Haze, behind: Background) -> Tensor:
        return (haze.color - 0.5).square().sum() + 0 * haze.radius + behind(torch.eye(3)).sum()

    haze, behind = Haze(), Background(generator=torch.Generator().manual_seed(0))
    guard = Guard(haze, coverage=0.25, learning_rate=0.01, background=behind)
    other, beside = Haze(), Background(generator=torch.Generator().manual_seed(1))
    again = Guard(other, coverage=0.25, learning_rate=0.01, background=beside)
    for _ in range(12):
        guard.step(slope(haze, behind), coverage=0.25)
    again.resume(deepcopy(guard.state()))
    for covers in (0.25, 0.25, 0.0, 0.25):
        assert guard.step(slope(haze, behind), coverage=covers) == again.step(slope(other, beside), coverage=covers)
        assert torch.equal(haze.color, other.color)
        assert all(torch.equal(a, b) for a, b in zip(behind.parameters(), beside.parameters(), strict=True))
    assert (again.rollbacks, again.learning_rate) == (1, 0.005)
