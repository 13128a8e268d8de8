"""Do two halves of some views make one and the same object?  Fits one to each, and compares the two.

    views  -> every second one around the object -> two fits -> both drawn from all cameras, and their surfaces

Agreement in pixels (evaluation/consistency.py) asks whether some object could look like the views; this asks whether
half of them say what the other half does.  Source: MVGBench's self-consistency (arXiv 2507.00006), which fits gaussians
where this fits the grid of `lift`.  A mistake that both halves share it cannot see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from viewfold.errors import InputError
from viewfold.evaluation.likeness import compare_pictures, compare_surfaces
from viewfold.lifting.fit import FitSettings, Fitted, fit
from viewfold.lifting.inspection import inspect
from viewfold.scene.rendering import Rendering
from viewfold.views import GROUND, Views

LEAST = 8
"""Views; fewer than four to a half leave most of the surface open."""

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
    made = []
    for name, chosen in (("first half", order[::2]), ("second half", order[1::2])):
        half = Views(
            rgb=views.rgb[chosen],
            cameras=views.cameras[chosen],
            alpha=None if views.alpha is None else views.alpha[chosen],
        )
        told = None if progress is None else _renamed(progress, name)
        generator = torch.Generator().manual_seed(seed)
        made.append(fit(inspect(half), settings=settings, generator=generator, progress=told))
    first, second = (_drawn(one, views) for one in made)
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


def _renamed(progress: Callable[[str, int, int], None], name: str) -> Callable[[str, int, int], None]:
    return lambda stage, step, total: progress(name, step, total)


@torch.no_grad()
def _drawn(made: Fitted, views: Views) -> Rendering:
    return made.representation.render(views.cameras, size=views.rgb.shape[-1], quality=2.0)
