"""What an object that is fitted to some of the views says of the others.

    halves    every second view around the object makes one, the others another: are they the same?
    left out  all views but one make an object: does it look like that one from its camera?

Agreement in pixels (evaluation/consistency.py) asks whether some object could look like the views; this asks whether
they make one.  Sources: MVGBench's self-consistency (arXiv 2507.00006), which fits gaussians where this fits the grid
of `lift`; the second is what is called novel view synthesis on held-out views, of the views themselves.  A mistake that
all views share neither can see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation.consistency import find_coverage
from viewfold.evaluation.likeness import compare_pictures, compare_surfaces, psnr_db
from viewfold.ground import ground_color
from viewfold.lifting.fit import FitSettings, Fitted, fit
from viewfold.lifting.inspection import inspect
from viewfold.scene.rendering import Rendering
from viewfold.views import GROUND, Views

LEAST = 8
"""Views that can be halved; fewer than four to a half leave most of the surface open."""

LEAST_LEFT = 5
"""Views of which one can be left out."""

MOST_LEFT = 8
"""Views that are left out in turn, evenly chosen around the object: each costs a fit."""

RESOLUTION, FACES = 96, 8000
"""Of the surfaces that are compared."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """How like two objects are, each fitted to half of the views."""

    psnr_db: float
    """Of their pictures from all of the cameras."""

    outline_iou: float
    """Pixels that both cover by half, as a share of those that either does."""

    depth_gap: float
    """Mean difference of their depths where both cover, in world units (the object's diameter is about 1)."""

    chamfer: float
    """See `SurfaceLikeness`."""

    f_score: float
    """See `SurfaceLikeness`."""


def measure_halves(
    views: Views,
    *,
    settings: FitSettings | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Halves:
    """Fit an object to every second view around it, one to the others, and compare them.

    Args:
        views: `LEAST` or more of one object on a plain ground, or with alpha.
        settings: of the fits; None is `FitSettings()`.
        seed: of everything random.
        progress: called with ("first half" or "second half", steps done, steps in all).

    Raises:
        InputError: fewer views, or such that no object can be fitted to (lifting/inspection.py).
        FitError: a half whose views share no volume, or whose fit diverged or is empty.
    """
    if len(views) < LEAST:
        raise InputError(f"`views` must be at least {LEAST} to be halved; got {len(views)}.")
    order = views.cameras.azimuth_deg.argsort(stable=True)
    made = [
        _fitted(views, chosen, name, settings, seed, progress)
        for name, chosen in (("first half", order[::2]), ("second half", order[1::2]))
    ]
    first, second = (_drawn(one, views.cameras, views.rgb.shape[-1]) for one in made)
    pictures = compare_pictures(first, second, ground=GROUND)
    both = (first.alpha > 0.5) & (second.alpha > 0.5)
    surfaces = [one.representation.to_mesh(resolution=RESOLUTION, max_faces=FACES).mesh for one in made]
    alike = compare_surfaces(*surfaces)
    return Halves(
        psnr_db=pictures.psnr_db,
        outline_iou=pictures.outline_iou,
        depth_gap=float((first.depth - second.depth).abs()[both].mean()),
        chamfer=alike.chamfer,
        f_score=alike.f_score,
    )


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How like views are to what all others make of them."""

    psnr_db: float
    """Mean over the views that were left out, of whole pictures on one ground."""

    outline_iou: float
    """Mean over them of the pixels that both cover by half, as a share of those that either does."""

    worst_psnr_db: float
    """Of the view that is least like what the others make."""

    worst_view: int
    """Which that is, counted from 0."""

    n: int
    """Views that were left out in turn."""


def measure_left_out(
    views: Views,
    *,
    most: int = MOST_LEFT,
    settings: FitSettings | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> LeftOut:
    """Leave views out in turn, fit an object to the others, and compare what it looks like from there.

    Args:
        views: `LEAST_LEFT` or more of one object on a plain ground, or with alpha.
        most: views that are left out, evenly chosen around the object; each costs a fit, some 5 seconds.
        settings: of the fits; None is `FitSettings()`.
        seed: of everything random.
        progress: called with ("without view 3", steps done, steps in all).

    Raises:
        InputError: fewer views, `most` below 1, or views that no object can be fitted to (lifting/inspection.py).
        FitError: views that share no volume, or whose fit diverged or is empty.
    """
    n = len(views)
    if n < LEAST_LEFT:
        raise InputError(f"`views` must be at least {LEAST_LEFT} for one to be left out; got {n}.")
    if most < 1:
        raise InputError(f"`most` must be at least 1; got {most}.")
    order = views.cameras.azimuth_deg.argsort(stable=True)
    chosen = order[torch.linspace(0, n, min(most, n) + 1)[:-1].long()].tolist()
    found: dict[int, tuple[float, float]] = {}
    for view in chosen:
        others = torch.tensor([other for other in range(n) if other != view])
        made = _fitted(views, others, f"without view {view}", settings, seed, progress)
        drawn = _drawn(made, views.cameras[[view]], views.rgb.shape[-1])
        found[view] = _beside(drawn, _seen(views, view))
    worst = min(found, key=lambda view: found[view][0])
    return LeftOut(
        psnr_db=mean(psnr for psnr, _ in found.values()),
        outline_iou=mean(iou for _, iou in found.values()),
        worst_psnr_db=found[worst][0],
        worst_view=worst,
        n=len(found),
    )


def _beside(drawn: Rendering, seen: Rendering) -> tuple[float, float]:
    """Return PSNR on one ground, and IoU of the outlines: 0 where a view shows its object somewhere else altogether."""
    one, other = drawn.alpha > 0.5, seen.alpha > 0.5
    both, either = int((one & other).sum()), int((one | other).sum())
    return psnr_db(drawn.over(GROUND), seen.over(GROUND)), both / max(either, 1)


def _seen(views: Views, view: int) -> Rendering:
    """Return a view as if it had been drawn: its object, on whatever ground it stood."""
    rgb = views.over()[[view]]
    if views.alpha is not None:
        alpha, behind = views.alpha[[view]], GROUND
    else:
        alpha, behind = find_coverage(rgb), ground_color(rgb, width=1)[:, :, None, None]
    unknown = torch.zeros_like(alpha)
    object_alone = (rgb - behind * (1 - alpha)).clamp_min(0)
    return Rendering(rgb=object_alone, alpha=alpha, depth=unknown, normal=unknown.expand_as(rgb))


def _fitted(
    views: Views,
    chosen: Tensor,
    name: str,
    settings: FitSettings | None,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> Fitted:
    """Return the object that is fitted to some of the views."""
    part = Views(
        rgb=views.rgb[chosen],
        cameras=views.cameras[chosen],
        alpha=None if views.alpha is None else views.alpha[chosen],
    )
    told = None if progress is None else lambda stage, step, total: progress(name, step, total)
    return fit(inspect(part), settings=settings, generator=torch.Generator().manual_seed(seed), progress=told)


@torch.no_grad()
def _drawn(made: Fitted, cameras: Cameras, size: int) -> Rendering:
    return made.representation.render(cameras, size=size, quality=2.0)
