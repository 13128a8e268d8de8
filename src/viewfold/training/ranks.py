"""The processes of a run: which one this is, on which device, and the numbers and refusals that they exchange.

`torchrun` starts them and sets RANK, LOCAL_RANK and WORLD_SIZE; without it there is one.  Numbers that steer the run go
over gloo on the CPU, so that no GPU waits for them and a process that dies is noticed; gradients go where the
parameters are (NCCL on CUDA).
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from viewfold.device import best_device
from viewfold.errors import FitError, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: torch.device | str = "cpu") -> Ranks:
        """Join the group that torchrun announced, if any; joining twice is harmless."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if not distributed.is_initialized():
            on_gpu = torch.device(device).type == "cuda"
            distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        return cls(rank=distributed.get_rank(), world=distributed.get_world_size())

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.world > 1 and distributed.is_initialized():
            # DDP, and the frames that an error keeps, hold the group too: gloo aborts if its threads outlive Python.
            traceback.clear_frames(at)
            gc.collect()
            distributed.destroy_process_group()

    @property
    def lead(self) -> bool:
        """Whether this is the process that writes results."""
        return self.rank == 0

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over the processes.

        Raises:
            FitError: another process is gone.
        """
        if self.world == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.float64)
        with lost_process():
            distributed.all_reduce(shared)
        return shared.tolist()

    def refuse_together(self, refusal: Exception | None) -> None:
        """Raise what any process found wrong on all of them, so that none waits for one that has stopped.

        Raises:
            Exception: this process's `refusal`; FitError where only another process has one.
        """
        refused = self.total([float(refusal is not None)])[0]
        if refusal is not None:
            raise refusal
        if refused:
            raise FitError("all processes must be able to go on; another one could not, and says why.")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Share what goes wrong in a block with all processes, each of which must enter it; see `refuse_together`."""
        refusal: Exception | None = None
        try:
            yield
        except Exception as error:
            refusal = error
        self.refuse_together(refusal)

    def first_of_each_machine_first(self, work: Callable[[], T]) -> T:
        """Return what `work` gives; what it leaves in a cache of the machine, one process finds out for all."""
        if self.world == 1:
            return work()
        first, found = int(os.environ.get("LOCAL_RANK", "0")) == 0, []
        for turn in (True, False):
            with self.together():
                if first is turn:
                    found.append(work())
        return found[0]

    def share(self, network: nn.Module) -> None:
        """Give every process rank 0's weights, in place."""
        if self.world > 1:
            with lost_process(), torch.no_grad():
                for tensor in network.state_dict().values():
                    distributed.broadcast(tensor, 0)


_SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "gloo", "NCCL", "Socket", "aborted", "timed out")


@contextlib.contextmanager
def lost_process() -> Iterator[None]:
    """Turn what the backends raise when another process is gone into one clear line."""
    try:
        yield
    except RuntimeError as error:
        if distributed.is_initialized() and any(sign in str(error) for sign in _SIGNS):
            said = str(error).strip().split("\n")[0][:200]
            raise FitError(
                "the run must keep all of its processes; another one has ended (its own output says why), or cannot be "
                f"reached: {said}. Start the same command again: it goes on from the last checkpoint."
            ) from error
        raise


def local_device(device: torch.device | str | None) -> torch.device | str | None:
    """Return the device of this process: under torchrun each takes the GPU of its LOCAL_RANK.

    Args:
        device: what was asked for; None is the best there is.

    Raises:
        InputError: one numbered GPU for several processes, or more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    best = "cuda" if best_device().type == "cuda" else "cpu"  # processes cannot add up gradients on Apple's GPU
    kind = torch.device(best if device is None else device)
    if kind.type != "cuda":
        return kind
    if kind.index is not None:
        raise InputError(f"`device` must be cuda without a number under torchrun, one GPU a process; got '{kind}'.")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise InputError(f"`device` must offer a GPU for each process; process {local} of this machine finds {there}.")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which FSDP left a part on each process; every process must ask for it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
