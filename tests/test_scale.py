"""The simulation of many machines where the answer is known by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from scale import Farm, Training, Unit, best_interval, simulate_farm, simulate_synchronous  # noqa: E402

UNIT = Unit(name="x", count=4000, seconds=10.0, spread=0.0)
FARM = Farm(machines=10, slots=4)


def test_without_trouble_the_work_is_shared_out() -> None:
    done = simulate_farm(UNIT, FARM)
    assert done.hours * 3600 == pytest.approx(4000 * 10 / 40) and done.efficiency == pytest.approx(1)
    assert (done.redone, done.failed, done.given_up) == (0, 0, 0) and done.breaks_first == "nothing"


def test_a_store_or_a_driver_that_is_slower_than_all_slots_decides() -> None:
    slow = simulate_farm(replace(UNIT, read_mb=100.0), replace(FARM, storage_mb_s=200.0))
    assert slow.hours * 3600 == pytest.approx(4000 * 0.5, rel=0.01) and slow.breaks_first == "storage"
    busy = simulate_farm(UNIT, replace(FARM, dispatch_s=0.5))
    assert busy.hours * 3600 == pytest.approx(4000 * 0.5, rel=0.01) and busy.breaks_first == "driver"


def test_poison_costs_four_workers_and_lost_machines_cost_what_they_had_in_hand() -> None:
    poison = simulate_farm(replace(UNIT, poison=1.0, count=40), FARM)
    assert (poison.given_up, poison.redone) == (40, 120)
    lost = simulate_farm(UNIT, replace(FARM, preempted_h=0.05, back_s=30.0))
    assert lost.redone > 0 and lost.given_up == 0 and 0.8 < lost.efficiency < 1


def test_training_waits_for_checkpoints_and_goes_back_to_them() -> None:
    run = Training(
        flop=1e18, flop_s=1e14, machines=10, step_s=1.0, jitter=0.0, lost_h=1e9, checkpoint_s=10.0, every_s=100.0
    )
    assert simulate_synchronous(run).hours * 3600 == pytest.approx(1100)
    often = replace(run, flop=1e20, lost_h=10.0)
    best = replace(often, every_s=best_interval(often))
    assert simulate_synchronous(best).efficiency > simulate_synchronous(replace(often, every_s=10.0)).efficiency
    assert simulate_synchronous(best).efficiency > simulate_synchronous(replace(often, every_s=3000.0)).efficiency
