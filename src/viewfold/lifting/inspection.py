"""Given views are looked at before anything is fitted to them: a fault is told at once, with the views that have it.

`Cameras`, `Views` and `Views.load` have refused what is no camera, no picture and no file.  Here, what no object can be
fitted to: pixels that are no colours, cameras that do not look at the object or are out of all scale with it, pictures
without an object or without a ground, pictures of one place that contradict each other, and one side alone.  Views are
numbered from 0, as their files are.  Views that a model drew have none of these faults but an empty picture, which
`stages.lift` answers with another seed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.foreground import MAX_SHARE, MIN_SHARE
from viewfold.lifting.lens import with_fov
from viewfold.lifting.observation import Observed, observe
from viewfold.scene.volume import SCENE_RADIUS
from viewfold.views import Views

OVERSHOOT = 0.5
"""Colours this far outside of [0, 1] are no sharpened picture's but another unit's, 0 to 255 say."""

ANGLES_DEG = 0.1, 170.0
"""Fields of view that a pinhole camera can have in single precision."""

AT_ORIGIN = 1e-3
"""A camera that is this near to the origin stands in the middle of the object and looks nowhere."""

LOOK = 64
"""Pixels along each side at which outlines and pictures are looked at here."""

OUTSIDE = 0.5
"""Share of a picture's object that may lie outside of the sphere that a lift renders; twice too far gives 0.75."""

TOO_SMALL = 0.1
"""An object of this radius is a fifth of what it should be."""

SAME_POSE, SAME_FOV = 1e-3, 0.01
"""Poses (of distance 1) and fields of view that differ by less, the latter as a share, are the same."""

CONTRADICTION = 0.2
"""Mean difference of colour on the object between pictures that do not show the same: noise has a tenth of it."""

ONE_SIDE_DEG = 5.0
"""Cameras that are no further apart than this, seen from the object, show one side of it."""


def inspect(views: Views, *, lens_known: bool = True, one_side: bool = False) -> Observed:
    """Find the object in given views, as `observe` does, or say why no object can be fitted to them.

    Args:
        views: anywhere.
        lens_known: False where the lens is to be searched: then only the cameras' directions are believed.
        one_side: whether one view, or several of one side, are enough because a prior makes up the others.

    Raises:
        InputError: see above.
    """
    check_pixels(views)
    _check_cameras(views.cameras)
    if not lens_known:
        views = replace(views, cameras=with_fov(views.cameras, float(views.cameras.fov_deg.mean())))
    try:
        observed = observe(views)
    except FitError as error:
        raise InputError(str(error)) from error
    _check_outlines(observed)
    _check_agreement(observed)
    if not one_side and _spread_deg(views.cameras) < ONE_SIDE_DEG:
        raise InputError(
            f"`views` must show the object from two sides at least; the {len(views)} given show one, which tells no "
            "depth. Draw others around them (`viewfold generate --from`), or add steps of distillation."
        )
    return observed


def check_pixels(views: Views) -> None:
    """Refuse pictures that hold no colours, or are not square.

    Raises:
        InputError: see above.
    """
    rgb, alpha = views.rgb, views.alpha
    if rgb.shape[-1] != rgb.shape[-2]:
        raise InputError(f"`views` must be square; got {rgb.shape[-1]} x {rgb.shape[-2]} pixels. Pad or crop them.")
    finite, within = rgb.isfinite(), (rgb > -OVERSHOOT) & (rgb < 1 + OVERSHOOT)
    if alpha is not None:
        finite, within = finite & alpha.isfinite(), within & (alpha > -OVERSHOOT) & (alpha < 1 + OVERSHOOT)
    _refuse(~finite.flatten(1).all(1), "hold finite pixels", "{} NaN or infinity. Make them again.", verb="hold")
    _refuse(
        ~within.flatten(1).all(1),
        "hold colours and alpha between 0 and 1",
        "{} others. Divide colours of 0 to 255 by 255.",
        verb="hold",
    )


def _check_cameras(cameras: Cameras) -> None:
    """Refuse cameras that do not look at the object about the origin."""
    turn, distance = cameras.world_from_camera[:, :3, :3], cameras.position.norm(dim=-1)
    skew = (turn.mT @ turn - torch.eye(3).to(turn)).abs().amax(dim=(1, 2))
    low, high = ANGLES_DEG
    fov = cameras.fov_deg
    _refuse(skew > 0.01, "have rigid cameras", "{} a pose that scales or shears.", verb="have")
    _refuse(
        (fov < low) | (fov > high),
        f"have fields of view between {low:g} and {high:g} degrees",
        f"{{}} others, {float(fov.min()):.3g} to {float(fov.max()):.3g}. Is it in radians?",
        verb="have",
    )
    about = "have cameras around the object, which is about the origin with a radius of 0.5"
    _refuse(distance < AT_ORIGIN, about, "{} at the origin. Give their poses as world from camera.", verb="stand")
    uv, depth = (x[:, 0] for x in cameras.project(cameras.position.new_zeros(1, 3)))
    reach = 1 + SCENE_RADIUS / (depth * (fov.deg2rad() / 2).tan())
    away = (depth <= 0) | (uv.abs().amax(dim=-1) > reach)
    _refuse(away, about, "{} away from it. Cameras look along their -z (OpenGL); OpenCV's look along +z.", verb="look")


