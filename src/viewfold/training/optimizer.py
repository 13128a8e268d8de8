"""The optimiser of every training run: Muon for the weights that are matrices, AdamW for the rest.

Muon (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon) replaces the averaged gradient of a matrix by the
nearest orthogonal one, so that no direction is learned before another.  A convolution is a matrix from its inputs to
its outputs.  Steps have the size of AdamW's (Moonlight, arXiv 2502.16982, equation 4): one rate serves both.  For a
weight W (rows x columns) with the gradient G, as `torch.optim.Muon` has it (mu = 0.95):

    M <- mu M + (1 - mu) G
    W <- (1 - lr weight_decay) W - lr 0.2 sqrt(max(rows, columns)) orth(mu M + (1 - mu) G)

where orth(U S V^T) = U V^T of the singular value decomposition, approximated by five Newton-Schulz steps, in bfloat16
where the device has it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.device import has_native_bfloat16
from viewfold.training.settings import OptimizerName


class Optimizer:
    """PyTorch's Muon and AdamW behind one `step`; with "adamw" the second alone."""

    def __init__(self, network: nn.Module, name: OptimizerName | str, *, beta2: float, weight_decay: float) -> None:
        trained = {n: parameter for n, parameter in network.named_parameters() if parameter.requires_grad}
        matrices = {n: p for n, p in trained.items() if p.ndim >= 2 and name == "muon"}
        self._matrices = list(matrices.values())
        self._flat = [nn.Parameter(_in_memory_order(p.detach(), like=p).view(len(p), -1)) for p in self._matrices]
        others = {n: p for n, p in trained.items() if n not in matrices}
        self._parts: list[tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]] = []
        if matrices:
            kind = torch.optim.Muon if has_native_bfloat16(self._flat[0].device) else _Float32Muon
            muon = kind(self._flat, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append((muon, dict(zip(matrices, self._flat, strict=True))))
        if others:
            adamw = torch.optim.AdamW(others.values(), betas=(0.9, beta2), weight_decay=weight_decay)
            self._parts.append((adamw, others))
        self._begin()

    def step(self, lr: float) -> None:
        """Move the weights along their gradients at this rate; weights without a gradient stay."""
        for flat, matrix in zip(self._flat, self._matrices, strict=True):
            flat.grad = None if matrix.grad is None else _in_memory_order(matrix.grad, like=matrix).flatten(1)
        for part, _ in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state(self) -> dict[str, Tensor]:
        """Return the moments that are kept, as NAME.WHAT ("conv.weight.exp_avg"); rates and decays are not among them.

        A checkpoint that was written from them fills them in place.
        """
        return {
            f"{name}.{what}": value
            for part, parameters in self._parts
            for name, parameter in parameters.items()
            for what, value in part.state[parameter].items()
        }

    def _begin(self) -> None:
        """Make the moments, zero, as the optimisers do at their first step."""
        for part, parameters in self._parts:
            for parameter in parameters.values():
                zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if isinstance(part, torch.optim.Muon):
                    part.state[parameter] = {"momentum_buffer": zeros}
                else:
                    step = torch.zeros((), dtype=torch.float32)
                    part.state[parameter] = {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


class _Float32Muon(torch.optim.Muon):
    """PyTorch's Muon as the module has it, its Newton-Schulz steps in float32 and not in the bfloat16 it insists on.

    Where that is emulated, a step of the shipped network takes 0.7 CPU-s in place of 14.4.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move the weights along their gradients."""
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                momentum = self.state[weight]["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(weight.grad.lerp(momentum, group["momentum"]), group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * math.sqrt(max(weight.shape)) * group["lr"])


def _orthogonal(matrix: Float[Tensor, "rows columns"], group: dict[str, Any]) -> Float[Tensor, "rows columns"]:
    """Return about U V^T of a matrix U S V^T: a quintic that is steep at zero, repeated, takes S near 1."""
    a, b, c = group["ns_coefficients"]
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _in_memory_order(tensor: Tensor, *, like: Tensor) -> Tensor:
    """Return a weight, or its gradient, with its axes in the order of the strides of the weight `like`.

    A view of that as a matrix shares the weight's memory, or PyTorch refuses to make it.
    """
    if like.is_contiguous():
        return tensor
    return tensor.permute(0, *range(2, tensor.ndim), 1)  # channels last
