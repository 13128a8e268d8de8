"""A small network that reads a point's features: one hidden layer, ReLU, no bias, as MVDream's are.

Knows no encoding; how the features of a point are made is scene/hashgrid.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 64
"""Width of the hidden layer."""


class Perceptron(nn.Module):
    """Two linear maps without bias, and a ReLU between them."""

    def __init__(self, width: int, outputs: int, *, seed: int) -> None:
        """Draw weights uniformly within 1 / sqrt(inputs), as `nn.Linear` does, the same ones for each seed."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = (
            nn.Parameter((2 * torch.rand(rows, columns, generator=generator) - 1) / columns**0.5)
            for rows, columns in ((HIDDEN, width), (outputs, HIDDEN))
        )

    def forward(self, features: Float[Tensor, "p d"]) -> Float[Tensor, "p c"]:
        """Return what is made of features; those of missing levels count as zero."""
        return functional.linear(functional.linear(features, self.first[:, : features.shape[1]]).relu(), self.last)

    def with_slope(
        self, features: Float[Tensor, "p d"], slope: Float[Tensor, "p 3 d"]
    ) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the one output and its derivative: W2 diag(W1 features > 0) W1 slope, by the chain rule."""
        first = self.first[:, : features.shape[1]]
        hidden = functional.linear(features, first)
        along = ((hidden > 0) * self.last) @ first
        return functional.linear(hidden.relu(), self.last)[:, 0], (slope @ along[:, :, None])[:, :, 0]

    @torch.no_grad()
    def pass_through(self, features: Sequence[Sequence[int]], gain: float) -> None:
        """Make each output `gain` times the sum of its features, by two hidden units: x = relu(x) - relu(-x).

        The other units stay, of no effect at first: the first step gives them one.
        """
        self.last.zero_()
        for output, summed in enumerate(features):
            weight = torch.zeros_like(self.first[0])
            weight[list(summed)] = gain
            self.first[2 * output : 2 * output + 2] = torch.stack([weight, -weight])
            self.last[output, 2 * output : 2 * output + 2] = torch.tensor([1.0, -1.0]).to(self.last)
