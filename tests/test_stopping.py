"""Asked to stop, a run ends after its step with a checkpoint, and goes on exactly; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import FAST, draw, run
from torch import Tensor

from viewfold.errors import Stopped


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as in a terminal; a suite that a shell starts in the background would ignore some."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind in kinds:
        signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_after_the_step_and_the_run_continues_exactly(kind: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(kind)

    def interrupted(step: int, generator: torch.Generator) -> Tensor:
        if step == 10:
            signal.raise_signal(kind)
            if kind != signal.SIGINT:
                signal.raise_signal(signal.SIGTERM)  # passed on by a launcher as well
        return draw(step, generator)

    with pytest.raises(Stopped) as stop:
        run(tmp_path / "parts", replace(FAST, read_ahead=0), draw=interrupted)
    assert stop.value.exit_code == 128 + (signal.SIGTERM if kind == signal.SIGHUP else kind) and stop.value.saved
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-00000011"]
    assert signal.getsignal(kind) is before
    assert torch.equal(run(tmp_path / "whole").weight, run(tmp_path / "parts").weight)  # type: ignore[arg-type]


@pytest.mark.usefixtures("terminal")
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def interrupted(step: int, generator: torch.Generator) -> Tensor:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    with pytest.raises(KeyboardInterrupt) as stop:
        run(tmp_path, replace(FAST, read_ahead=0), draw=interrupted)
    assert not isinstance(stop.value, Stopped) and not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.usefixtures("terminal")
def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def interrupted(step: int, generator: torch.Generator) -> Tensor:
        signal.raise_signal(signal.SIGHUP)
        return draw(step, generator)

    run(tmp_path, replace(FAST, steps=3, read_ahead=0), draw=interrupted)
