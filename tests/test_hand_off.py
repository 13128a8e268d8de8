"""Views for other systems: the object cut out of its ground, and what docs/hand-off.md promises of the folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lift_fakes import ball, ball_views
from PIL import Image

from viewfold.camera import Cameras
from viewfold.errors import FitError
from viewfold.lifting.foreground import cut_out, find_foreground
from viewfold.views import Views

SIDES = {"front": (0, -1, 0), "left": (1, 0, 0), "back": (0, 1, 0), "right": (-1, 0, 0)}
"""From where each shows the object, in Hunyuan3D-2mv's order: its "left" has the face to the left of the picture."""


def check_hand_off(folder: Path) -> None:
    """Hold a folder to what the readers look for, each named in docs/hand-off.md."""
    names = {f"{side}.png" for side in SIDES}
    assert {path.name for path in folder.iterdir()} == names | {"transforms.json", "run.json"}
    for name in names:
        picture = Image.open(folder / name)
        alpha = np.array(picture)[..., 3]
        assert picture.mode == "RGBA" and picture.width == picture.height
        assert (alpha < 255).any(), "TRELLIS would cut out the object by itself"
        rows, columns = np.nonzero(alpha > 0.8 * 255)
        assert len(rows) > 0.02 * alpha.size, "TRELLIS crops to these"
        assert not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any(), "the object is whole"
        assert picture.info, "the record of provenance"
    told = json.loads((folder / "transforms.json").read_text())
    assert [frame["file_path"] for frame in told["frames"]] == [f"{side}.png" for side in SIDES]
    for frame, towards in zip(told["frames"], SIDES.values(), strict=True):
        pose = np.array(frame["transform_matrix"])
        distance = np.linalg.norm(pose[:3, 3])
        assert np.allclose(pose[:3, 3] / distance, towards, atol=1e-6)
        pose[:3, 1:3] *= -1  # as TRELLIS reads a pose: OpenGL's to OpenCV's
        assert np.allclose(np.linalg.inv(pose)[:3, 3], [0, 0, distance], atol=1e-6), "the object is before the camera"
        assert np.allclose(-pose[:3, 1], [0, 0, 1], atol=1e-6), "and upright"
        assert frame["camera_angle_x"] == pytest.approx(2 * math.atan(frame["w"] / 2 / frame["fl_x"]), rel=1e-5)
        assert distance * math.sin(frame["camera_angle_x"] / 2) > 0.5, "its sphere of radius 0.5 is in the picture"
    again = Views.load(folder)
    assert again.alpha is not None and again.cameras.azimuth_deg.round().tolist() == [0, 90, 180, 270]


@pytest.mark.parametrize("ground", [0.5, 0.1, 1.0])
def test_what_is_cut_out_is_what_was_seen_when_it_is_laid_over_its_ground_again(ground: float) -> None:
    cameras = Cameras.orbit(4)
    views = Views(rgb=ball(cameras, size=64, ground=ground)[0], cameras=cameras, prompt="a ball")
    alone = cut_out(views)
    assert alone.alpha is not None and alone.prompt == "a ball"
    back = alone.over(find_foreground(views).background)
    assert float((back - views.rgb).abs().max()) < 0.25 and float((back - views.rgb).abs().mean()) < 2e-3


def test_colours_at_the_outline_are_the_objects_own_and_not_half_the_grounds() -> None:
    cameras = Cameras.orbit(4, elevation_deg=0)
    green = torch.tensor([0.0, 0.9, 0.1])[:, None, None]
    alpha = ball(cameras, size=64)[1]
    alone = cut_out(Views(rgb=green * alpha + 0.5 * (1 - alpha), cameras=cameras))
    assert alone.alpha is not None
    outline = (alone.alpha > 0.3) & (alone.alpha < 0.9)
    assert int(outline.sum()) > 50 and float((alone.alpha - alpha).abs().mean()) < 0.01
    off = (alone.rgb - green).abs().amax(1, keepdim=True)
    mixed = (green * alpha + 0.5 * (1 - alpha) - green).abs().amax(1, keepdim=True)
    assert float(off[outline].mean()) < 0.25 * float(mixed[outline].mean())


def test_what_has_alpha_stays_and_what_shows_no_object_is_refused() -> None:
    views = ball_views()
    alone = replace(views, alpha=torch.rand(4, 1, 32, 32))
    assert cut_out(alone) is alone
    with pytest.raises(FitError, match="plain ground"):
        cut_out(replace(views, rgb=torch.full_like(views.rgb, 0.5)))
