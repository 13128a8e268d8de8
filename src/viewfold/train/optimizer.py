"""The optimiser of every training run: Muon for the weights that are matrices, AdamW for the rest.

Muon (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon) replaces the averaged gradient of a matrix by the
nearest orthogonal one, so that no direction is learned before another.  A convolution is a matrix from its inputs to
its outputs.  Steps have the size of AdamW's (Moonlight, arXiv 2502.16982, equation 4): one rate serves both.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["muon", "adamw"]


class Optimizer:
    """PyTorch's Muon and AdamW behind one `step`; with "adamw" the second alone."""

    def __init__(self, network: nn.Module, name: OptimizerName | str, *, beta2: float, weight_decay: float) -> None:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._matrices = [p for p in trained if p.ndim >= 2 and name == "muon"]
        self._flat = [nn.Parameter(_as_it_lies(p.detach(), like=p).view(len(p), -1)) for p in self._matrices]
        others = [p for p in trained if p.ndim < 2 or name != "muon"]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if self._flat:
            self._parts["muon"] = torch.optim.Muon(
                self._flat, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        if others:
            self._parts["adamw"] = torch.optim.AdamW(others, betas=(0.9, beta2), weight_decay=weight_decay)

    def step(self, lr: float) -> None:
        """Move the weights along their gradients at this rate; weights without a gradient stay."""
        for flat, matrix in zip(self._flat, self._matrices, strict=True):
            flat.grad = None if matrix.grad is None else _as_it_lies(matrix.grad, like=matrix).flatten(1)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages that each part keeps."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is another optimiser's.
        """
        if state.keys() != self._parts.keys():
            raise ValueError(f"the optimiser was {'+'.join(map(str, state))}, not {'+'.join(self._parts)}")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def _as_it_lies(tensor: Tensor, *, like: Tensor) -> Tensor:
    """Return a weight, or its gradient, with its axes in the order in which the weight `like` lies in memory.

    A view of that as a matrix shares the weight's memory, or PyTorch refuses to make it.
    """
    if like.is_contiguous():
        return tensor
    return tensor.permute(0, *range(2, tensor.ndim), 1)  # channels last
