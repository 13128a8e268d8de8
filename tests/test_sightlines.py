"""Where other cameras see the points of a ray, by a pinhole that is written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.evaluation.sightlines import REACH, SAMPLES, SPACING, project_rays

ORIGIN = torch.tensor([[-2.0, 0.1, 0.2], [0.0, 3.0, 0.0], [1.0, 1.0, 2.0]])
DIRECTION = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.1, -1.0, 0.0], [-1.0, -1.0, -2.1]]))
CAMERAS = Cameras.orbit(3, elevation_deg=[10.0, 30.0, -20.0], fov_deg=40.0, distance=2.5)


def seen(camera: Cameras, point: Tensor) -> tuple[float, float]:
    """Right of the middle and below it, in halves of a picture, as `grid_sample` takes places."""
    pose = camera.world_from_camera[0]
    x, y, z = (pose[:3, :3].T @ (point - pose[:3, 3])).tolist()
    slope = math.tan(math.radians(float(camera.fov_deg[0])) / 2)
    return x / -z / slope, -y / -z / slope


def test_points_lie_evenly_about_the_one_nearest_to_the_middle_and_are_seen_where_a_pinhole_has_them() -> None:
    found = project_rays(CAMERAS, ORIGIN, DIRECTION)
    assert found.shape == (3, 3, 48, 2) and SAMPLES == 48
    half = 1.1 * OBJECT_RADIUS
    assert REACH * OBJECT_RADIUS == half and SPACING == pytest.approx(2 * half / 47)
    for ray, (origin, direction) in enumerate(zip(ORIGIN, DIRECTION, strict=True)):
        nearest = -float(origin @ direction)
        for index in (0, 1, 23, 47):
            point = origin + (nearest - half + index * 2 * half / 47) * direction
            for number in range(3):
                wanted = seen(CAMERAS[[number]], point)
                assert found[number, ray, index].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_first_point_is_the_nearest_and_a_ray_through_the_middle_has_none_beyond_the_sphere() -> None:
    """Along x, seen from high above: what begins at -0.55 ends at 0.55."""
    above = Cameras.orbit(1, elevation_deg=89.0, fov_deg=40.0, distance=2.5)
    origin, direction = torch.tensor([[-9.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    found, back = (project_rays(above, sign * origin, sign * direction)[0, 0] for sign in (1, -1))
    assert torch.allclose(found, back.flip(0), atol=1e-5)
    reach = 1.1 * OBJECT_RADIUS / (2.5 * math.tan(math.radians(20.0)))
    assert float(found.norm(dim=-1)[0]) == pytest.approx(reach, rel=0.02)
