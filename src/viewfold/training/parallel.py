"""One network on several processes: PyTorch's DDP and FSDP2, behind what a step needs of them.

Bare, not through accelerate: the loop draws its own batches and keeps its own seeds and checkpoints, so that of
accelerate's 4,000 lines four calls would be used, and its launcher starts one process where two are asked for on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from viewfold.errors import InputError
from viewfold.training.ranks import Ranks, lost_process, whole
from viewfold.training.settings import LoopSettings

Loss = Callable[[Any, torch.Generator], dict[str, Tensor]]
"""(batch, generator) -> named scalars; "loss" is minimised, the others are logged."""

UNIT_PARAMETERS = 2**20
"""FSDP gathers a module of a list (a block, a transformer) by itself from this many parameters on."""


class Objective(nn.Module):
    """A loss and the network that it calls, as one module, so that DDP sees one forward pass a step."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the named scalars of one batch."""
        return self._loss(batch, generator)


class Spread:
    """A network spread over the processes; with one process, the network itself."""

    def __init__(self, network: nn.Module, loss: Loss, *, settings: LoopSettings, ranks: Ranks) -> None:
        """Wrap (DDP) or shard in place (FSDP) a network whose weights are the same on all processes.

        Raises:
            InputError: an optimiser that needs whole matrices together with FSDP.
        """
        self.network, self.sharded = network, settings.parallel == "fsdp" and ranks.world > 1
        if settings.parallel == "fsdp" and settings.optimizer == "muon":
            raise InputError("`optimizer` must be adamw with FSDP; muon needs whole matrices. Use DDP for muon.")
        self._plain = _without_storage(network) if self.sharded else network
        self._ddp: Any = None
        self._objective: nn.Module = Objective(network, loss)
        if self.sharded:
            _shard(network)
        elif ranks.world > 1:
            # Buckets of gradients are averaged while the backward pass still computes the others.
            self._objective = self._ddp = nn.parallel.DistributedDataParallel(
                self._objective, gradient_as_bucket_view=True
            )

    def terms(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the named scalars of one batch."""
        return self._objective(batch, generator)

    @contextlib.contextmanager
    def exchanging(self, now: bool) -> Iterator[None]:
        """Average gradients over the processes in this block's backward pass, or (`now` False) keep adding them up."""
        if self.sharded:
            self.network.set_requires_gradient_sync(now)  # pyright: ignore[reportCallIssue]
        with contextlib.nullcontext() if now or self._ddp is None else self._ddp.no_sync(), lost_process():
            yield

    def clip(self, largest: float) -> Tensor:
        """Scale the gradients down to a norm of at most `largest`; return the norm before, the same everywhere."""
        with lost_process():
            return whole(nn.utils.clip_grad_norm_(self.network.parameters(), largest).detach())

    def gather(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors of weights that may be sharded; every process must call it and holds them all."""
        return {name: whole(value) for name, value in weights.items()}

    def plain(self, weights: dict[str, Tensor]) -> nn.Module:
        """Return an ordinary network with these whole weights: the one that came in, unless it was sharded."""
        self._plain.load_state_dict(weights, assign=self.sharded)
        return self._plain


def _without_storage(network: nn.Module) -> nn.Module:
    """Return a copy on the device "meta", made without holding the weights twice."""
    tensors = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], requires_grad=parameter.requires_grad)
    return copy.deepcopy(network, memo)


def _shard(network: nn.Module) -> None:
    """Shard in place, the large modules of module lists first, so that one at a time is gathered."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    # Weights are gathered in float32 and cast by autocast, as everywhere: bfloat16 would halve the traffic, but norms
    # that meet float32 inputs refuse it, and so do forward passes without autocast (the checks).
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    listed = {id(entry) for holder in network.modules() if isinstance(holder, nn.ModuleList) for entry in holder}
    taken: set[int] = set()
    for module in reversed(list(network.modules())):  # children come after their parents
        own = [p for p in module.parameters() if id(p) not in taken]
        if id(module) in listed and sum(p.numel() for p in own) >= UNIT_PARAMETERS:
            fully_shard(module, mesh=mesh, mp_policy=policy)
            taken |= {id(p) for p in own}
    fully_shard(network, mesh=mesh, mp_policy=policy)
