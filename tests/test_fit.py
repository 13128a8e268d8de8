"""What a fit asks of a representation, in which order, and what it descends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from lift_fakes import ball_views
from sphere import Sphere
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid


class Watched(Sphere):
    """Begins with the ball's own radius; its own loss pulls the radius to nothing, and calls are written down."""

    def __init__(self, weight: float) -> None:
        super().__init__(0.35, torch.tensor([0.5, 0.5, 0.5]))
        self.weight = weight

    def render(self, cameras: Cameras, *, size: int, generator: torch.Generator | None = None, **how) -> Rendering:
        drawn = super().render(cameras, size=size, generator=generator, **how)
        self.calls[-1] = f"render {len(cameras)} at {size}"
        return drawn

    def prior_loss(self) -> Tensor:
        return self.weight * self.radius.square()


@dataclass(frozen=True, kw_only=True)
class WatchedSettings:
    weight: float = 0.0
    kind: str = "watched"

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> Watched:
        made = Watched(self.weight)
        made.calls.append(f"begin {detail:g}")
        return made


def fitted(*, steps: int, weight: float = 0.0, n_views: int = 4) -> Watched:
    views = observe(ball_views(size=32, n_views=n_views))
    settings, generator = FitSettings(steps=steps, views_at_once=6), torch.Generator().manual_seed(0)
    made = fit(views, representation=WatchedSettings(weight=weight), settings=settings, generator=generator)
    assert isinstance(made.representation, Watched)
    return made.representation


def test_a_fit_is_coarse_for_three_fifths_and_looks_where_it_is_empty_every_ten_steps() -> None:
    calls = [call for call in fitted(steps=25).calls if call != "constrain"]
    coarse, fine = ["render 4 at 16"], ["render 4 at 32"]
    begun = ["begin 0.5", "detail 0.5", "refresh", *10 * coarse, "refresh", *5 * coarse]
    assert calls == [*begun, "detail 1", *5 * fine, "refresh", *5 * fine, "refresh"]


def test_of_many_views_some_are_compared_in_a_step() -> None:
    assert {call for call in fitted(steps=2, n_views=9).calls if "render" in call} == {
        "render 6 at 16",
        "render 6 at 32",
    }


def test_a_fit_descends_the_pictures_and_the_representations_own_loss() -> None:
    free, pulled = (fitted(steps=20, weight=weight) for weight in (0.0, 10.0))
    assert float(free.radius.detach()) == pytest.approx(0.35, abs=0.02)
    assert float(pulled.radius.detach()) < 0.25
    assert free.color.tolist() != [0.5, 0.5, 0.5] and float(free.color[0].detach()) > 0.6
