"""Skipping empty space loses nothing, however fine the grid: laws over every resolution, axis and position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.field import Bounded, lattice
from viewfold.scene.grid import GridField
from viewfold.scene.volume import SCENE_RADIUS, OccupancyGrid, render_volume

SOLID, EMPTY = 4.0, -30.0
"""Logits of a plate, which absorbs nearly all of the light, and of no fog at all around it."""


def plate(resolution: int, axis: int, position: int) -> GridField:
    """A plate of one voxel across the grid: x is axis 0, y 1, z 2."""
    field = GridField(resolution=resolution, blob_radius=0)
    with torch.no_grad():
        field.grid[0, 0] = EMPTY
        field.grid[0, 0].select(2 - axis, position).fill_(SOLID)
    return field


def inside(resolution: int) -> range:
    """Positions of plates that cross the middle of the scene, which rays reach on both sides."""
    return range(resolution // 6, resolution - resolution // 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("resolution", [32, 64, 96, 160])
def test_a_plate_of_one_voxel_is_found_wherever_it_is(resolution: int, axis: int, generator: torch.Generator) -> None:
    at = (torch.rand(500, 3, generator=generator) * 2 - 1) * SCENE_RADIUS
    nodes = torch.linspace(-0.6, 0.6, resolution)
    for position in inside(resolution)[:: max(1, resolution // 12)]:
        at[:, axis] = nodes[position]
        assert bool(OccupancyGrid.of(plate(resolution, axis, position), dilation=0).at(at).all()), position


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("resolution", [32, 96, 160])
def test_a_plate_of_one_voxel_keeps_its_coverage_and_its_gradient(resolution: int, axis: int) -> None:
    """On 48^3 corners a 64^3 plate kept 0.97 of it, and a finer one none and no gradient ever after."""
    cameras = Cameras.at(elevation_deg=[5.0, 60.0], azimuth_deg=[70.0, 20.0])
    for position in inside(resolution)[:: resolution // 7]:
        field = plate(resolution, axis, position)
        whole, kept = (
            render_volume(field, cameras, size=24, n_samples=128, occupancy=occupancy).alpha.mean()
            for occupancy in (None, OccupancyGrid.of(field))
        )
        assert float(whole.detach()) > 0.01
        assert float(kept.detach()) == pytest.approx(float(whole.detach()), rel=0.03), position
        kept.backward()
        assert field.grid.grad is not None
        assert bool(field.grid.grad[0, 0].select(2 - axis, position).any())


@pytest.mark.parametrize("resolution", [2, 3, 24, 48, 49, 64, 97, 160])
@pytest.mark.parametrize("n_cells", [48, 13])
def test_no_place_is_denser_than_its_cell_can_be(resolution: int, n_cells: int, generator: torch.Generator) -> None:
    field = GridField(resolution=resolution)
    assert isinstance(field, Bounded)
    with torch.no_grad():
        field.grid.normal_(-4, 4, generator=generator)
        peak = field.peak_density(n_cells, radius=SCENE_RADIUS)
        at = (torch.rand(50_000, 3, generator=generator) * 2 - 1) * SCENE_RADIUS
        density = field.density(at)
    x, y, z = ((at + SCENE_RADIUS) * (n_cells / (2 * SCENE_RADIUS))).long().clamp(0, n_cells - 1).unbind(1)
    assert bool((density <= peak[z, y, x] * (1 + 1e-4) + 1e-4).all())
    assert not peak.requires_grad


def test_the_bound_is_no_more_than_the_densest_place_of_a_smooth_field() -> None:
    """Or the cells about an object would all stay open, and rendering would be slow."""
    field = GridField(resolution=32)
    peak = field.peak_density(24, radius=SCENE_RADIUS)
    fine = field.density(lattice(24 * 8 + 1, radius=SCENE_RADIUS)).detach().reshape(1, 1, 193, 193, 193)
    densest = torch.nn.functional.max_pool3d(fine, kernel_size=9, stride=8)[0, 0]
    assert float(((peak - densest) / (densest + 1)).max()) < 0.05


def test_a_field_that_cannot_say_is_asked_at_corners() -> None:
    class Slab:
        def density(self, points: Tensor) -> Tensor:
            return 10.0 * (points[:, 2].abs() < 0.1)

        def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
            return self.density(points), torch.zeros_like(points)

    assert not isinstance(Slab(), Bounded)
    cells = OccupancyGrid.of(Slab())
    assert cells.at(torch.tensor([[0.0, 0, 0.05], [0.0, 0, 0.3]])).tolist() == [True, False]
    assert not OccupancyGrid.of(GridField(resolution=8, blob_radius=0)).cells.any()
