"""Unseen points take the colours of their neighbours on the surface."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from viewfold.lifting import inpainting
from viewfold.lifting.inpainting import NEIGHBOURS, PULL, inpaint

UP = torch.tensor([0.0, 0.0, 1.0])
RED, BLUE, GREEN = torch.eye(3)[0], torch.eye(3)[2], torch.eye(3)[1]


def floor(n: int) -> Tensor:
    axis = torch.linspace(0, 1, n)
    return torch.stack([*torch.meshgrid(axis, axis, indexing="ij"), torch.zeros(n, n)], dim=-1).reshape(-1, 3)


def dense(points: Tensor, normals: Tensor, color: Tensor, known: Tensor, guess: Tensor) -> Tensor:
    """The same problem, written out and solved at once."""
    n = len(points)
    ties = torch.zeros(n, n, dtype=torch.float64)
    for i in (~known).nonzero()[:, 0].tolist():
        for j in (points.double() - points[i].double()).norm(dim=-1).argsort()[1 : NEIGHBOURS + 1].tolist():
            if float(normals[i] @ normals[j]) > -0.5:
                ties[i, j] = ties[j, i] = 1
    free = ~known
    system = ties.sum(1).diag() - ties + PULL * torch.eye(n)
    wanted = PULL * guess.double()[free] + ties[free][:, known] @ color.double()[known]
    out = color.clone()
    out[free] = torch.linalg.solve(system[free][:, free], wanted).float()
    return out


def test_it_is_the_solution_of_the_problem_written_out() -> None:
    random = torch.Generator().manual_seed(0)
    points, normals = (
        torch.rand(120, 3, generator=random),
        torch.nn.functional.normalize(torch.randn(120, 3, generator=random), dim=-1),
    )
    color, guess = torch.rand(120, 3, generator=random), torch.rand(120, 3, generator=random)
    known = torch.rand(120, generator=random) < 0.3
    made = inpaint(points, normals, color, known, guess)
    assert torch.equal(made[known], color[known])
    torch.testing.assert_close(made, dense(points, normals, color, known, guess), atol=1e-3, rtol=0)


def test_colour_runs_evenly_from_one_known_border_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmonic on a strip: linear."""
    monkeypatch.setattr(inpainting, "NEIGHBOURS", 4)
    monkeypatch.setattr(inpainting, "PULL", 1e-9)
    points = floor(11)
    across = points[:, :1]
    known = (across[:, 0] < 0.05) | (across[:, 0] > 0.95)
    color = torch.where(across < 0.5, RED, BLUE)
    made = inpaint(points, UP.expand(121, 3), color, known, torch.full((121, 3), 0.5))
    inner = (points[:, 1] > 0.15) & (points[:, 1] < 0.85)
    torch.testing.assert_close(made[inner], ((1 - across) * RED + across * BLUE)[inner], atol=0.03, rtol=0)


def test_a_hole_takes_the_colour_about_it_and_not_the_guess() -> None:
    points = floor(25)
    known = (points - torch.tensor([0.5, 0.5, 0.0])).norm(dim=-1) > 0.3
    color = torch.where(known[:, None], RED, torch.tensor(float("nan")))
    made = inpaint(points, UP.expand(625, 3), color, known, GREEN.expand(625, 3))
    torch.testing.assert_close(made, RED.expand(625, 3), atol=0.05, rtol=0)


def test_colour_does_not_run_through_a_thin_wall() -> None:
    """Both sides of a wall that is a hundredth thick; only its front is known, and its back keeps the guess."""
    front = floor(15)
    points = torch.cat([front, front - 0.01 * UP])
    normals = torch.cat([UP.expand(225, 3), -UP.expand(225, 3)])
    known = torch.arange(450) < 225
    made = inpaint(points, normals, RED.expand(450, 3), known, GREEN.expand(450, 3))
    torch.testing.assert_close(made[225:], GREEN.expand(225, 3), atol=1e-4, rtol=0)


def test_nothing_known_is_all_guess_and_everything_known_stays() -> None:
    points, normals = floor(4), UP.expand(16, 3)
    guess, color = torch.rand(16, 3), torch.rand(16, 3)
    nothing = torch.zeros(16, dtype=torch.bool)
    made = inpaint(points, normals, color, nothing, guess)
    torch.testing.assert_close(made, dense(points, normals, color, nothing, guess), atol=1e-3, rtol=0)
    constant = inpaint(points, normals, color, nothing, GREEN.expand(16, 3))
    torch.testing.assert_close(constant, GREEN.expand(16, 3), atol=1e-4, rtol=0)
    assert inpaint(points, normals, color, ~nothing, guess) is color
    assert torch.equal(inpaint(points[:1], normals[:1], color[:1], nothing[:1], guess[:1]), guess[:1])
