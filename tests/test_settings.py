"""The settings of a run: refused where they cannot train; the rate at every step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from viewfold.errors import InputError
from viewfold.training.settings import LoopSettings, learning_rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": float("nan")}, {"lr": 0.0}, {"steps": -1}, {"minutes": 0.0}, {"optimizer": "sgd"}, {"cooldown": -1},
        {"warmup": -1}, {"clip": 0.0}, {"ema": 1.0}, {"ema": -0.1}, {"weight_decay": -1.0}, {"precision": "int3"},
        {"accumulate": 0}, {"keep": 0}, {"schedule": "step"}, {"parallel": "tensor"}, {"checkpoint_minutes": -1.0},
        {"check_steps": 0}, {"cooldown": 11, "steps": 10}, {"cooldown": 5, "schedule": "cosine"}, {"seed": -1},
        {"beta2": 1.0}, {"weight_decay": float("inf")}, {"clip": float("nan")}, {"minutes": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must"):
        LoopSettings(**wrong)


def test_a_constant_rate_rises_holds_and_falls() -> None:
    settings = LoopSettings(steps=100, lr=2.0, warmup=10, cooldown=20)
    rates = [learning_rate(step, settings) for step in (0, 4, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.0, 0.1])
    assert learning_rate(99, LoopSettings(steps=100, lr=2.0, warmup=0)) == 2.0


@pytest.mark.parametrize(
    ("schedule", "shape"), [("linear", lambda x: 1 - x), ("cosine", lambda x: 0.5 * (1 + math.cos(math.pi * x)))]
)
def test_schedules_fall_to_zero_at_the_last_step(schedule: str, shape: Any) -> None:
    settings = LoopSettings(steps=200, lr=1.0, warmup=10, schedule=schedule)
    assert [learning_rate(s, settings) for s in (4, 50, 100, 199)] == pytest.approx(
        [0.5, *(shape(s / 200) for s in (50, 100, 199))]
    )