def _check_outlines(observed: Observed) -> None:
    """Refuse pictures without an object or a ground, and objects that are out of all scale with the cameras."""
    cameras, alpha = observed.views.cameras, observed.foreground.alpha
    share = alpha.mean(dim=(1, 2, 3))
    _refuse(share < MIN_SHARE, "show an object", "{} nothing, or next to nothing. Leave them out.", verb="show")
    size = min(LOOK, alpha.shape[-1])
    cover = adaptive_avg_pool2d(alpha, size)[:, 0]
    origins, directions = cameras.rays(size)
    passing = (origins - (origins * directions).sum(-1, keepdim=True) * directions).norm(dim=-1)
    full, outside = share > MAX_SHARE, passing > SCENE_RADIUS
    _refuse(
        full & (outside.flatten(1).any(1) | full.all()),
        "show the object on a ground",
        "{} nothing else: alpha covers the picture. Leave alpha out if it means nothing.",
        verb="show",
    )
    beyond = (cover * outside).sum(dim=(1, 2)) / cover.sum(dim=(1, 2))
    around = f"have cameras that see the object about the origin, with a radius of about {OBJECT_RADIUS}"
    _refuse(
        beyond > OUTSIDE,
        around,
        "{} it larger or elsewhere: too far away, or in another unit. Scale and move the cameras.",
        verb="see",
    )
    inside = cover > 0.5
    whole = ~(inside[:, [0, -1]].flatten(1).any(1) | inside[:, :, [0, -1]].flatten(1).any(1))
    tiny = whole & ((passing * inside).amax(dim=(1, 2)) < TOO_SMALL)
    within = cameras.position.norm(dim=-1) < OBJECT_RADIUS
    _refuse(
        tiny & (within | tiny.all()),
        around,
        f"{{}} it smaller than {TOO_SMALL}: too near, even inside of it, or in another unit. Scale the cameras.",
        verb="see",
    )


def _check_agreement(observed: Observed) -> None:
    """Refuse pictures from one place that show different things."""
    cameras = observed.views.cameras
    pose = torch.cat([cameras.world_from_camera[:, :3, :3].flatten(1), normalize(cameras.position, dim=-1)], dim=1)
    distance, fov = cameras.position.norm(dim=-1), cameras.fov_deg
    same = torch.cdist(pose, pose) < SAME_POSE
    for length in (distance, fov):
        same &= (length[:, None] - length).abs() < SAME_FOV * length
    first = same.int().argmax(dim=1)  # of each view, the first one from its place
    size = min(LOOK, observed.foreground.alpha.shape[-1])
    rgb, alpha = (adaptive_avg_pool2d(x, size) for x in (observed.opaque(), observed.foreground.alpha))
    either = torch.maximum(alpha, alpha[first])
    apart = ((rgb - rgb[first]).abs().mean(dim=1, keepdim=True) * either).sum(dim=(1, 2, 3)) / either.sum(dim=(1, 2, 3))
    wrong = apart > CONTRADICTION
    pairs = ", ".join(f"{int(first[i])} and {i}" for i in wrong.nonzero()[:8, 0].tolist())
    if pairs:
        raise InputError(
            f"`views` must show one object; pictures {pairs} are from the same camera and show different things. "
            "Give each its own pose, or leave one out."
        )


def _spread_deg(cameras: Cameras) -> float:
    """Return the largest angle between two cameras, seen from the origin."""
    toward = normalize(cameras.position, dim=-1)
    return float((toward @ toward.T).amin().clamp(-1, 1).acos().rad2deg())


def _refuse(which: Bool[Tensor, "v"], must: str, fault: str, *, verb: str) -> None:
    """Raise InputError if any view is meant; `{}` in `fault` becomes "view 3 shows" or "views 0, 2 show"."""
    numbers = which.nonzero()[:, 0].tolist()
    if not numbers:
        return
    named = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    said = f"view {named} {'has' if verb == 'have' else verb + 's'}" if len(numbers) == 1 else f"views {named} {verb}"
    raise InputError(f"`views` must {must}; {fault.format(said)}")
