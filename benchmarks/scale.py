"""What happens at scale, before anybody pays for it: stragglers, preemption, lost workers, slow storage.

    python benchmarks/scale.py                          the three plans of docs/scale.md
    python benchmarks/scale.py render --machines 50     one of them with other numbers
    python benchmarks/scale.py --csv out/scale.csv      every run as a row

Two models.  `simulate_farm`: units that need nothing of each other (render, pack, generate), given to the slots of many
machines by one driver, read from and written to one store.  `simulate_synchronous`: training, where every machine waits
for all others, and one that is lost sends all of them back to the last checkpoint.  Times of units and rates of failure
are those measured on this project's own programs, as it says below; what a cloud does is an assumption, and says so.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one task costs."""

    name: str
    count: int
    """Tasks in all."""
    seconds: float
    """Mean time of a task on one slot, storage left out."""
    spread: float = 0.4
    """Deviation of the logarithm of the time."""
    read_mb: float = 0.0
    write_mb: float = 0.0
    poison: float = 0.0
    """Share of tasks that kill their worker every time."""
    fails: float = 0.0
    """Share of tasks that end with a reason (a damaged file), after their time."""


@dataclass(frozen=True, kw_only=True)
class Farm:
    """What the tasks run on."""

    machines: int
    slots: int
    """Tasks at once on a machine."""
    preempted_h: float = math.inf
    """Mean hours until a machine is taken away."""
    back_s: float = 300.0
    """Mean seconds until another one stands in its place."""
    slow_machines: float = 0.0
    """Share of machines that work at a third of the speed."""
    storage_mb_s: float = math.inf
    """Of the one store that all share, reading and writing together."""
    dispatch_s: float = 0.0
    """The driver's own time for a task."""
    retries: int = 3
    """Times that a task is given to another worker when its own dies (`viewfold.cluster.RETRIES`)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    name: str
    machines: int
    hours: float
    machine_hours: float
    efficiency: float
    """Time of units that counted / time of all slots."""
    redone: int
    """Tasks that were begun again, for a machine was lost."""
    failed: int
    given_up: int
    """Tasks whose worker died each time."""
    storage_busy: float
    driver_busy: float

    @property
    def breaks_first(self) -> str:
        """What holds the rest up."""
        if self.storage_busy > 0.9:
            return "storage"
        if self.driver_busy > 0.9:
            return "driver"
        return "nothing" if self.efficiency > 0.8 else "lost machines and stragglers"


class _Server:
    """Something that does one thing after the other: storage, or the driver.  Jobs must come in the order of time."""

    def __init__(self) -> None:
        self.free_at, self.busy = 0.0, 0.0

    def take(self, now: float, seconds: float) -> float:
        """Return when a job that comes now and takes so long is done."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy += seconds
        return self.free_at


class _Machine:
    """When a machine is there: from one moment on, until another."""

    def __init__(self, farm: Farm, draw: random.Random) -> None:
        self._farm, self._draw = farm, draw
        self.slowness = 3.0 if draw.random() < farm.slow_machines else 1.0
        self.since, self.until = 0.0, _until(draw, 3600 * farm.preempted_h)

    def there_from(self, now: float) -> float:
        """Return when it, or what comes in its place, is there: now, or later."""
        while now >= self.until:
            self.since = self.until + self._draw.expovariate(1 / self._farm.back_s)
            self.until = self.since + _until(self._draw, 3600 * self._farm.preempted_h)
        return max(now, self.since)


@dataclass
class _Task:
    tries: int
    poison: bool
    spent: float = 0.0
    """Seconds of work in this try."""


