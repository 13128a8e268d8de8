"""Colours of surface points that nobody has seen, from their neighbours on the surface.

Knows points and colours; which of them are known, and what lies behind a guess, is told.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBOURS = 8
"""Points in space that each unknown point is tied to, where they face the same half of space."""

PULL = 1e-3
"""How strongly a point is tied to its guess, beside 1 for each neighbour: what no known point can be reached from takes
the guess, and far from all known points the guess has its say."""

TOLERANCE, MOST_ROUNDS = 1e-4, 2000
"""Of the conjugate gradients: relative residual, and rounds."""


def inpaint(
    points: Float[Tensor, "p 3"],
    normals: Float[Tensor, "p 3"],
    color: Float[Tensor, "p 3"],
    known: Bool[Tensor, "p"],
    guess: Float[Tensor, "p 3"],
) -> Float[Tensor, "p 3"]:
    """Return the colours with the unknown ones diffused from the known ones over the surface (screened Poisson).

    The unknown colours x minimise

        sum over ties |x_i - x_j|^2 + PULL sum_i |x_i - guess_i|^2

    with ties between each unknown point and its NEIGHBOURS nearest ones whose normals are less than 90 degrees from its
    own, so that colour runs over a texture's seams and not through thin walls.  Known colours stay as they are.

    Args:
        points: densely over the surface, such as its texels.
        normals: unit.
        color: where `known` is False, its values do not matter.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import cg
    from scipy.spatial import KDTree

    unknown = (~known).nonzero()[:, 0].cpu().numpy()
    if not len(unknown):
        return color
    where, facing = points.double().cpu().numpy(), normals.double().cpu().numpy()
    near = min(NEIGHBOURS + 1, len(where))
    other = np.asarray(KDTree(where).query(where[unknown], k=near)[1]).reshape(len(unknown), near)[:, 1:]
    one = unknown.repeat(near - 1)
    other = other.reshape(-1)
    tied = ((facing[one] * facing[other]).sum(-1) > 0) & (one != other)
    one, other = one[tied], other[tied]
    one, other = np.concatenate([one, other]), np.concatenate([other, one])
    n = len(where)
    ties = coo_matrix((np.ones(len(one)), (one, other)), shape=(n, n)).tocsr()
    ties.data[:] = 1
    degree = np.asarray(ties.sum(1))[:, 0][unknown]
    rows = ties[unknown]
    system = (diags(degree + PULL) - rows[:, unknown]).tocsr()
    fixed = np.where(known.cpu().numpy()[:, None], color.double().cpu().numpy(), 0.0)
    believed = guess.double().cpu().numpy()[unknown]
    wanted = rows @ fixed + PULL * believed
    scale = diags(1 / (degree + PULL))
    solved = [
        cg(system, wanted[:, i], x0=believed[:, i], rtol=TOLERANCE, maxiter=MOST_ROUNDS, M=scale)[0] for i in range(3)
    ]
    out = color.clone()
    out[torch.from_numpy(unknown).to(out.device)] = torch.from_numpy(np.stack(solved, 1)).to(out)
    return out
