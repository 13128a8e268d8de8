"""One run of the loop: its network, averages and optimiser, what a step does, what a checkpoint holds.

`loop.fit` knows the order of things; this knows each of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from viewfold.device import matmul_flops, peak_memory_mib
from viewfold.errors import FitError, InputError, WeightsError
from viewfold.model.weights_hash import hash_tensors
from viewfold.stopping import SIGNALS, StopRequest
from viewfold.store import atomic_write, contradictions, read_json, write_json
from viewfold.training.average import Ema
from viewfold.training.checkpoint import Checkpoints, step_of
from viewfold.training.health import check_finite
from viewfold.training.monitor import Meter
from viewfold.training.optimizer import Optimizer
from viewfold.training.parallel import Loss, Spread
from viewfold.training.prefetch import Prefetch
from viewfold.training.ranks import Ranks
from viewfold.training.settings import LoopSettings, learning_rate
from viewfold.training.writers import Writer

MAX_FAILURES = 20
"""So many steps on end whose gradient is not finite end the run."""

READERS = 2
"""Threads that read batches: one waits for the disk or the service while the other computes."""

MAY_CHANGE = {"steps", "minutes", "checkpoint_minutes", "keep", "check_steps", "accumulate", "parallel", "read_ahead"}
"""Settings that a resumed run may have otherwise; processes x accumulate may not, and `steps` only where the rates of
the steps that were made stay what they were."""


@runtime_checkable
class Movable(Protocol):
    """A batch: anything that goes to a device."""

    def to(self, device: torch.device) -> Any:
        """Return the batch there."""
        ...


@runtime_checkable
class Pinnable(Protocol):
    """A batch that can lie in memory from which CUDA copies while the host goes on."""

    def pin_memory(self) -> Any:
        """Return the batch there."""
        ...


Draw = Callable[[int, torch.Generator], Movable]
"""(step, generator) -> the batch of one part of a step, on the host; called by several threads."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a look at the averaged weights found."""

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """"3 h w" in [0, 1], by name."""
    enough: str = ""
    """Why the run should end here, if it should."""


Account = Callable[[], Mapping[str, Any]]
"""Whatever else the report says at the end, of this process."""

Check = Callable[[int], Checked]
"""Called every so many steps, on all processes alike, while the network holds its averages in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a run."""

    network: nn.Module
    """An ordinary network with the averaged weights: the one that came in, or under FSDP a new one."""
    report: dict[str, Any]
    """What is in run.json: settings, speed, operations, memory."""