def simulate_farm(unit: Unit, farm: Farm, *, seed: int = 0) -> Outcome:
    """Run all tasks of a unit on a farm, event by event: a slot asks for work, computes, writes, asks again."""
    draw = random.Random(seed)
    storage, driver = _Server(), _Server()
    machines = [_Machine(farm, draw) for _ in range(farm.machines)]
    events: list[tuple[float, int, int, _Task | None]] = [
        (0.0, slot, slot % farm.machines, None) for slot in range(farm.machines * farm.slots)
    ]  # (time, order, machine, the task that it has computed; None: asks for work)
    order, again, ends = len(events), [], []
    left, running, useful, away = unit.count, 0, 0.0, 0.0
    redone = failed = given_up = 0
    typical = unit.seconds / math.exp(unit.spread**2 / 2)
    while events:
        now, _, number, task = heapq.heappop(events)
        machine = machines[number]
        if task is not None:  # computed, or lost on the way
            running -= 1
            if task.poison or task.spent < 0:
                if task.tries < farm.retries or not task.poison:
                    redone += 1
                    again.append(_Task(task.tries + 1, task.poison))
                else:
                    given_up += 1
            else:
                useful += task.spent
                if draw.random() < unit.fails:
                    failed += 1
                elif unit.write_mb:
                    now = storage.take(now, unit.write_mb / farm.storage_mb_s)
            order += 1
            heapq.heappush(events, (now, order, number, None))
            continue
        there = machine.there_from(now)
        if there > now:
            away += there - now
            order += 1
            heapq.heappush(events, (there, order, number, None))
            continue
        if again:
            task = again.pop()
        elif left:
            left, task = left - 1, _Task(0, draw.random() < unit.poison)
        elif running:  # what runs now may be lost: ask again in a while
            order += 1
            heapq.heappush(events, (now + max(1.0, unit.seconds / 10), order, number, None))
            continue
        else:
            ends.append(now)
            continue
        begun = driver.take(now, farm.dispatch_s)
        begun = storage.take(begun, unit.read_mb / farm.storage_mb_s) if unit.read_mb else begun
        task.spent = typical * math.exp(draw.gauss(0, unit.spread)) * machine.slowness
        end = begun + task.spent
        if end > machine.until:
            end, task.spent = max(machine.until, now), -1.0
        running += 1
        order += 1
        heapq.heappush(events, (end, order, number, task))
    wall = max(ends)
    paid = wall * farm.machines * farm.slots - away
    return Outcome(
        name=unit.name, machines=farm.machines, hours=wall / 3600, machine_hours=paid / farm.slots / 3600,
        efficiency=useful / paid, redone=redone, failed=failed, given_up=given_up, storage_busy=storage.busy / wall,
        driver_busy=driver.busy / wall,
    )  # fmt: skip


def _until(draw: random.Random, mean_s: float) -> float:
    return math.inf if math.isinf(mean_s) else draw.expovariate(1 / mean_s)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run that all machines make together."""

    flop: float
    flop_s: float
    """That a machine reaches."""
    machines: int
    step_s: float
    """Of one machine."""
    jitter: float = 0.03
    """Deviation of a machine's step, of which the slowest counts."""
    exchange_s: float = 0.0
    """Of the gradients, each step."""
    lost_h: float = 200.0
    """Mean hours until one machine is lost."""
    back_s: float = 600.0
    """Until all machines compute again."""
    checkpoint_s: float = 20.0
    every_s: float = 300.0
    """Between checkpoints."""


def best_interval(run: Training) -> float:
    """Return the seconds between checkpoints that lose least: sqrt(2 x checkpoint x between losses) (Young 1974)."""
    return math.sqrt(2 * run.checkpoint_s * 3600 * run.lost_h / run.machines)


def simulate_synchronous(run: Training, *, seed: int = 0) -> Outcome:
    """Train to the end, from one checkpoint to the next."""
    draw = random.Random(seed)
    # The mean of the slowest of n normal draws, sigma sqrt(2 ln n), is a little high for few machines.
    step = run.step_s * (1 + run.jitter * math.sqrt(2 * math.log(max(run.machines, 1)))) + run.exchange_s
    ideal = run.flop / (run.flop_s * run.machines)
    need = ideal / run.step_s * step  # seconds of computing, waiting for the slowest included
    now = done = 0.0
    dies, redone = _until(draw, 3600 * run.lost_h / run.machines), 0
    while done < need:
        part = min(run.every_s, need - done)
        if now + part + run.checkpoint_s > dies:
            now, redone = dies + draw.expovariate(1 / run.back_s), redone + 1
            dies = now + _until(draw, 3600 * run.lost_h / run.machines)
            continue
        now, done = now + part + run.checkpoint_s, done + part
    return Outcome(
        name="train", machines=run.machines, hours=now / 3600, machine_hours=now * run.machines / 3600,
        efficiency=ideal / now, redone=redone, failed=0, given_up=0, storage_busy=0.0, driver_busy=0.0,
    )  # fmt: skip


DRIVER_S = 0.0006
"""Of Ray's driver for a task that is empty, two processors: 1,600 a second (`tests/test_cluster.py` prints it)."""

RENDER = Unit(name="render", count=10_000_000 // 32, seconds=32 * 2.5, spread=0.4, read_mb=32 * 3.0, write_mb=32 * 0.6,
              poison=1e-4)  # fmt: skip
