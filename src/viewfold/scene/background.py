"""What lies behind an object that is distilled from nothing: a smooth colour for every direction, learned along.

With a fixed ground the prior would have to explain its own backgrounds by fog in the scene; so it may paint them here.
Knows directions, and neither objects nor cameras.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH, HIDDEN = 16, 2
"""Neurons of a layer, and hidden layers (threestudio, `NeuralEnvironmentMapBackground`)."""

N_HARMONICS = 9
"""Spherical harmonics of degree 0, 1 and 2: what tiny-cuda-nn calls degree 3."""


def spherical_harmonics(directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 9"]:
    """Return the first nine real spherical harmonics of unit directions, orthonormal over the sphere.

    Source: Sloan, "Efficient spherical harmonic evaluation", 2013, with its signs.
    """
    x, y, z = directions.unbind(dim=-1)
    first, second = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    terms = (
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        -first * y,
        first * z,
        -first * x,
        second * x * y,
        -second * y * z,
        math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1),
        -second * x * z,
        second / 2 * (x * x - y * y),
    )
    return torch.stack(terms, dim=-1)


class Background(nn.Module):
    """A colour for every direction: spherical harmonics, two hidden layers of 16 with ReLU, a sigmoid, no biases.

    It begins close to mid-grey, whatever the direction.
    """

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        """Draw weights, uniform within 1 / sqrt(inputs) of zero, from a generator of the CPU."""
        super().__init__()
        widths = [N_HARMONICS, *[WIDTH] * HIDDEN, 3]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layer = nn.Linear(n_in, n_out, bias=False)
            drawn = torch.rand(n_out, n_in, generator=generator)
            layer.weight = nn.Parameter((2 * drawn - 1) / math.sqrt(n_in))
            layers += [layer, nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Return sRGB colours in [0, 1] of unit directions, away from the camera."""
        return self.network(spherical_harmonics(directions)).sigmoid()

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return its parameters as a group of `torch.optim`."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]