def step_generator(seed: int, step: int, part: int) -> torch.Generator:
    """Return the generator of one part of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + part)


class Run:
    """The state of one run."""

    def __init__(
        self, network: nn.Module, draw: Draw, loss: Loss, out: Path, settings: LoopSettings, ranks: Ranks, *,
        samples: int, record: Mapping[str, Any], account: Account | None = None,
    ) -> None:  # fmt: skip
        self.draw, self.out, self.settings, self.ranks = draw, out, settings, ranks
        self._account = account or dict
        self.parts = ranks.world * settings.accumulate
        self.device = next(network.parameters()).device
        ranks.share(network)
        start = hash_tensors(sorted(network.state_dict().items())).hexdigest()  # which model, or seed, it began from
        self.spread = Spread(network, loss, settings=settings, ranks=ranks)
        self.network = self.spread.network
        self.optimizer = Optimizer(
            network, settings.optimizer, beta2=settings.beta2, weight_decay=settings.weight_decay
        )
        self.ema = Ema(network, settings.ema)
        self.checkpoints = Checkpoints(out, ranks=ranks, keep=settings.keep)
        self.meter = Meter(settings, samples=samples * self.parts, device=self.device)
        self.flops = 0
        self.skipped = self.failures = 0
        self.ended = ""
        """Why the run ended before its last step, if a check said so."""
        self.moving = False
        """In the midst of an update: weights and averages that belong to no step."""
        self._counted = False
        self._saved, self._saved_s = -1, self.meter.elapsed_s
        self._given = {"start": start, **record}

    def record(self, done: int) -> dict[str, Any]:
        """Return what a checkpoint says of the run."""
        decides = {name: value for name, value in asdict(self.settings).items() if name not in MAY_CHANGE}
        return {
            "step": done,
            "decides": {**decides, "parts": self.parts, **self._given},
            "settings": asdict(self.settings),
            "processes": self.ranks.world,
            "flops": self.flops,
            "ended": self.ended,
            "torch": torch.__version__,
        }

    def state(self) -> dict[str, Tensor]:
        """Return every tensor of the run; a checkpoint fills them in place."""
        groups = {"network": self.network.state_dict(), "ema": self.ema.weights, "optimizer": self.optimizer.state()}
        return {f"{group}.{name}": value for group, tensors in groups.items() for name, value in tensors.items()}

    def resume(self, *, override: bool) -> int:
        """Take over the newest checkpoint; return the steps it has behind it."""
        newest: Path | None = None
        with self.ranks.together():
            newest = self.checkpoints.newest() if self.ranks.lead else None
        chosen = -1 if newest is None else step_of(newest)
        done = round(self.ranks.total([float(chosen if self.ranks.lead else 0)])[0])  # rank 0 decides for all
        if done < 0:
            return 0
        path = self.checkpoints.path(done)
        with self.ranks.together():
            record = self.checkpoints.record(path)
            if not override:
                self._check_record(path, record, done)
                flops = record.get("flops")
                self.flops = flops if isinstance(flops, int) else 0
                self.ended = str(record.get("ended") or "")
                self._counted = self.flops > 0  # it takes layers apart, which rounds otherwise: not in a later step
        with self.ranks.together():
            self.checkpoints.load(path, self.state(), sharded=self.spread.sharded)
            check_finite(self.state(), f"`{path}` must hold finite weights", WeightsError)
        self._saved = done
        return done

    def _check_record(self, path: Path, record: dict[str, Any], done: int) -> None:
        now = json.loads(json.dumps(self.record(done)))  # tuples become lists, as in the file
        before = record.get("decides")
        differ = contradictions(before if isinstance(before, dict) else {}, now["decides"])
        known = {f.name for f in fields(LoopSettings)}
        try:
            former = LoopSettings(**{k: v for k, v in record["settings"].items() if k in known})
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise WeightsError(f"`{path}` must say with which settings it was made: {error}.") from error
        if done > former.steps:
            raise WeightsError(f"`{path}` must be a step of its run, which had {former.steps}; got {done}.")
        last = max(done - 1, 0)  # schedules that differ anywhere before it differ there
        if not differ and done and learning_rate(last, former) != learning_rate(last, self.settings):
            differ = [f"steps was {former.steps}, is {self.settings.steps}, which changes the rates of steps made"]
        if differ:
            raise InputError(
                f"`out` must be resumed with the settings of {path.name}; {'; '.join(differ)}. "
                "Give the same ones, name another folder, or insist with --override."
            )

    def reading(self, first: int) -> Prefetch:
        """Return what reads the batches of this process from a step on."""
        mine = range(self.ranks.rank * self.settings.accumulate, (self.ranks.rank + 1) * self.settings.accumulate)
        coming = ((step, part) for step in range(first, self.settings.steps) for part in mine)
        return Prefetch(self._part, coming, ahead=self.settings.read_ahead, workers=READERS)

    def _part(self, step: int, part: int) -> tuple[Movable, torch.Generator]:
        """Return the batch of a part of a step, and the generator as the batch has left it."""
        generator = step_generator(self.settings.seed, step, part)
        batch = self.draw(step, generator)
        if self.device.type == "cuda" and isinstance(batch, Pinnable):
            batch = batch.pin_memory()
        return batch, generator

    def step(self, step: int, batches: Prefetch) -> dict[str, float]:
        """Make one step; return its figures, averaged over this process's parts."""
        self.network.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for micro in range(self.settings.accumulate):
            with self.meter.waiting():
                batch, generator = batches.take(step, self.ranks.rank * self.settings.accumulate + micro)
            batch = batch.to(self.device)
            with self.spread.exchanging(micro == self.settings.accumulate - 1), self._counting():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                    terms = self.spread.terms(batch, generator)
                (terms["loss"] / self.settings.accumulate).backward()
            totals = {name: totals.get(name, 0.0) + value.detach().float() for name, value in terms.items()}
        norm = self.spread.clip(self.settings.clip)
        *means, size = torch.stack([*(total / self.settings.accumulate for total in totals.values()), norm]).tolist()
        rate = learning_rate(step, self.settings)
        if size < float("inf"):  # false for NaN
            self.moving = True
            self.optimizer.step(rate)
            self.ema.update(self.network, step)
            self.moving = False
            self.failures = 0
        else:
            self.skipped += 1
            self.failures += 1
            if self.failures >= MAX_FAILURES:
                raise FitError(
                    f"the gradient was not finite for {MAX_FAILURES} steps up to {step}; lower `lr` and resume."
                )
        self.meter.step()
        return {**dict(zip(totals, means, strict=True)), "norm": size, "lr": rate}

    def agree(self, figures: dict[str, float], stop: StopRequest) -> tuple[dict[str, float], int, bool, bool]:
        """Return, alike on all processes: mean figures, the signal that asked any to stop, is a checkpoint due, is the
        time over.  One exchange."""
        minutes = self.settings.minutes
        due = self.meter.elapsed_s - self._saved_s > 60 * self.settings.checkpoint_minutes
        over = minutes is not None and self.meter.elapsed_s > 60 * minutes
        asked = [float(stop.signum == number) for number in SIGNALS]
        *sums, dues, overs = self.ranks.total([*figures.values(), *asked, float(due), float(over)])
        means = {name: value / self.ranks.world for name, value in zip(figures, sums, strict=False)}
        stopped = [number for number, count in zip(SIGNALS, sums[len(figures) :], strict=True) if count]
        return means, max(stopped, default=0), dues > 0, overs > 0

    def look(self, check: Check, done: int, writers: Iterable[Writer]) -> bool:
        """Let `check` see the averages; note what it found; return whether it says that this is enough."""
        with self.ema.applied_to(self.network), torch.no_grad():
            found = check(done)
        for writer in writers:
            if found.scalars:
                writer.scalars(done, found.scalars)
            for name, picture in found.pictures.items():
                writer.picture(done, name, picture)
        self.meter.pause()
        if self.ranks.total([float(bool(found.enough))])[0] == 0:  # alike on all processes, whatever rounding did
            return False
        self.ended = found.enough or "another process found it enough"
        return True

    def save(self, done: int) -> None:
        """Write a checkpoint, of finite numbers only; every process must call it."""
        if done == self._saved:
            return
        with self.ranks.together():
            self._check_state()
        with contextlib.nullcontext() if self.spread.sharded else self.ranks.together():  # sharded, it asks by itself
            self._write(done)

    def save_alone(self, done: int) -> None:
        """Write a checkpoint without asking the other processes, one of which may be gone; not of a sharded network."""
        self._check_state()
        self._write(done)

    def _check_state(self) -> None:
        check_finite(self.state(), "the weights and averages must be finite", FitError)

    def _write(self, done: int) -> None:
        self.checkpoints.save(done, self.state(), self.record(done), sharded=self.spread.sharded)
        self._saved, self._saved_s = done, self.meter.elapsed_s
        self.meter.pause()

    def finish(self, done: int) -> Trained:
        """Put the averages into an ordinary network and write run.json.

        Raises:
            FitError: no step of this run had a finite gradient.
        """
        if self.meter.steps and self.skipped == self.meter.steps:
            raise FitError(f"none of the {self.skipped} steps had a finite gradient; lower `lr` and resume.")
        network = self.spread.plain(self.spread.gather(self.ema.weights))
        path = self.out / "run.json"
        if self.meter.steps == 0 and path.is_file():  # it was finished before; keep what that cost
            return Trained(network=network, report=read_json(path))
        report = self.record(done) | self._costs() | dict(self._account())
        if self.ranks.lead:
            with atomic_write(path) as temporary:
                write_json(temporary, report)
        return Trained(network=network, report=report)

    def _costs(self) -> dict[str, Any]:
        """Return what the steps cost, beside what as many devices as this process's could have done."""
        meter, seconds = self.meter, self.meter.seconds_a_step
        costs: dict[str, Any] = {
            "seconds": round(meter.elapsed_s, 2),
            "steps_made": meter.steps,
            "steps_skipped": self.skipped,
            "samples_per_s": round(meter.status(0, {}).samples_per_s, 2),
            "waiting_for_data": round(meter.waited_s / meter.busy_s, 4) if meter.busy_s else 0.0,
            "peak_memory_mib": peak_memory_mib(self.device),
            "device": str(self.device),
        }
        if self.flops and seconds:
            half = self.settings.precision == "bf16"
            made = self.flops * self.parts
            best = matmul_flops(self.device, torch.bfloat16 if half else torch.float32) * self.ranks.world
            costs |= {"flops_a_step": made, "flops_per_s": round(made / seconds),
                      "matmul_flops_per_s": round(best), "utilisation": round(made / seconds / best, 3)}  # fmt: skip
        return costs

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count the operations of the first batch, forward and backward."""
        if self._counted:
            yield
            return
        self._counted = True
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()
