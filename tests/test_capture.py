"""Photographs with cameras, as other programs record them: what is shown is where our cameras say it is, or refused.

The reference is a scene of its own: a painted ball, drawn pixel by pixel through each lens.  A pixel's ray is found by
the fixed point of OpenCV's formula as its documentation has it (as `cv2.undistortPoints` does), which the package does
not use.  `Lens.project` was held to `cv2.projectPoints` and `cv2.fisheye.projectPoints` (5.0): 1e-13 px.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.capture.lens import Lens, square_up
from viewfold.capture.placement import find_object
from viewfold.capture.transforms import read_frames
from viewfold.cli import main
from viewfold.errors import AssetError
from viewfold.views import Views

GREY = 0.5
POSES = Cameras.orbit(4, elevation_deg=20, fov_deg=50).world_from_camera.double().numpy()


def ball(origin: np.ndarray, directions: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Colours and alpha of rays that meet a ball which is painted smoothly, the same from all its sizes and places."""
    relative = (origin - center) / radius
    along = -(directions @ relative)
    nearest = relative + along[..., None] * directions
    room = 1 - (nearest**2).sum(-1)
    hit = nearest - np.sqrt(np.maximum(room, 0))[..., None] * directions
    colour = 0.5 + 0.4 * np.sin(3 * hit + np.array([0, 1, 2]))
    edge = np.clip(room * 8, 0, 1)[..., None]  # a soft edge, so that sampling between pixels says little
    return np.concatenate([colour * edge + GREY * (1 - edge), edge], axis=-1)


