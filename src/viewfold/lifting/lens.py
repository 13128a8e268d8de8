"""The field of view that views share, where nobody knows it: searched by silhouettes, or by pictures.

A field of view is no input of the network, so that a model which was trained at several draws each set of views at one
that it does not tell.  Too wide or too narrow a guess bends everything that is fitted.  The scale is free: the distance
is always the one that frames an object of radius 0.5, and the perspective alone is searched.

    silhouettes   the field of view whose visual hull best fills all of them; free of charge, and wrong for what is
                  round or convex, whose silhouettes look the same at any
    pictures      the one at which a small fit explains the pictures best; half a minute on a CPU, from eight views on

What each finds: `benchmarks/lens.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras, framing_distance
from viewfold.errors import InputError
from viewfold.lifting.descent import Progress
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.hull import visual_hull
from viewfold.lifting.observation import Observed, ObserveSettings
from viewfold.lifting.photometric import Photometric
from viewfold.scene.field import BOX_RADIUS, lattice
from viewfold.scene.grid import GridSettings
from viewfold.views import Views

FOVS_DEG = (15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0)
"""Fields of view that silhouettes are tried at: those that MVDream was trained at."""

FEW_FOVS_DEG = (15.0, 24.0, 33.0, 42.0, 51.0, 60.0)
"""And pictures; between them a parabola through the best three is believed."""

NODES = 40
"""Points along each axis of the hull that is compared with the silhouettes."""

LEAST_VIEWS = 8
"""Fewer pictures are explained at any field of view: from four, three toys of four came out at 60 degrees."""

SMALL = 48
"""Pixels of the pictures that the small fits are compared with."""


def find_lens(
    observed: Observed,
    *,
    settings: ObserveSettings,
    progress: Progress | None = None,
) -> Observed:
    """Return the views with the lens that the settings ask for; where the views are.

    Args:
        observed: with cameras whose directions are right.
        settings: see `ObserveSettings`.
        progress: see `Progress`; the stage is "lens".

    Raises:
        InputError: pictures are to tell, and there are fewer than eight.
        FitError: silhouettes that share no volume at any field of view.
    """
    match settings.lens:
        case "silhouettes":
            cameras = _by_silhouettes(observed.views.cameras, observed.foreground)
        case "pictures":
            cameras = with_fov(observed.views.cameras, _by_pictures(observed, progress or (lambda *step: None)))
        case _:
            return observed
    return replace(observed, views=replace(observed.views, cameras=cameras))


def _by_pictures(observed: Observed, progress: Progress) -> float:
    """Return the field of view at which a small fit leaves the least squared error of the pictures, in degrees."""
    if len(observed.views) < LEAST_VIEWS:
        raise InputError(
            f"`lens` must not be searched by pictures of fewer than {LEAST_VIEWS} views; got {len(observed.views)}. "
            "Draw more views, or say silhouettes."
        )
    small, errors = _shrunk(observed), []
    for number, fov in enumerate(FEW_FOVS_DEG):
        progress("lens", number, len(FEW_FOVS_DEG))
        errors.append(
            _unexplained(replace(small, views=replace(small.views, cameras=with_fov(small.views.cameras, fov))))
        )
    progress("lens", len(FEW_FOVS_DEG), len(FEW_FOVS_DEG))
    return lowest(FEW_FOVS_DEG, errors)


def _shrunk(observed: Observed) -> Observed:
    pictures = Photometric.of(observed)
    pictures = pictures.shrunk(min(SMALL, pictures.size))
    foreground = Foreground(background=pictures.background, alpha=pictures.alpha, certainty=pictures.certainty)
    return Observed(views=Views(rgb=pictures.rgb, cameras=pictures.cameras), foreground=foreground)


def _unexplained(observed: Observed) -> float:
    """Return the mean squared error that a small fit leaves, over the views' own grounds."""
    fitted = fit(
        observed,
        representation=GridSettings(resolution=44, samples=44),
        settings=FitSettings(steps=40, carve=None),
        generator=torch.Generator().manual_seed(0),
    )
    views, ground = observed.views, observed.foreground.background[:, :, None, None]
    with torch.no_grad():
        seen = fitted.representation.render(views.cameras, size=views.rgb.shape[-1]).over(ground)
    return float((seen - views.rgb).square().mean())


def lowest(at: tuple[float, ...], errors: list[float]) -> float:
    """Return where a curve through samples is lowest: of the parabola through the least and its neighbours."""
    place = int(np.argmin(errors))
    if place in (0, len(at) - 1):
        return at[place]
    some = slice(place - 1, place + 2)
    bend, slope, _ = np.polyfit(at[some], errors[some], 2)
    return float(np.clip(-slope / (2 * bend), at[place - 1], at[place + 1])) if bend > 0 else at[place]


def _by_silhouettes(cameras: Cameras, foreground: Foreground) -> Cameras:
    """Return the cameras with the shared field of view whose visual hull best fills all silhouettes."""
    points = lattice(NODES, radius=BOX_RADIUS, device=foreground.alpha.device)
    best, best_score = cameras, -1.0
    for fov in FOVS_DEG:
        tried = with_fov(cameras, fov)
        hull = visual_hull(foreground.alpha, tried, points)
        score = _explained(hull, foreground.alpha, tried, points)
        if score > best_score:
            best, best_score = tried, score
    return best


def with_fov(cameras: Cameras, fov_deg: float) -> Cameras:
    """Return cameras in the same directions at one field of view, as far away as frames an object of radius 0.5."""
    pose = cameras.world_from_camera.clone()
    direction = torch.nn.functional.normalize(pose[:, :3, 3], dim=-1)
    pose[:, :3, 3] = direction * framing_distance(fov_deg)
    return replace(cameras, world_from_camera=pose, fov_deg=torch.full_like(cameras.fov_deg, fov_deg))


def _explained(
    hull: Float[Tensor, "p"], alpha: Float[Tensor, "v 1 h w"], cameras: Cameras, points: Float[Tensor, "p 3"]
) -> float:
    """Return the share of all silhouettes' area that the hull's points project to, at the hull's own coarseness."""
    cells = round(len(points) ** (1 / 3)) * 2 // 3
    coarse = torch.nn.functional.adaptive_avg_pool2d(alpha, cells) > 0.5
    uv, _ = cameras.project(points[hull > 0.5])
    column = ((uv[..., 0] + 1) / 2 * cells).long().clamp(0, cells - 1)
    row = ((1 - uv[..., 1]) / 2 * cells).long().clamp(0, cells - 1)
    hit = torch.zeros(len(cameras), cells * cells, dtype=torch.bool, device=hull.device)
    hit.scatter_(1, row * cells + column, True)
    hit = hit.reshape(len(cameras), 1, cells, cells)
    return float((hit & coarse).sum() / coarse.sum().clamp_min(1))
