"""Cameras that look straight down or up, where the world's up is no direction in the picture."""

from __future__ import annotations

import math

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError

RIGHT, UP, BACKWARD = 0, 1, 2


@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-9, 5e-7, 2e-6, 1e-3, 0.1])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_camera_above_or_below_is_a_rotation_that_looks_at_its_target(tilt: float, side: float) -> None:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    target = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    away = torch.stack([tilt * angle.sin(), -tilt * angle.cos(), torch.full_like(angle, side)], dim=-1)
    cameras = Cameras.look_at(target + 2 * away, target=target.tolist())
    rotation = cameras.world_from_camera[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(8, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(8), atol=1e-6, rtol=0)
    where, depth = cameras.project(target.float()[None])
    assert float(where.abs().max()) < 1e-5 and bool((depth > 0).all())


@pytest.mark.parametrize(("side", "up"), [(1.0, 1.0), (-1.0, -1.0)])
def test_straight_above_and_below_the_picture_is_that_from_azimuth_zero(side: float, up: float) -> None:
    pole = Cameras.look_at(torch.tensor([[0.0, 0.0, 2 * side]])).world_from_camera[0]
    torch.testing.assert_close(pole[:3, RIGHT], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(pole[:3, UP], torch.tensor([0.0, up, 0]))
    torch.testing.assert_close(pole[:3, BACKWARD], torch.tensor([0.0, 0, side]))
    near = Cameras.at(elevation_deg=side * 89.9, azimuth_deg=0.0, distance=2.0).world_from_camera[0]
    torch.testing.assert_close(near, pole, atol=4e-3, rtol=0)


def test_rounding_of_a_vertical_line_of_sight_does_not_turn_the_picture() -> None:
    """In float32, cos(90 degrees) is -4e-8: a direction of rounding errors."""
    steep = torch.tensor([[-4.4e-8, 0.0, 1.0], [0.0, 4.4e-8, 1.0], [0.0, 0.0, 1.0]])
    pose = Cameras.look_at(steep).world_from_camera[:, :3, :3]
    torch.testing.assert_close(pose, pose[2:].expand(3, 3, 3), atol=1e-6, rtol=0)


def test_a_camera_at_its_target_is_refused() -> None:
    with pytest.raises(InputError, match="must not be at the target"):
        Cameras.look_at(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