"""A task of 32 assets, 32 views of 256 px each; how many kill their worker is assumed."""

PACK = Unit(name="pack", count=10_000_000 // 512, seconds=512 * 0.25, spread=0.2, read_mb=512 * 0.6, write_mb=512 * 0.6)
"""A task is a shard of 512 samples: every picture is decoded once, to know that it can be."""

GENERATE = Unit(name="generate", count=1_000_000 // 64, seconds=64 * 1.06, spread=0.02, write_mb=64 * 0.5)
"""A task of 64 prompts on an H100: 50 guided steps of 20.75 ms, decoding 26 ms (benchmarks/GPU.md), 256 px."""

TRAIN = Training(flop=125e18, flop_s=197e12, machines=16, step_s=0.82)
"""64 objects of four views a step on an H100 with gradient checkpointing: 197 TFLOP/s (benchmarks/GPU.md)."""

SPOT = Farm(machines=100, slots=64, preempted_h=12.0, slow_machines=0.02, storage_mb_s=2000, dispatch_s=DRIVER_S)
"""Assumed: machines of 64 processors that are taken away twice a day, one store of 2 GB/s."""


def plans() -> list[tuple[str, Outcome]]:
    """Run the plans of docs/scale.md and what happens to each when one thing is worse."""
    gpus = replace(SPOT, machines=16, slots=1, preempted_h=24.0)
    farms = [
        ("as planned", RENDER, SPOT),
        ("half of the storage's speed", RENDER, replace(SPOT, storage_mb_s=SPOT.storage_mb_s / 2)),
        ("a tenth of the storage's speed", RENDER, replace(SPOT, storage_mb_s=SPOT.storage_mb_s / 10)),
        ("machines taken away every hour", RENDER, replace(SPOT, preempted_h=1.0)),
        ("a fifth of the machines slow", RENDER, replace(SPOT, slow_machines=0.2)),
        ("tasks of eight assets", replace(RENDER, count=RENDER.count * 4, seconds=RENDER.seconds / 4,
                                       read_mb=RENDER.read_mb / 4, write_mb=RENDER.write_mb / 4), SPOT),
        ("ten times the machines", RENDER, replace(SPOT, machines=1000)),
        ("as planned", PACK, replace(SPOT, machines=10)),
        ("a million prompts", GENERATE, gpus),
        ("taken away every two hours", GENERATE, replace(gpus, preempted_h=2.0)),
    ]  # fmt: skip
    rows = [(case, simulate_farm(unit, farm)) for case, unit, farm in farms]
    for case, run in (
        ("as planned", TRAIN),
        ("checkpoints at the best interval", replace(TRAIN, every_s=best_interval(TRAIN))),
        ("128 machines", replace(TRAIN, machines=128)),
        ("128, a machine lost every 50 hours each", replace(TRAIN, machines=128, lost_h=50.0)),
    ):
        rows.append((case, simulate_synchronous(run)))
    return rows


def table(rows: Sequence[tuple[str, Outcome]]) -> str:
    """Return the outcomes as Markdown."""
    lines = ["| what | case | machines | hours | machine-hours | efficiency | redone | failed | given up | storage "
             "busy | driver busy | breaks first |", "|" + "---|" * 12]  # fmt: skip
    for case, o in rows:
        lines.append(
            f"| {o.name} | {case} | {o.machines} | {o.hours:.1f} | {o.machine_hours:,.0f} | {o.efficiency:.0%} | "
            f"{o.redone:,} | {o.failed:,} | {o.given_up} | {o.storage_busy:.0%} | {o.driver_busy:.0%} | "
            f"{o.breaks_first} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Read the arguments, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="?", choices=["all", "render", "pack", "generate", "train"], default="all")
    parser.add_argument("--machines", type=int, help="of the one plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    if options.plan == "all":
        rows = plans()
    elif options.plan == "train":
        run = replace(TRAIN, machines=options.machines or TRAIN.machines)
        rows = [("as asked", simulate_synchronous(run, seed=options.seed))]
    else:
        unit = {"render": RENDER, "pack": PACK, "generate": GENERATE}[options.plan]
        farm = replace(SPOT, machines=options.machines or SPOT.machines)
        farm = replace(farm, slots=1) if options.plan == "generate" else farm
        rows = [("as asked", simulate_farm(unit, farm, seed=options.seed))]
    print(table(rows))
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["case", *asdict(rows[0][1])])
            writer.writeheader()
            writer.writerows({"case": case, **asdict(outcome)} for case, outcome in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
