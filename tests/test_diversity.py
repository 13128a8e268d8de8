"""Diversity: the distance of shapes is a metric's, copies are found, and new shapes of the same kind are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset
from viewfold.errors import InputError
from viewfold.evaluation.diversity import CHANCE, find_near_copies, measure_spread, shape_distance
from viewfold.scene.rasterize import rasterize


def square(x: int, y: int, side: int) -> Tensor:
    picture = torch.zeros(1, 16, 16)
    picture[0, y : y + side, x : x + side] = 1
    return picture


def outlines(seeds: range) -> Tensor:
    """Mugs of these seeds from four sides, at 24 pixels."""
    meshes = [Asset.of("mug", "red", "blue", seed=seed).mesh() for seed in seeds]
    return torch.stack([rasterize(mesh, Cameras.orbit(4), size=24).alpha[:, 0] for mesh in meshes])


def test_the_distance_of_two_squares_is_one_minus_their_overlap() -> None:
    shapes = torch.stack([square(0, 0, 4), square(2, 0, 4), square(8, 8, 4), square(0, 0, 8)])
    distance = shape_distance(shapes, shapes, chunk=3)
    expected = torch.tensor([[0, 2 / 3, 1, 0.75], [2 / 3, 0, 1, 1 - 16 / 64], [1, 1, 0, 1], [0.75, 0.75, 1, 0]])
    torch.testing.assert_close(distance, expected)


def test_equal_shapes_have_no_spread_and_the_spread_of_a_pair_is_its_distance() -> None:
    assert measure_spread(square(0, 0, 4).expand(5, 1, 16, 16)) == pytest.approx(0, abs=1e-6)
    assert measure_spread(torch.stack([square(0, 0, 4), square(2, 0, 4)])) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_copies_of_trained_assets_are_found_and_new_assets_are_not() -> None:
    trained, unseen, new = outlines(range(40)), outlines(range(100, 140)), outlines(range(200, 240))
    assert all(find_near_copies(trained[:8], unseen, trained))
    share = sum(find_near_copies(new, unseen, trained)) / len(new)
    assert share <= 4 * CHANCE  # binomial: 40 draws at 5 % exceed 20 % once in 3,000


def test_sets_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="same views"):
        shape_distance(torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="at least 2"):
        measure_spread(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="chance"):
        find_near_copies(torch.zeros(1, 1, 8, 8), torch.zeros(0, 1, 8, 8), torch.zeros(1, 1, 8, 8))
