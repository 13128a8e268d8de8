"""The exponential moving average (EMA) of the weights: the result of a run, and what its checks measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponentially averaged weights (Polyak), with a decay d that rises to its limit:

        average <- d average + (1 - d) weights,   d = min(decay, (1 + step) / (10 + step))

    Not `torch.optim.swa_utils.AveragedModel`: its first update copies the weights instead of averaging, and it copies
    the module, which FSDP forbids.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the averages towards the network's weights, all at once."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        moving = [name for name, value in self.weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.weights[n] for n in moving], [state[n].detach() for n in moving], 1 - decay)
        for name in self.weights.keys() - set(moving):  # counters of batches and the like
            self.weights[name].copy_(state[name])

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the averages, in evaluation mode, for the length of a block."""
        training, state = network.training, network.state_dict()
        own = {name: value.detach().clone() for name, value in state.items()}
        self._copy(self.weights, state)
        network.eval()
        try:
            yield
        finally:
            self._copy(own, network.state_dict())  # asked again: FSDP lets go of what it had gathered of the averages
            network.train(training)

    @staticmethod
    @torch.no_grad()
    def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        for name, value in target.items():
            value.copy_(source[name])
