"""Given views that no object can be fitted to are refused by name before anything is fitted; valid ones are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import tiny_model
from lift_fakes import PerfectPrior, ball, ball_views

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import AssetError, InputError
from viewfold.lifting.distillation import DistilSettings
from viewfold.lifting.inspection import _refuse, inspect
from viewfold.lifting.stages import LiftSettings, lift
from viewfold.lifting.survey import Survey
from viewfold.views import Views

TRUE = ball_views()
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


def with_pixels(change: Callable[[torch.Tensor], object], views: Views = TRUE) -> Views:
    rgb = views.rgb.clone()
    change(rgb)
    return replace(views, rgb=rgb)


def with_poses(change: Callable[[torch.Tensor], object], **fov: float) -> Views:
    """Views whose poses, and field of view, are not those that the pictures were taken from."""
    pose = TRUE.cameras.world_from_camera.clone()
    change(pose)
    fovs = torch.full((4,), fov.get("fov", 40.0))
    return replace(TRUE, cameras=Cameras(world_from_camera=pose, fov_deg=fovs))


def scaled(by: float, places: slice = slice(None)) -> Views:
    return with_poses(lambda pose: pose[places, :3, 3].mul_(by))


def with_alpha(change: Callable[[torch.Tensor], object] = lambda alpha: None, cameras: Cameras = TRUE.cameras) -> Views:
    rgb, alpha = ball(cameras, size=32)
    change(alpha)
    return Views(rgb=rgb, alpha=alpha, cameras=cameras)


def twice(other: torch.Tensor) -> Views:
    """The four views, and another picture from the place of the third."""
    return Views(rgb=torch.cat([TRUE.rgb, other[None]]), cameras=TRUE.cameras[[0, 1, 2, 3, 2]])


FAULTS: dict[str, tuple[Views, str]] = {
    "NaN pixels": (
        with_pixels(lambda rgb: rgb[2, 0, 3, 3].fill_(float("nan"))),
        "must hold finite pixels; view 2 holds NaN",
    ),
    "infinite pixels": (with_pixels(lambda rgb: rgb[:2].fill_(float("inf"))), "finite pixels; views 0, 1 hold"),
    "NaN alpha": (with_alpha(lambda alpha: alpha[1, 0, 3, 3].fill_(float("nan"))), "finite pixels; view 1 holds"),
    "bytes": (with_pixels(lambda rgb: rgb.mul_(255)), "between 0 and 1; views 0, 1, 2, 3 hold others"),
    "oblong": (replace(TRUE, rgb=TRUE.rgb[..., :30]), "must be square; got 30 x 32"),
    "sheared": (with_poses(lambda pose: pose[3, 0, :3].mul_(2)), "rigid cameras; view 3 has"),
    "one angle for another": (with_poses(lambda pose: None, fov=175.0), "fields of view .*; views 0, 1, 2, 3 have"),
    "no angle": (with_poses(lambda pose: None, fov=0.01), "fields of view between 0.1 and 170"),
    "at the origin": (scaled(0.0, slice(1, 2)), "radius of 0.5; view 1 stands at the origin"),
    "looking away": (with_poses(lambda pose: pose[2].copy_(pose[2] @ FLIP)), "view 2 looks away from it. .* OpenCV"),
    "looking past": (
        with_poses(lambda pose: pose[:, :3, 3].add_(pose[:, :3, 0] * 2)),
        "views 0, 1, 2, 3 look away from it",
    ),
    "a thousand times too far": (scaled(1000.0), "views 0, 1, 2, 3 see it larger or elsewhere: too far away"),
    "three times too far": (scaled(3.0), "views 0, 1, 2, 3 see it larger"),
    "one too far": (scaled(1000.0, slice(3, 4)), "view 3 sees it larger"),
    "inside the object": (scaled(0.1), "views 0, 1, 2, 3 see it smaller than 0.1: too near, even inside of it"),
    "one inside the object": (scaled(0.1, slice(0, 1)), "view 0 sees it smaller"),
    "a lens ten times too narrow": (with_poses(lambda pose: None, fov=4.0), "views 0, 1, 2, 3 see it smaller"),
    "a thousand times too near": (scaled(0.001 * 2), "see it smaller"),
    "fully transparent": (
        with_alpha(lambda alpha: alpha.zero_()),
        "must show an object; views 0, 1, 2, 3 show nothing",
    ),
    "one transparent": (with_alpha(lambda alpha: alpha[3].zero_()), "must show an object; view 3 shows nothing"),
    "fully opaque": (with_alpha(lambda alpha: alpha.fill_(1)), "on a ground; views 0, 1, 2, 3 show nothing else"),
    "one opaque": (with_alpha(lambda alpha: alpha[1].fill_(1)), "on a ground; view 1 shows nothing else"),
    "all full, from near": (
        with_alpha(cameras=Cameras.orbit(4, fov_deg=20, distance=0.9)),
        "on a ground; views 0, 1, 2, 3 show nothing else",
    ),
    "empty": (with_pixels(lambda rgb: rgb[1].fill_(0.5)), "plain ground; it covers 0.0% of view 1"),
    "no ground": (
        with_pixels(lambda rgb: rgb[0].copy_(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))),
        "plain ground; it covers .* of view 0, whose border varies",
    ),
    "one place, another colour": (twice(TRUE.rgb[2].flip(0)), "pictures 2 and 4 are from the same camera"),
    "one place, another shape": (
        twice(ball(Cameras.orbit(4, elevation_deg=15, distance=4.0), size=32)[0][2]),
        "pictures 2 and 4 are from the same camera",
    ),
    "one view": (replace(TRUE, rgb=TRUE.rgb[:1], cameras=TRUE.cameras[:1]), "two sides at least; the 1 given show one"),
    "one side": (
        Views(rgb=TRUE.rgb[[0, 0, 0]], cameras=TRUE.cameras[[0, 0, 0]]),
        "two sides at least; the 3 given show one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_by_name_and_number_before_anything_is_fitted(fault: str) -> None:
    views, says = FAULTS[fault]
    stages: list[str] = []
    with pytest.raises(InputError, match=says) as raised:
        lift(no_prior(), "a ball", views=views, progress=lambda stage, step, total: stages.append(stage))
    assert not stages and raised.value.exit_code == 2 and str(raised.value).startswith("`views` must")


def no_prior() -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])


@pytest.mark.parametrize(
    ("faulty", "says"),
    [
        (1, "view 0 shows nothing"),
        (8, "views 0, 1, 2, 3, 4, 5, 6, 7 show nothing"),
        (11, "views 0, 1, 2, 3, 4, 5, 6, 7 and 3 more show nothing"),
    ],
)
def test_eight_faulty_views_are_named_and_the_rest_are_counted(faulty: int, says: str) -> None:
    with pytest.raises(InputError, match=f"`views` must be good; {says}$"):
        _refuse(torch.arange(12) < faulty, "be good", "{} nothing", verb="show")
    _refuse(torch.zeros(3, dtype=torch.bool), "be good", "{} nothing", verb="show")


def test_a_prior_that_distils_makes_up_the_sides_that_one_view_does_not_show() -> None:
    views = replace(TRUE, rgb=TRUE.rgb[:1], cameras=TRUE.cameras[:1])
    assert len(inspect(views, one_side=True).views) == 1
    asked: list[str] = []

    class Enough(Exception):
        pass

    def progress(stage: str, step: int, total: int) -> None:
        asked.append(stage)
        raise Enough

    with pytest.raises(Enough):
        lift(no_prior(), "a", views=views, settings=LiftSettings(distil=DistilSettings(steps=1)), progress=progress)
    assert asked == ["fit"]


# What is valid --------------------------------------------------------------------------------------------------------

SURVEY = Survey(views=16).others(Cameras.orbit(4))


@pytest.mark.parametrize(
    "cameras",
    [
        Cameras.orbit(4, elevation_deg=15),
        Cameras.orbit(2),
        Cameras.orbit(3, span_deg=20),
        SURVEY,
        Cameras.orbit(4, fov_deg=10),
        Cameras.orbit(4, fov_deg=110),  # nearer than the object's radius, and so in its sphere
        Cameras.orbit(4, fov_deg=40, distance=1.3),  # crops the sphere
        Cameras.orbit(4, fov_deg=40, distance=6.0),  # the object is small in the picture, as it is in the world
        Cameras.at(elevation_deg=[89.9, -89.9, 0], azimuth_deg=[0, 0, 0]),
        Cameras.cat([Cameras.orbit(4, fov_deg=20), Cameras.orbit(3, fov_deg=60, distance=2.0, elevation_deg=40)]),
        Cameras.look_at(Cameras.orbit(4).position, target=(0.1, 0.1, 0.1)),
        Cameras.cat([Cameras.orbit(4), Cameras.orbit(4, distance=4.0)]),  # from one direction, not from one place
        Cameras.cat([Cameras.orbit(4, distance=2.0), Cameras.orbit(4, distance=2.0, fov_deg=80)]),
        Cameras.orbit(4)[[0, 1, 2, 3, 0, 0]],  # the same picture thrice
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_true_views_are_not_refused_whatever_the_lens_and_the_distance(cameras: Cameras, known: bool) -> None:
    rgb, alpha = ball(cameras, size=32)
    views = Views(rgb=rgb, alpha=alpha if known else None, cameras=cameras)
    assert len(inspect(views).views) == len(cameras)


def test_a_close_picture_of_the_object_alone_is_valid_beside_others() -> None:
    near = Cameras.orbit(1, fov_deg=20, distance=0.9)
    cameras = Cameras.cat([Cameras.orbit(4), near])
    views = with_alpha(cameras=cameras)
    assert float(views.alpha[4].amin()) == 1, "the test's own picture must be full"  # type: ignore[index]
    inspect(views)


def test_a_thing_that_is_small_from_one_side_or_runs_out_of_narrow_pictures_is_valid() -> None:
    def end_on(alpha: torch.Tensor) -> None:
        alpha[0] = 0
        alpha[0, :, 15:17, 15:17] = 1

    inspect(with_alpha(end_on))

    def rod(alpha: torch.Tensor) -> None:
        alpha.zero_()
        alpha[..., 12:20] = 1

    inspect(with_alpha(rod, Cameras.orbit(4, fov_deg=5, distance=1.7)))


def test_an_object_that_is_somewhat_larger_than_what_is_rendered_is_valid() -> None:
    """As a model draws it whose lens is unknown."""
    inspect(scaled(1.8))


def test_noise_between_pictures_from_one_place_is_no_contradiction() -> None:
    noise = 0.05 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    inspect(twice((TRUE.rgb[2] + noise).clamp(0, 1)))


def test_where_the_lens_is_searched_distances_are_not_believed() -> None:
    inspect(scaled(1000.0), lens_known=False)


def test_photographs_of_several_sizes_with_other_units_and_lenses_are_valid(tmp_path: Path) -> None:
    """As a stranger writes them: a metre to the left, in centimetres, one picture twice as large."""
    cameras = Cameras.orbit(5, elevation_deg=20, fov_deg=50)
    rgb, alpha = ball(cameras, size=48)
    Views(rgb=rgb, alpha=alpha, cameras=cameras).save(tmp_path, turntable=False)
    (tmp_path / "run.json").unlink()
    document = json.loads((tmp_path / "transforms.json").read_text())
    for frame in document["frames"]:
        for axis, shift in enumerate((-100.0, 0.0, 30.0)):
            frame["transform_matrix"][axis][3] = 100 * frame["transform_matrix"][axis][3] + shift
    large = Views(rgb=ball(cameras[[0]], size=96)[0], alpha=ball(cameras[[0]], size=96)[1], cameras=cameras[[0]])
    large.save(tmp_path / "large", turntable=False)
    (tmp_path / "large" / "000.png").replace(tmp_path / "000.png")
    focal = json.loads((tmp_path / "large" / "transforms.json").read_text())["frames"][0]
    document["frames"][0] |= {key: focal[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="drawn again|moved and scaled"):
        views = Views.load(tmp_path)
    assert len(inspect(views).views) == 5


# From the shell -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Lift saved views with a tiny model; return the exit code."""
    model = tiny_model()
    with torch.no_grad():
        next(model.unet.parameters()).fill_(float("nan"))
    monkeypatch.setattr("viewfold.cli.lift.open_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)

    def run(views: Views, *options: str, spoil: Callable[[Path], object] = lambda folder: None) -> int:
        views.save("views", turntable=False)
        spoil(Path("views"))
        return main(["lift", "a red mug", "--from", "views", "--out", "out/ball.glb", *options])

    return run


@pytest.mark.parametrize("fault", ["a thousand times too far", "looking away", "one view", "empty"])
def test_the_shell_names_the_folder_and_leaves_nothing(
    shell: Callable[..., int], capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    assert shell(FAULTS[fault][0], "--quality", "draft") == 2
    said = capsys.readouterr().err
    assert "viewfold: `--from` must" in said and "Traceback" not in said
    assert os.listdir() == ["views"]


def test_saved_views_without_cameras_are_refused(shell: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def forget(folder: Path) -> None:
        document = json.loads((folder / "transforms.json").read_text())
        del document["frames"][1]["transform_matrix"]
        (folder / "transforms.json").write_text(json.dumps(document))

    assert shell(TRUE, spoil=forget) == AssetError.exit_code == 3
    assert "transform_matrix" in capsys.readouterr().err and os.listdir() == ["views"]


@pytest.mark.slow
def test_nan_from_the_model_is_a_fit_error_that_leaves_nothing(
    shell: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell(TRUE, "--quality", "draft", "--steps", "1") == 5
    assert "`prior` must return finite noise" in capsys.readouterr().err
    assert os.listdir() == ["views"]
