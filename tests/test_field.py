"""The voxel-grid field: what it interpolates, and what a fresh one looks like."""

import pytest
import torch

from viewfold.errors import InputError
from viewfold.scene.field import BOX_RADIUS, Field, lattice
from viewfold.scene.grid import DENSITY_SCALE, GridField


def test_a_node_of_the_grid_returns_its_own_logits(generator: torch.Generator) -> None:
    field = GridField(resolution=5)
    with torch.no_grad():
        field.grid.copy_(torch.randn(field.grid.shape, generator=generator))
    density, rgb = field(lattice(5))
    logits = field.grid[0].flatten(1).T
    torch.testing.assert_close(density, DENSITY_SCALE * torch.nn.functional.softplus(logits[:, 0]))
    torch.testing.assert_close(rgb, logits[:, 1:].sigmoid())


def test_a_linear_logit_is_interpolated_exactly(generator: torch.Generator) -> None:
    field = GridField(resolution=7)
    points = lattice(7)
    slope = torch.tensor([1.0, -2.0, 3.0])
    with torch.no_grad():
        field.grid[0, 1] = (points @ slope).reshape(7, 7, 7)
    at = (torch.rand(50, 3, generator=generator) * 2 - 1) * BOX_RADIUS
    torch.testing.assert_close(field(at)[1][:, 0], (at @ slope).sigmoid())


def test_density_alone_equals_density_with_colour(generator: torch.Generator) -> None:
    field = GridField()
    points = torch.rand(100, 3, generator=generator) - 0.5
    torch.testing.assert_close(field.density(points), field(points)[0])
    assert isinstance(field, Field)


def test_a_fresh_field_is_a_grey_ball_in_empty_space() -> None:
    field = GridField(blob_radius=0.3)
    center, outside, beyond = field.density(torch.tensor([[0.0, 0, 0], [0.55, 0, 0], [0.7, 0, 0]])).tolist()
    assert center > 100
    assert outside < 0.02
    assert beyond == 0
    assert (field(torch.zeros(1, 3))[1] == 0.5).all()
    assert GridField(blob_radius=0.0).density(lattice(9)).max() < 0.02


def test_the_nodes_run_x_fastest_from_minus_to_plus_the_radius() -> None:
    points = lattice(3, radius=2.0)
    assert points[:4].tolist() == [[-2, -2, -2], [0, -2, -2], [2, -2, -2], [-2, 0, -2]]
    assert points[-1].tolist() == [2, 2, 2] and points[9].tolist() == [-2, -2, 0] and len(points) == 27
    assert float(lattice(2).max()) == pytest.approx(BOX_RADIUS)


def test_a_fresh_ball_by_hand() -> None:
    """Logit 10 (1 - r / r0), never below -8; a node lies at 0.12, or 0.4 of the radius of 0.3."""
    field = GridField(resolution=11)
    assert field.resolution == 11 and field.voxel == pytest.approx(0.12)
    logit = torch.tensor([6.0, -8.0])
    got = field.density(torch.tensor([[0.12, 0.0, 0.0], [0.6, 0.6, 0.0]]))
    torch.testing.assert_close(got, DENSITY_SCALE * torch.nn.functional.softplus(logit))
    wide = GridField(resolution=11, blob_radius=0.6)
    torch.testing.assert_close(wide.grid[0, 0, 5, 5, 6].detach(), torch.tensor(8.0))
    assert bool((field.grid[0, 1:] == 0).all()) and GridField(blob_radius=0.0).grid[0, 0].unique().tolist() == [-8.0]


def test_the_box_ends_at_its_radius() -> None:
    field = GridField(resolution=4, blob_radius=0.6)
    assert bool(field.density(torch.tensor([[0.6, 0.0, 0.0]])) > 0)
    beyond = field.density(torch.tensor([[0.601, 0.0, 0.0], [0.0, -0.601, 0.0], [0.0, 0.0, 0.7]]))
    assert not beyond.any()


def test_upsampling_changes_no_value_of_a_linear_field(generator: torch.Generator) -> None:
    field = GridField(resolution=4)
    with torch.no_grad():
        field.grid.copy_(torch.randn(field.grid.shape, generator=generator))
    before = field(lattice(4))
    field.upsample(7)
    assert field.resolution == 7
    for a, b in zip(before, field(lattice(4)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_reach_only_the_eight_nodes_about_a_point() -> None:
    field = GridField(resolution=8)
    density, rgb = field(torch.tensor([[0.01, 0.02, 0.03]]))
    (density.sum() + rgb.sum()).backward()
    assert field.grid.grad is not None
    assert torch.isfinite(field.grid.grad).all()
    assert int((field.grid.grad[0, 0] != 0).sum()) == 8


@pytest.mark.parametrize("resolution", [1, 513])
def test_a_resolution_out_of_range_is_refused(resolution: int) -> None:
    with pytest.raises(InputError, match="`resolution` must lie between 2 and 512"):
        GridField(resolution=resolution)


def test_a_blob_larger_than_the_box_is_refused() -> None:
    with pytest.raises(InputError, match="`blob_radius`"):
        GridField(blob_radius=0.7)
