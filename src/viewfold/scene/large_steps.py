"""Smooth steps of a mesh's vertices: gradients are spread over their neighbourhood before anything moves.

Vertices v are written as v = (I + smoothness L)^-1 u, with L the Laplacian of the mesh's edges, and u is optimised
instead: a step that one vertex asks for moves its surroundings with it, so that large steps leave no spikes.  Source:
Nicolet, Jacobson and Jakob, "Large steps in inverse rendering of geometry", 2021, equations 6 to 10, and algorithm 1
for the optimiser.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BETAS = (0.9, 0.999)
"""Of the optimiser, Adam's usual ones."""


class LargeSteps:
    """The change of variables of one mesh; solved on the CPU in float64, wherever its vertices are."""

    def __init__(self, edges: Int[Tensor, "e 2"], n_vertices: int, *, smoothness: float) -> None:
        """Factor I + smoothness L, L = degrees - adjacency.

        Args:
            edges: each once.
            n_vertices: all of them have an edge.
            smoothness: 0 spreads nothing; a step reaches about its square root in edges.
        """
        import numpy as np
        from scipy.sparse import coo_matrix, diags, identity
        from scipy.sparse.linalg import splu

        ends = edges.cpu().numpy()
        adjacency = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n_vertices, n_vertices))
        adjacency = adjacency + adjacency.T
        laplacian = diags(np.asarray(adjacency.sum(axis=1))[:, 0]) - adjacency
        self._matrix = (identity(n_vertices) + smoothness * laplacian).tocsc()
        self._factor = splu(self._matrix)

    def spread(self, vertices: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
        """Return u = (I + smoothness L) v."""
        return torch.from_numpy(self._matrix @ vertices.detach().cpu().double().numpy()).to(vertices)

    def gather(self, spread: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
        """Return v = (I + smoothness L)^-1 u; differentiable in u."""
        return _Solve.apply(spread, self)  # type: ignore[return-value]

    def solve(self, values: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
        """Return (I + smoothness L)^-1 of some values, without gradient."""
        return torch.from_numpy(self._factor.solve(values.detach().cpu().double().numpy())).to(values)


class _Solve(torch.autograd.Function):
    """The matrix is symmetric, so that the gradient is spread by the same solve."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: LargeSteps) -> Tensor:
        ctx.steps = steps
        return steps.solve(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.steps.solve(gradient), None


class UniformAdam:
    """Adam with one step size for all numbers, from the largest second moment, so that directions stay as they are.

    m <- b1 m + (1 - b1) g,   s <- b2 s + (1 - b2) g^2,   x <- x - rate (m / (1 - b1^n)) / sqrt(max(s) / (1 - b2^n))
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter, self.steps = parameter, 0
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Descend once, no number by more than about `rate`."""
        gradient = self.parameter.grad
        assert gradient is not None
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        largest = (self.square.max() / (1 - BETAS[1] ** self.steps)).sqrt()
        self.parameter.sub_(rate / (1 - BETAS[0] ** self.steps) * self.mean / (largest + 1e-12))
