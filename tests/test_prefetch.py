"""Reading ahead: the same batches in the same order whoever reads them, and an end that waits for nobody."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import FAST, run, squared_error
from torch import Tensor

from viewfold.errors import AssetError
from viewfold.training.prefetch import Prefetch


def coming(steps: int, parts: int = 2) -> list[tuple[int, int]]:
    return [(step, part) for step in range(steps) for part in range(parts)]


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_each_part_is_made_once_and_given_in_order(ahead: int) -> None:
    made: list[tuple[int, int]] = []

    def make(step: int, part: int) -> tuple[int, int]:
        time.sleep(0.002 * ((step + part) % 3))  # they are ready in another order
        made.append((step, part))
        return step, part

    with Prefetch(make, iter(coming(5)), ahead=ahead, workers=2) as batches:
        assert [batches.take(*key) for key in coming(5)] == coming(5)
    assert sorted(made) == coming(5)


def test_no_more_is_made_than_was_allowed() -> None:
    made: list[int] = []
    with Prefetch(lambda step, _: made.append(step), iter(coming(100, 1)), ahead=3, workers=2) as batches:
        batches.take(0, 0)
        time.sleep(0.1)
        assert sorted(made) == [0, 1, 2, 3]


def test_what_goes_wrong_is_raised_where_it_is_asked_for_and_threads_end() -> None:
    def make(step: int, _: int) -> int:
        if step == 2:
            raise AssetError("`a.tar` is cut short")
        return step

    before = threading.active_count()
    with Prefetch(make, iter(coming(9, 1)), ahead=3, workers=2) as batches:
        assert batches.take(0, 0) == 0 and batches.take(1, 0) == 1
        with pytest.raises(AssetError, match=r"a\.tar"):
            batches.take(2, 0)
    assert threading.active_count() == before


def test_a_run_that_reads_ahead_is_the_run_that_does_not_also_when_it_is_resumed(tmp_path: Path) -> None:
    settings = replace(FAST, steps=6, accumulate=2)
    weights = [run(tmp_path / str(ahead), replace(settings, read_ahead=ahead)).weight for ahead in (0, 1, 5)]
    run(tmp_path / "parts", replace(settings, steps=3, read_ahead=5))
    weights.append(run(tmp_path / "parts", replace(settings, read_ahead=2)).weight)
    assert all(torch.equal(weights[0], other) for other in weights[1:])  # type: ignore[arg-type]


def test_the_next_batches_are_read_while_the_network_computes(tmp_path: Path) -> None:
    def draw(step: int, generator: torch.Generator) -> Tensor:
        time.sleep(0.02)
        return torch.randn(16, 3, generator=generator)

    def waits(ahead: int) -> float:
        told: list[float] = []
        network = torch.nn.Linear(3, 1)
        inner = squared_error(network)

        def loss(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            time.sleep(0.03)
            return inner(x, generator)

        settings = replace(FAST, steps=8, read_ahead=ahead, warmup=0)
        run(tmp_path / str(ahead), settings, network, draw=draw, loss=loss, progress=lambda s: told.append(s.waiting))
        return told[-1]

    assert waits(0) > 0.25 and waits(3) < 0.1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_ctrl_c_twice_ends_a_run_that_waits_for_a_disk_which_does_not_answer(tmp_path: Path) -> None:
    hung, before = threading.Event(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)

    def draw(step: int, generator: torch.Generator) -> Any:
        hung.wait(30)

    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, draw=draw)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)
        hung.set()
    assert time.monotonic() - started < 10
