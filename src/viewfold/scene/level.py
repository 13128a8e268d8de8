"""From a signed distance at the nodes of a grid to a closed triangle mesh: the level zero, and no threshold.

Cleaned and closed as the surface of a density is (scene/surface.py).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError
from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.rendering import Rendering
from viewfold.scene.surface import SurfaceResult, check_extraction, close_surface, march_cubes


def extract_zero_level(
    distance: Float[Tensor, "z y x"],
    *,
    renders: Rendering,
    cameras: Cameras,
    max_faces: int = 20_000,
    smooth_steps: int = 0,
    min_component: float = 0.02,
) -> SurfaceResult:
    """Extract the surface where a signed distance is zero, by marching cubes, cleaned and closed like any other.

    Between two nodes the distance is linear, so that no threshold moves the surface and nothing need be smoothed.

    Args:
        distance: negative inside, at the nodes of a grid over the box of radius 0.6.
        renders: what the mesh is compared with, as seen by `cameras`.
        max_faces, smooth_steps, min_component: see `extract_surface`.

    Returns:
        The surface; its `threshold` is 0.

    Raises:
        InputError: a number out of range.
        FitError: there is nothing inside, or a distance is not finite.
    """
    check_extraction(distance.shape[0], max_faces)
    if not bool(torch.isfinite(distance).all()):
        raise FitError("`distance` must be finite; it holds NaN or infinity. Fit again with a lower learning rate.")
    if not float(distance.min()) < 0:
        raise FitError(
            f"`distance` must be negative somewhere; its least is {float(distance.min()):.3f}, so nothing is inside. "
            "Fit longer, or from another seed or prompt."
        )
    return close_surface(
        *march_cubes(-distance, 0.0, outside=-2 * BOX_RADIUS / (distance.shape[0] - 1)),
        threshold=0.0,
        cameras=cameras,
        covered=renders.alpha[:, 0].detach() > 0.5,
        max_faces=max_faces,
        smooth_steps=smooth_steps,
        min_component=min_component,
    )
