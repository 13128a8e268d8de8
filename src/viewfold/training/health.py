"""Checks of weights: float32 and trainable before a run, finite before and after."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from viewfold.errors import InputError, ViewfoldError, WeightsError


def check_trainable(network: nn.Module) -> None:
    """Refuse weights that a run could not move, or that are spoilt before it begins.

    Raises:
        InputError: nothing to train, or trained weights that are not float32.
        WeightsError: weights that are not finite.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("`network` must have weights that require a gradient; all are frozen.")
    for name, parameter in trained.items():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise InputError(
                f"`network` must have float32 weights to be trained, small steps are lost in others; {name} is {kind}. "
                "Load it with dtype=torch.float32; `precision` says what it computes in."
            )
    check_finite(dict(network.state_dict()), "`network` must have finite weights", WeightsError)


def check_finite(tensors: Mapping[str, Tensor], claim: str, kind: type[ViewfoldError]) -> None:
    """Raise `kind` and name the first tensor that holds NaN or infinity."""
    from torch.distributed.tensor import DTensor

    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.is_floating_point() and not bool(local.isfinite().all()):
            raise kind(f"{claim}; {name} holds NaN or infinity. Lower `lr`, or go back to an earlier checkpoint.")