def distorted(x: np.ndarray, y: np.ndarray, said: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's two models, as documented."""
    k1, k2, k3, k4, p1, p2 = (said.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    r = np.hypot(x, y)
    if said.get("camera_model") == "OPENCV_FISHEYE" or said.get("is_fisheye"):
        theta = np.arctan(r)
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        return x * bent / np.maximum(r, 1e-12), y * bent / np.maximum(r, 1e-12)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    return x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2), y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y


def photograph(
    pose: np.ndarray, said: dict[str, Any], center: np.ndarray, radius: float, *, alpha: bool = False
) -> Image.Image:
    w, h = said["w"], said["h"]
    fl_x = said.get("fl_x") or 0.5 * w / math.tan(said["camera_angle_x"] / 2)
    fl_y = said.get("fl_y", fl_x)
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    target_x, target_y = (u - said.get("cx", w / 2)) / fl_x, (v - said.get("cy", h / 2)) / fl_y
    x, y = target_x.copy(), target_y.copy()
    for _ in range(30):
        bent = distorted(x, y, said)
        x, y = x + 0.5 * (target_x - bent[0]), y + 0.5 * (target_y - bent[1])
    local = np.stack([x, -y, -np.ones_like(x)], axis=-1)
    directions = local / np.linalg.norm(local, axis=-1, keepdims=True) @ pose[:3, :3].T
    seen = ball(pose[:3, 3], directions, center, radius)
    return Image.fromarray((seen[..., : 4 if alpha else 3] * 255).round().astype(np.uint8))


def write(folder: Path, document: dict[str, Any], *, center: Any = (0, 0, 0), radius: float = 0.5, **how: Any) -> Path:
    """Photograph the ball as a document says, whose frames have poses."""
    folder.mkdir(exist_ok=True)
    for frame in document["frames"]:
        path = folder / frame["file_path"]
        path = path if path.suffix else path.with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pose = np.array(frame["transform_matrix"], dtype=float)
        pose[:3, :3] /= np.linalg.norm(pose[:3, 0])
        photograph(pose[:4], {**document, **frame}, np.array(center, float), radius, **how).save(path)
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def frames(poses: np.ndarray = POSES, **more: Any) -> list[dict[str, Any]]:
    return [{"file_path": f"images/{i}.png", "transform_matrix": pose.tolist(), **more} for i, pose in enumerate(poses)]


def difference(views: Views) -> float:
    """The mean difference between views and the ball of radius 0.5 about the origin as our own cameras see it."""
    size = views.rgb.shape[-1]
    origins, directions = views.cameras.rays(size)
    worst = 0.0
    for index in range(len(views)):
        seen = ball(origins[index, 0, 0].double().numpy(), directions[index].double().numpy(), np.zeros(3), 0.5)
        expected = torch.from_numpy(seen[..., :3]).permute(2, 0, 1).float()
        worst = max(worst, float((views.over(GREY)[index] - expected).abs().mean()))
    return worst


LENSES: dict[str, dict[str, Any]] = {
    "off-centre": {"fl_x": 100.0, "w": 96, "h": 96, "cx": 40.0, "cy": 57.0},
    "two focal lengths": {"fl_x": 100.0, "fl_y": 80.0, "w": 96, "h": 96},
    "wide": {"fl_x": 100.0, "w": 144, "h": 96},
    "tall": {"fl_x": 100.0, "w": 96, "h": 128, "cx": 50.0},
    "radial": {"fl_x": 90.0, "w": 96, "h": 96, "k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.008, "k3": -0.01},
    "pincushion": {"camera_model": "SIMPLE_RADIAL", "fl_x": 90.0, "w": 96, "h": 96, "k1": 0.25},
    "fisheye": {"camera_model": "OPENCV_FISHEYE", "fl_x": 80.0, "fl_y": 82.0, "w": 120, "h": 96, "cx": 62.0,
                "cy": 47.0, "k1": 0.05, "k2": -0.02, "k3": 0.01, "k4": -0.002},
    "instant-ngp's fisheye": {"is_fisheye": True, "fl_x": 80.0, "w": 96, "h": 96, "k1": -0.1, "aabb_scale": 4},
    "angle": {"camera_angle_x": 0.9, "w": 96, "h": 96, "camera_angle_y": 0.9},
}  # fmt: skip


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("name", LENSES)
@pytest.mark.filterwarnings("ignore:the pictures are drawn again:UserWarning")
def test_what_a_lens_shows_is_where_our_cameras_say(name: str, alpha: bool, tmp_path: Path) -> None:
    document = {**LENSES[name], "frames": frames(POSES[1:2])}
    write(tmp_path / "them", document, alpha=alpha)
    (tmp_path / "them" / "run.json").write_text("{}")  # as ours, whose object is at the origin
    views = Views.load(tmp_path / "them")
    assert views.rgb.shape[2] == views.rgb.shape[3] and (views.alpha is not None) == alpha
    torch.testing.assert_close(views.cameras.world_from_camera, torch.from_numpy(POSES[1:2]).float())
    assert difference(views) < 0.006
    if name != "angle":  # and the test can fail: as if nothing were said of the lens
        wrong = {key: value for key, value in document.items() if key in ("fl_x", "w", "h", "frames")}
        wrong |= {"fl_x": LENSES[name]["fl_x"] * 1.1}
        (tmp_path / "them" / "transforms.json").write_text(json.dumps(wrong))
        assert difference(Views.load(tmp_path / "them")) > 0.012


def test_a_plain_square_lens_is_taken_as_it_is(tmp_path: Path) -> None:
    document = {"fl_x": 100.0, "fl_y": 100.0, "cx": 48.0, "cy": 48.0, "w": 96, "h": 96, "frames": frames()}
    folder = write(tmp_path / "them", document)
    views = Views.load(folder)
    with Image.open(folder / "images" / "2.png") as picture:
        assert np.array_equal((views.rgb[2] * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(picture))
    assert views.cameras.fov_deg.tolist() == pytest.approx([math.degrees(2 * math.atan(0.48))] * 4, abs=1e-4)
    assert views.run == {}


def test_pictures_that_were_reduced_keep_their_lens(tmp_path: Path) -> None:
    document: dict[str, Any] = {"fl_x": 100.0, "w": 96, "h": 96, "cx": 48.0, "cy": 48.0, "frames": frames()}
    folder = write(tmp_path / "them", document)
    twice = {**document, "fl_x": 200.0, "w": 192, "h": 192, "cx": 96.0, "cy": 96.0}
    (folder / "transforms.json").write_text(json.dumps(twice))
    assert Views.load(folder).cameras.fov_deg[0].item() == pytest.approx(math.degrees(2 * math.atan(0.48)), abs=1e-4)


@pytest.mark.filterwarnings("ignore:the pictures are drawn again:UserWarning")
def test_each_frame_may_have_a_lens_and_a_size_of_its_own(tmp_path: Path) -> None:
    document = {"fl_x": 100.0, "w": 96, "h": 96, "k1": 0.0, "frames": frames()}
    document["frames"][1] |= {"fl_x": 60.0, "w": 64, "h": 64, "k1": 0.1}
    document["frames"][2] |= {"camera_angle_x": 0.8}
    folder = write(tmp_path / "them", {**document, "fl_x": 100.0})
    del document["frames"][2]["camera_angle_x"]
    angled = 0.5 * 96 / math.tan(0.4)
    photograph(POSES[2], {"fl_x": angled, "w": 96, "h": 96}, np.zeros(3), 0.5).save(folder / "images" / "2.png")
    (folder / "run.json").write_text("{}")
    assert difference(Views.load(folder)) < 0.006


@pytest.mark.filterwarnings("ignore:the (pictures are drawn again|cameras are moved):UserWarning")
@pytest.mark.parametrize("alpha", [False, True])
def test_an_object_elsewhere_and_of_another_size_comes_to_the_origin(alpha: bool, tmp_path: Path) -> None:
    center, radius = np.array([30.0, -7.0, 2.5]), 4.0
    poses = POSES.copy()
    poses[:, :3, 3] = poses[:, :3, 3] * (radius / 0.5) + center
    # our framing, so that the size without alpha is that of the ball: 1.25 x 0.5 / tan(fov / 2) at 50 degrees
    document = {"fl_x": 48 / math.tan(math.radians(25)), "w": 96, "h": 96, "frames": frames(poses)}
    folder = write(tmp_path / "them", document, center=center, radius=radius, alpha=alpha)
    views = Views.load(folder)
    placed = views.run["placement"]
    assert placed["center"] == pytest.approx(center, abs=0.05) and placed["scale"] == pytest.approx(1 / 8, rel=0.06)
    back = views.cameras.position.double().numpy() / placed["scale"] + placed["center"]
    assert np.allclose(back, poses[:, :3, 3], atol=1e-3), "what was done is told exactly"
    if not alpha:
        assert difference(views) < 0.01
    again = Views.load(views.save(tmp_path / "ours"))
    torch.testing.assert_close(again.cameras.world_from_camera, views.cameras.world_from_camera)
    assert again.run["placement"] == placed, "and not done twice"


def test_a_blender_scene_for_nerf_is_read(tmp_path: Path) -> None:
    """`transforms_train.json`: an angle, no size, and pictures without suffix."""
    poses = POSES.copy()
    poses[:, :3, 3] *= 2.2
    folder = tmp_path / "lego"
    document: dict[str, Any] = {"camera_angle_x": 0.6911112070083618, "w": 100, "h": 100}
    document["frames"] = [
        {"file_path": f"./train/r_{i}", "rotation": 0.012566370614359171, "transform_matrix": pose.tolist()}
        for i, pose in enumerate(poses)
    ]
    write(folder, document, radius=1.2, alpha=True)
    del document["w"], document["h"]
    (folder / "transforms.json").unlink()
    (folder / "transforms_train.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="cameras are moved"):
        views = Views.load(folder)
    assert views.cameras.fov_deg[0].item() == pytest.approx(math.degrees(0.6911112), abs=1e-3)
    assert views.run["placement"]["scale"] == pytest.approx(0.5 / 1.2, rel=0.1)
    with pytest.warns(UserWarning, match="cameras are moved"):
        assert torch.equal(Views.load(folder / "transforms_train.json").rgb, views.rgb)


def test_a_scale_in_a_pose_changes_no_picture(tmp_path: Path) -> None:
    plain = read_frames({"frames": frames()})
    scaled = POSES.copy()
    scaled[:, :3, :3] *= 3.7
    for a, b in zip(plain, read_frames({"frames": frames(scaled)}), strict=True):
        np.testing.assert_allclose(a.world_from_camera, b.world_from_camera, atol=1e-12)
    short = read_frames({"frames": frames(POSES[:, :3])})
    np.testing.assert_allclose(short[1].world_from_camera, POSES[1], atol=1e-12)


def changed(matrix: np.ndarray) -> np.ndarray:
    poses = POSES.copy()
    poses[1, :3, :3] = poses[1, :3, :3] @ matrix
    return poses


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"frames": frames(changed(np.diag([-1.0, 1, 1])))}, "images/1.png` mirrors the picture"),
        ({"frames": frames(changed(np.diag([1.0, 2, 1])))}, "scale all axes alike"),
        ({"frames": frames(changed(np.array([[1, 0.3, 0], [0.3, 1, 0], [0, 0, 1.09**0.5]])))}, "right angles"),
        ({"frames": frames(changed(np.zeros((3, 3))))}, "scale all axes alike"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": [[1, 2]]}]}, "4 x 4"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": np.full((4, 4), 1e999).tolist()}]}, "4 x 4"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": "x"}]}, "4 x 4"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": (np.eye(4) * 2).tolist()}]}, "last row"),
        ({"frames": [{"file_path": "a\0.png", "transform_matrix": np.eye(4).tolist()}]}, "must have a `file_path`"),
        ({"frames": [{"transform_matrix": np.eye(4).tolist()}]}, "must have a `file_path`"),
        ({"frames": frames(), "camera_model": "EQUIRECTANGULAR"}, "camera_model"),
        ({"frames": frames(), "fl_x": 9, "k4": 0.1}, "`k4` without a fisheye"),
        ({"frames": frames(), "fl_x": 9, "p1": 0.1, "is_fisheye": True}, "`p1` or `p2` beside a fisheye"),
        ({"frames": frames(), "fl_x": 9, "cx": 50}, "axis .* in the picture"),
        ({"frames": frames(), "fl_x": 9, "w": 8, "h": 16}, "8 x 16; the picture has 8 x 8"),
        ({"frames": frames(), "w": 8}, "focal length"),
        ({"frames": frames(), "camera_angle_x": 40}, "in radians"),
        ({"frames": frames(), "fl_x": "9"}, "number as `fl_x`"),
        ({"frames": frames(), "fl_x": 10**400}, "number as `fl_x`|finite"),
        ({"frames": frames(), "fl_x": 9, "k1": 1e308}, "a `k1` of at most 1e.09; got 1e.308"),
        ({"frames": frames(), "fl_x": 0}, "in pixels"),
        ({"frames": frames(mask_path="m.png"), "fl_x": 9}, "`mask_path`, which is not read: put the mask"),
        ({"frames": frames(), "fl_x": 9, "rolling_shutter": [0, 0, 0.1, 0]}, "`rolling_shutter`"),
        ({"frames": frames()[:1] * 1025, "fl_x": 9}, "1 to 1024 frames"),
    ],
)
def test_what_cannot_be_shown_right_is_refused_by_name(document: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{index}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(AssetError, match=rf"transforms\.json` cannot be used: .*{says}"):
        Views.load(tmp_path)


def test_cameras_that_look_at_no_one_thing_are_refused() -> None:
    outward = POSES.copy()
    outward[:, :3, :3] = outward[:, :3, :3] @ np.diag([-1.0, 1, -1])  # from the middle of a room
    with pytest.raises(AssetError, match="4 of 4 have the place where"):
        find_object(outward, np.full(4, 0.4))
    alone = find_object(POSES[:1], np.array([math.tan(math.radians(25))]))
    assert np.allclose(alone.center, 0, atol=1e-6) and alone.is_ours


def test_pictures_beyond_the_bound_or_of_two_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "them", {"fl_x": 100.0, "w": 96, "h": 96, "frames": frames()})
    monkeypatch.setattr(limits, "VIEWS_PIXELS", 4 * 96 * 96 - 1)
    with pytest.raises(AssetError, match="pixels together"):
        Views.load(folder)
    monkeypatch.undo()
    Image.new("RGBA", (96, 96)).save(folder / "images" / "1.png")
    with pytest.raises(AssetError, match=r"all have alpha, or none; 0\.png has none"):
        Views.load(folder)


def test_a_model_that_folds_back_shows_nothing_twice() -> None:
    """Strong barrel distortion turns round beyond a radius; rays out there must not find pixels further in."""
    lens = Lens(width=64, height=64, fl_x=30.0, fl_y=30.0, cx=32.0, cy=32.0, k=(-0.4, 0.0, 0.0, 0.0))
    assert lens.reach() == pytest.approx(math.sqrt(1 / 1.2), abs=2e-3)
    radius = np.hypot(*np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5))
    picture = torch.from_numpy(np.stack([radius / 46] * 3 + [np.ones_like(radius)])).float()
    drawn = square_up(picture, lens, half=1.2, size=64)
    row, alpha = drawn[0, 32], drawn[3, 32]
    assert (row[33:].diff()[alpha[34:] > 0.99] > -1e-4).all() and alpha[-1] == 0 and alpha[32] == 1


@pytest.mark.slow
def test_lift_takes_such_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames(mask_path="x"), "fl_x": 9}))
    assert main(["lift", "a ball", "--from", str(tmp_path), "--out", str(tmp_path / "x.glb")]) == 3
    assert "`mask_path`" in capsys.readouterr().err
