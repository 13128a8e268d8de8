"""Laws of cameras: where they stand, what they tell the network, and that looking and projecting are inverse."""

import json
import math
from pathlib import Path

import pytest
import torch

from viewfold.camera import FRAMING, OBJECT_RADIUS, Cameras, framing_distance
from viewfold.errors import InputError


def spread(n_views: int = 7) -> Cameras:
    """Cameras that share no angle."""
    elevation = torch.linspace(-70, 80, n_views)
    azimuth = torch.linspace(3, 341, n_views)
    return Cameras.at(elevation_deg=elevation, azimuth_deg=azimuth, fov_deg=50, distance=2.0)


def test_azimuth_zero_looks_from_minus_y_and_ninety_from_plus_x() -> None:
    cameras = Cameras.orbit(4, elevation_deg=0, distance=2.0)
    expected = torch.tensor([[0.0, -2, 0], [2, 0, 0], [0, 2, 0], [-2, 0, 0]])
    torch.testing.assert_close(cameras.position, expected)


def test_elevation_is_up() -> None:
    height = Cameras.orbit(3, elevation_deg=30, distance=2.0).position[:, 2]
    torch.testing.assert_close(height, torch.ones(3))


@pytest.mark.parametrize("n_views", [1, 2, 3, 4, 5, 16, 256])
def test_an_orbit_of_any_number_is_evenly_spread(n_views: int) -> None:
    cameras = Cameras.orbit(n_views, azimuth_deg=10)
    expected = (10 + 360 * torch.arange(n_views) / n_views) % 360
    assert len(cameras) == n_views
    torch.testing.assert_close(cameras.azimuth_deg, expected.float(), atol=1e-3, rtol=0)


def test_a_partial_span_leaves_out_its_end() -> None:
    azimuth = Cameras.orbit(3, azimuth_deg=0.0, span_deg=90).azimuth_deg
    torch.testing.assert_close(azimuth, torch.tensor([0.0, 30, 60]), atol=1e-3, rtol=0)


def test_angles_round_trip() -> None:
    cameras = spread()
    torch.testing.assert_close(cameras.elevation_deg, torch.linspace(-70, 80, 7), atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras.azimuth_deg, torch.linspace(3, 341, 7), atol=1e-3, rtol=0)


