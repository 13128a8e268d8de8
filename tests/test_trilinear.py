"""Interpolation between the nodes of lattices: the fast way against the plain one, and the hash by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from viewfold.scene.grid import GridField
from viewfold.scene.trilinear import Lattice, interpolate, interpolate_plainly, interpolate_with_slope

LATTICES = (
    Lattice(resolution=3, first=0, rows=64),
    Lattice(resolution=5, first=64, rows=64),
    Lattice(resolution=37, first=128, rows=32),
)
"""One dense, two hashed."""


def some(generator: torch.Generator, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Places in the unit cube and a table of two features."""
    at = torch.rand(40, 3, generator=generator, dtype=dtype)
    return at.requires_grad_(), torch.randn(2, 160, generator=generator, dtype=dtype).requires_grad_()


def test_lattices_are_dense_where_their_nodes_fit() -> None:
    assert [lattice.hashed for lattice in LATTICES] == [False, True, True]
    assert not Lattice(resolution=1, first=0, rows=8).hashed and Lattice(resolution=2, first=0, rows=26).hashed


def test_fast_and_plain_agree_in_values_and_gradients(generator: torch.Generator) -> None:
    at, table = some(generator)
    fast, plain = interpolate(at, table, LATTICES), interpolate_plainly(at, table, LATTICES)
    torch.testing.assert_close(fast, plain)
    upstream = torch.randn(fast.shape, generator=generator, dtype=fast.dtype)
    for one, other in zip(
        torch.autograd.grad(fast, (at, table), upstream), torch.autograd.grad(plain, (at, table), upstream), strict=True
    ):
        assert bool(one.any())
        torch.testing.assert_close(one, other)


def test_gradients_equal_finite_differences(generator: torch.Generator) -> None:
    """Few places and short tables, since each number is moved in turn: one lattice dense, two hashed."""
    lattices = [Lattice(resolution=n, first=first, rows=16) for n, first in ((1, 0), (5, 16), (37, 32))]
    assert [lattice.hashed for lattice in lattices] == [False, True, True]
    at = torch.rand(10, 3, generator=generator, dtype=torch.float64).requires_grad_()
    table = torch.randn(2, 48, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, t: interpolate(a, t, lattices), (at, table))
    assert torch.autograd.gradcheck(lambda t: interpolate_with_slope(at, t, lattices), (table,))


def test_the_slope_is_the_derivative_of_the_features(generator: torch.Generator) -> None:
    at, table = some(generator)
    features, slope = interpolate_with_slope(at, table, LATTICES)
    torch.testing.assert_close(features, interpolate(at, table, LATTICES))
    for k in range(features.shape[1]):
        (expected,) = torch.autograd.grad(interpolate_plainly(at, table, LATTICES)[:, k].sum(), at)
        torch.testing.assert_close(slope[:, :, k], expected)


@pytest.mark.parametrize("resolution", [100, 4095, 65536])
@pytest.mark.parametrize("log2_rows", [14, 19, 24])
def test_nodes_are_hashed_by_the_primes_of_the_paper(
    resolution: int, log2_rows: int, generator: torch.Generator
) -> None:
    """(x 1 XOR y 2654435761 XOR z 805459861) mod T, in Python's integers, which never overflow."""
    rows = 2**log2_rows
    lattice = Lattice(resolution=resolution, first=0, rows=rows)
    if not lattice.hashed:
        return
    node = torch.randint(0, resolution + 1, (50, 3), generator=generator)
    node[0] = resolution
    expected = [(x ^ (y * 2654435761) ^ (z * 805459861)) % rows for x, y, z in node.tolist()]
    table = torch.arange(rows, dtype=torch.float64)[None]
    found = interpolate(node.double() / resolution, table, [lattice])[:, 0]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-3 * rows * resolution * 2**-40, rtol=0)


def test_a_linear_function_is_interpolated_exactly_and_its_slope_is_constant(generator: torch.Generator) -> None:
    """x, y and z are told apart: x runs fastest along the rows."""
    n, linear = 5, torch.tensor([2.0, -3.0, 7.0])
    z, y, x = torch.meshgrid(*[torch.linspace(0, 1, n)] * 3, indexing="ij")
    table = (torch.stack([x, y, z], dim=-1) @ linear).reshape(1, -1)
    at = torch.rand(30, 3, generator=generator)
    features, slope = interpolate_with_slope(at, table, [Lattice(resolution=n - 1, first=0, rows=n**3)])
    torch.testing.assert_close(features[:, 0], at @ linear)
    torch.testing.assert_close(slope[:, :, 0], linear.expand(30, 3), atol=1e-4, rtol=0)


def test_outside_the_cube_the_border_holds_and_nothing_pulls(generator: torch.Generator) -> None:
    _, table = some(generator)
    at = torch.tensor([[1.5, 0.3, 0.2], [0.4, -2.0, 1.0], [0.1, 0.2, 0.3]]).double().requires_grad_()
    found = interpolate(at, table, LATTICES)
    torch.testing.assert_close(found, interpolate_plainly(at.detach().clamp(0, 1), table, LATTICES))
    (gradient,) = torch.autograd.grad(found.sum(), at)
    assert gradient[0, 0] == 0 and gradient[1, 1] == 0 and gradient[0, 1:].all() and gradient[2].all()


def test_no_points_and_no_lattices_are_no_accident(generator: torch.Generator) -> None:
    at, table = some(generator)
    none = interpolate(at[:0], table, LATTICES)
    assert none.shape == (0, 6)
    none.sum().backward()
    assert table.grad is not None and not table.grad.any()
    assert interpolate(at, table, []).shape == (40, 0)


def test_a_grid_is_the_same_with_and_without_gradients(generator: torch.Generator) -> None:
    """One way is ours, the other `grid_sample`; also beyond the box."""
    field = GridField(resolution=9)
    with torch.no_grad():
        field.grid.normal_(generator=generator)
    at = (torch.rand(200, 3, generator=generator) - 0.5) * 1.3
    with torch.no_grad():
        density, color = field(at)
        alone = field.density(at)
    with_density, with_color = field(at)
    torch.testing.assert_close(with_density.detach(), density, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(field.density(at).detach(), alone, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(with_color.detach(), color, atol=1e-5, rtol=0)
    upstream = torch.randn(200, 3, generator=generator)
    (found,) = torch.autograd.grad(with_color, field.grid, upstream)
    place = (at / 0.6)[None, :, None, None]
    plain = functional.grid_sample(field.grid[:, 1:], place, padding_mode="border", align_corners=True)
    (expected,) = torch.autograd.grad(plain[0, :, :, 0, 0].T.sigmoid(), field.grid, upstream)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
