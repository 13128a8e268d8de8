"""The training loop: steps, averaged weights, checkpoints and several processes; it does not know what it trains.

One process or `torchrun --nproc-per-node N`: every process draws its own part of step s from (seed, s, rank), gradients
are averaged, so a resumed run continues exactly and a run's data do not depend on how often it was stopped.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from viewfold.errors import FitError, InputError, OutputError, WeightsError
from viewfold.image import atomic_write
from viewfold.train.optimizer import Optimizer, OptimizerName

LossOfStep = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator) -> named scalars; "loss" is minimised, the others are logged."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast to train."""

    steps: int = 10_000
    """Optimiser steps in all, those of earlier runs included."""
    minutes: float | None = None
    """Stop (and checkpoint) after this long, wherever it is; None runs to `steps`."""
    optimizer: OptimizerName | str = "muon"
    """"muon" learns more from a step (docs/training.md); "adamw" is the paper's."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 200
    """Steps over which the rate rises linearly."""
    cooldown: int = 0
    """Last steps, over which it falls linearly to zero; the averaged weights make it optional."""
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.997
    """Decay of the averaged weights; reached gradually.  0.997 looks back 330 steps: half of a cool-down or less."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints."""
    precision: str = "bf16"
    """"bf16" computes under autocast with float32 weights; "fp32" does not."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"`steps` must not be negative; got {self.steps}.")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"`minutes` must be above 0; got {self.minutes}.")
        if self.optimizer not in get_args(OptimizerName):
            known = " or ".join(f'"{name}"' for name in get_args(OptimizerName))
            raise InputError(f'`optimizer` must be {known}; got "{self.optimizer}".')
        if not 0 < self.lr < 10:
            raise InputError(f"`lr` must lie between 0 and 10; got {self.lr}.")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int
    world: int

    @classmethod
    def join(cls) -> Ranks:
        """Join the process group that torchrun announced, if any."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(rank=int(os.environ.get("RANK", "0")), world=world)


def average_gradients(network: nn.Module, ranks: Ranks) -> None:
    """Replace each gradient by its mean over the processes; parameters without one count as zero."""
    if ranks.world == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters() if p.requires_grad]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= ranks.world
    for parameter, part in zip(
        (p for p in network.parameters() if p.requires_grad), flat.split([g.numel() for g in gradients]), strict=True
    ):
        parameter.grad = part.view_as(parameter)


class Ema:
    """Exponentially averaged weights (Polyak); the decay rises as (1 + step) / (10 + step) up to its limit."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Move the averages towards the network's weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            self.weights[name].lerp_(value.detach(), 1 - decay)


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Return the rate at a step: linear warm-up, constant, optional linear cool-down to zero."""
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    fall = min(1.0, (settings.steps - step) / settings.cooldown) if settings.cooldown else 1.0
    return settings.lr * min(rise, fall)


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """Return the generator of one process's part of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def fit(
    network: nn.Module,
    loss_of_step: LossOfStep,
    out: str | Path,
    *,
    settings: LoopSettings,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Ema:
    """Train `network` in place and return its averaged weights; continue from `out/checkpoint.pt` if it is there.

    Ctrl-C ends after the current step with a checkpoint; a second one ends at once, with the last one saved.

    Raises:
        KeyboardInterrupt: stopped with Ctrl-C.
        FitError: the loss is not finite for 20 steps on end.
        WeightsError: the checkpoint belongs to another network, is damaged, or would run code.
        OutputError: the checkpoint cannot be written.
    """
    out = Path(out)
    ranks = Ranks.join()
    if settings.precision not in ("bf16", "fp32"):
        raise InputError(f'`precision` must be "bf16" or "fp32"; got "{settings.precision}".')
    optimizer = Optimizer(network, settings.optimizer, beta2=settings.beta2, weight_decay=settings.weight_decay)
    ema = Ema(network, settings.ema)
    first = _resume(out / "checkpoint.pt", network, ema, optimizer)
    device = next(network.parameters()).device
    started, saved, done, failures = time.monotonic(), time.monotonic(), first, 0
    with _stopping() as stop:
        try:
            for step in range(first, settings.steps):
                network.zero_grad(set_to_none=True)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
                    terms = loss_of_step(step, step_generator(settings.seed, step, ranks.rank))
                terms["loss"].backward()
                average_gradients(network, ranks)
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
                if bool(torch.isfinite(norm)):
                    optimizer.step(learning_rate(step, settings))
                    ema.update(network, step)
                    failures = 0
                else:
                    failures += 1
                    if failures >= 20:
                        raise FitError(f"the gradient was not finite for 20 steps up to {step}; lower `lr` and resume.")
                done = step + 1
                now = time.monotonic()
                if ranks.rank == 0:
                    scalars = {name: float(value.detach()) for name, value in terms.items()} | {"norm": float(norm)}
                    _log(out, step, now - started, scalars)
                    if progress:
                        progress(step + 1, settings.steps, scalars)
                if _agreed(now - saved > settings.checkpoint_s, ranks):
                    _save(out, network, ema, optimizer, done, ranks)
                    saved = now
                if _agreed(stop.is_set(), ranks):
                    _save(out, network, ema, optimizer, done, ranks)
                    raise KeyboardInterrupt
                if settings.minutes is not None and _agreed(now - started > 60 * settings.minutes, ranks):
                    break
        except OutputError:
            raise
        except Exception:
            if done > first:
                _save(out, network, ema, optimizer, done, ranks)
            raise
        _save(out, network, ema, optimizer, done, ranks)
    return ema


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield a flag that the first Ctrl-C sets, so that no step is cut in half; the second one acts as ever."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _agreed(flag: bool, ranks: Ranks) -> bool:
    """Return rank 0's answer on every process."""
    if ranks.world == 1:
        return flag
    shared = torch.tensor([float(flag)])
    torch.distributed.broadcast(shared, 0)
    return bool(shared.item())


def _log(out: Path, step: int, seconds: float, scalars: dict[str, float]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": step, "seconds": round(seconds, 2), **scalars}) + "\n")


def _save(out: Path, network: nn.Module, ema: Ema, optimizer: Optimizer, step: int, ranks: Ranks) -> None:
    if ranks.rank == 0:
        state: dict[str, Any] = {
            "step": step,
            "network": network.state_dict(),
            "ema": ema.weights,
            "optimizer": optimizer.state_dict(),
        }
        with atomic_write(out / "checkpoint.pt") as temporary:
            torch.save(state, temporary)


def _resume(path: Path, network: nn.Module, ema: Ema, optimizer: Optimizer) -> int:
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if state["ema"].keys() != ema.weights.keys():
            raise KeyError("ema")
        ema.weights = {name: value.clone() for name, value in state["ema"].items()}
        return int(state["step"])
    except pickle.UnpicklingError as error:
        raise WeightsError(f"`{path}` is damaged or would run code when opened. Move it away to start anew.") from error
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"`{path}` does not fit this network: {reason}. Move it away to start anew.") from error