def test_poses_are_rotations() -> None:
    rotation = spread().world_from_camera[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(7, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(7))


def test_the_pictures_up_is_the_worlds_up() -> None:
    pose = spread().world_from_camera
    torch.testing.assert_close(pose[:, 2, 0], torch.zeros(7))  # the horizon is level
    assert bool((pose[:, 2, 1] > 0).all())


def test_the_target_projects_to_the_middle() -> None:
    target = torch.tensor([0.1, -0.2, 0.3])
    cameras = Cameras.look_at(spread().position, target=target.tolist(), fov_deg=30)
    where, depth = cameras.project(target[None])
    torch.testing.assert_close(where, torch.zeros(7, 1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth[:, 0], (cameras.position - target).norm(dim=-1))


def test_projecting_is_the_inverse_of_shooting_rays() -> None:
    cameras, size = spread(), 6
    origins, directions = cameras.rays(size)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(7, size, size))
    centre = (torch.arange(size) + 0.5) / size * 2 - 1
    for view in range(7):
        points = (origins[view] + 1.7 * directions[view]).reshape(-1, 3)
        where, depth = cameras[view].project(points)
        expected = torch.stack(torch.meshgrid(-centre, centre, indexing="ij")[::-1], dim=-1).reshape(1, -1, 2)
        torch.testing.assert_close(where, expected, atol=1e-5, rtol=0)
        assert bool((depth > 0).all())


def test_the_first_row_of_rays_is_the_top_of_the_picture() -> None:
    _, directions = Cameras.orbit(1, elevation_deg=0).rays(4)
    assert bool((directions[0, 0, :, 2] > 0).all()) and bool((directions[0, -1, :, 2] < 0).all())
    assert bool((directions[0, :, 0, 0] < 0).all())  # from -y, +x is on the right


@pytest.mark.parametrize("fov_deg", [15.0, 40.0, 60.0])
def test_the_default_distance_frames_the_object(fov_deg: float) -> None:
    """The sphere's silhouette has the tangent of asin(r / d); it fills 80 to 90 % (0.902 at 60) and is not cropped."""
    cameras = Cameras.orbit(1, fov_deg=fov_deg)
    distance = float(cameras.position.norm())
    assert distance == pytest.approx(FRAMING * OBJECT_RADIUS / math.tan(math.radians(fov_deg / 2)), rel=1e-6)
    share = math.tan(math.asin(OBJECT_RADIUS / distance)) / math.tan(math.radians(fov_deg / 2))
    assert 0.8 <= share < 0.905


def test_the_code_has_a_position_of_length_one_whatever_the_distance() -> None:
    near, far = (Cameras.orbit(5, distance=distance).code() for distance in (0.7, 30.0))
    torch.testing.assert_close(near, far, atol=1e-5, rtol=0)
    torch.testing.assert_close(near.view(5, 4, 4)[:, :3, 3].norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(near.view(5, 4, 4)[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(5, 4))


@pytest.mark.parity
def test_the_code_is_the_originals(parity: Path) -> None:
    cases = json.loads((parity / "camera.json").read_text())["get_camera"]
    assert cases
    for case in cases:
        given = case["args"]
        if given.get("blender_coord") is False or given.get("elevation") == 90:
            continue  # another frame, which the released networks never saw; and the pole, which has no "up"
        cameras = Cameras.orbit(
            given["num_frames"],
            elevation_deg=given.get("elevation", 15),
            azimuth_deg=given.get("azimuth_start", 0),
            span_deg=given.get("azimuth_span", 360),
        )
        expected = torch.tensor(case["value"]).float()[: len(cameras)]  # a span of 120 / 13 gives the original 14 views
        torch.testing.assert_close(cameras.code(), expected, atol=1e-6, rtol=0)


def test_picking_joining_and_moving_keep_the_cameras() -> None:
    cameras = spread()
    joined = Cameras.cat([cameras[:3], cameras[3], cameras[[4, 5, 6]]]).to("cpu")
    torch.testing.assert_close(joined.world_from_camera, cameras.world_from_camera)
    torch.testing.assert_close(cameras[-1].position, cameras.position[-1:])
    assert len(cameras[torch.tensor([True, False] * 3 + [True])]) == 4


def test_cameras_of_several_objects_are_those_of_each_in_turn_or_shared_by_all() -> None:
    cameras = spread()[:6]
    assert cameras.per_object(2, 3) is cameras and cameras.per_object(6, 1) is cameras
    shared = cameras.per_object(3, 6)
    for start in (0, 6, 12):
        assert torch.equal(shared[start : start + 6].world_from_camera, cameras.world_from_camera)
        assert torch.equal(shared[start : start + 6].fov_deg, cameras.fov_deg)
    with pytest.raises(InputError, match="`cameras` must be 4, the same for all objects, or 8, .* got 6"):
        cameras.per_object(2, 4)
    with pytest.raises(InputError, match="world_from_camera"):
        cameras[[]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_views": 0}, "n_views"),
        ({"n_views": 1000}, "n_views"),
        ({"n_views": 4, "elevation_deg": 90.0}, "elevation_deg"),
        ({"n_views": 4, "elevation_deg": [0.0, 1.0, 2.0]}, "elevation_deg"),
        ({"n_views": 4, "elevation_deg": float("nan")}, "elevation_deg"),
        ({"n_views": 4, "azimuth_deg": float("inf")}, "azimuth_deg"),
        ({"n_views": 4, "fov_deg": 180.0}, "fov_deg"),
        ({"n_views": 4, "fov_deg": 0.0}, "fov_deg"),
        ({"n_views": 4, "distance": 0.0}, "distance"),
        ({"n_views": 4, "distance": float("nan")}, "distance"),
    ],
)
def test_numbers_out_of_range_name_the_argument(arguments: dict, named: str) -> None:
    with pytest.raises(InputError, match=f"`{named}`"):
        Cameras.orbit(**arguments)


def test_framing_distance_grows_as_the_lens_narrows() -> None:
    assert framing_distance(15) > framing_distance(40) > framing_distance(60)


# Conversions, as docs/conventions.md gives them.

FLIP = torch.diag(torch.tensor([1.0, -1, -1, 1]))


def seen_by_opencv(world_from_camera: torch.Tensor, focal: float, points: torch.Tensor) -> torch.Tensor:
    """Project with OpenCV's formula, y down, the focal length in half-frames."""
    camera_from_world = torch.linalg.inv(world_from_camera)
    local = camera_from_world[:3, :3] @ points.T + camera_from_world[:3, 3:]
    return focal * (local[:2] / local[2]).T


def test_opencv_sees_the_same_picture_upside_down() -> None:
    cameras, points = spread(), torch.rand(9, 3) - 0.5
    focal = 1 / math.tan(math.radians(25))
    ours, _ = cameras.project(points)
    for view, pose in enumerate(cameras.world_from_camera):
        theirs = seen_by_opencv(pose @ FLIP, focal, points)
        torch.testing.assert_close(theirs * torch.tensor([1.0, -1]), ours[view], atol=1e-5, rtol=0)


def test_threestudio_counts_azimuth_from_plus_x() -> None:
    """threestudio: x = d cos(e) cos(a), y = d cos(e) sin(a), in a scene of radius 1."""
    cameras = spread()
    azimuth, elevation = (cameras.azimuth_deg - 90).deg2rad(), cameras.elevation_deg.deg2rad()
    theirs = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    torch.testing.assert_close(theirs * 2 * 2.0, 2 * cameras.position, atol=1e-5, rtol=0)


def test_gltf_has_y_up_and_the_front_towards_z() -> None:
    to_gltf = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    pose = to_gltf @ Cameras.orbit(1, elevation_deg=0, distance=2.0).world_from_camera
    torch.testing.assert_close(pose[0], torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]))


def test_nerfstudio_and_blender_take_the_pose_as_it_is(tmp_path: Path) -> None:
    """Their camera looks down -z with y up in a z-up world: a point ahead of the pose is -z in its frame."""
    from viewfold.views import Views

    cameras = spread(2)
    folder = Views(rgb=torch.zeros(2, 3, 4, 4), cameras=cameras).save(tmp_path / "views", turntable=False)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    written = torch.tensor([frame["transform_matrix"] for frame in frames])
    torch.testing.assert_close(written, cameras.world_from_camera)
    ahead = written @ torch.tensor([0.0, 0, -2, 1])
    torch.testing.assert_close(ahead[:, :3], torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_cameras_go_to_a_device_whole() -> None:
    there = Cameras.orbit(3).to("meta")
    assert there.world_from_camera.device.type == there.fov_deg.device.type == "meta"
