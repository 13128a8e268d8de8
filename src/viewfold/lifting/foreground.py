"""Segment the object from its plain ground: the ground's colour, and the coverage and certainty of each pixel.

The model draws its objects on a plain ground, so the ground's colour is read off the border of each picture and
coverage off the distance to it.  Knows pictures, and neither cameras nor shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from viewfold.errors import FitError
from viewfold.ground import border_pixels, distance_to, ground_color
from viewfold.views import GROUND, Views

BORDER = 32
"""The border is this share of the edge wide, so that it is a sample of the noise as well."""

MIN_DISTANCE = 0.09
"""Colours nearer to the ground than this (Euclidean, sRGB) count as ground; a small VAE's noise is about 0.03."""

NOISE_FACTOR = 5.0
"""The threshold rises to this many times the median distance within the border, for noisy pictures."""

MAX_BORDER_DISTANCE = 0.2
"""A border that is this far from its own median by half is no plain ground."""

MIN_SHARE = 0.002
"""Patches smaller than this share of the picture are specks."""

MAX_SHARE = 0.98
"""A picture that the object covers to a larger share shows no ground."""

MIN_ALPHA = 1 / 16
"""Colours are not told from pixels that show less of the object than this: noise would be scaled up with them."""

ENCLOSED_CERTAINTY = 0.2
"""Weight of ground-coloured pixels inside the outline: a handle's hole, or a grey part on a grey ground."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreground:
    """Coverage of the object in each view."""

    background: Float[Tensor, "v 3"]
    """The colour of the ground that `Views.over` shows the object on, one per view."""

    alpha: Float[Tensor, "v 1 h w"]
    """Coverage in [0, 1]; fractions at the outline."""

    certainty: Float[Tensor, "v 1 h w"]
    """1 where coverage is known, less where an enclosed pixel has the ground's colour."""


def find_foreground(views: Views) -> Foreground:
    """Return the ground and the coverage of each view; known alpha is believed, and its ground is `GROUND`.

    Object are pixels whose colour differs from the ground's by more than a threshold that rises with the noise:
    |rgb - ground| > clamp(5 median over the border |rgb - ground|, 0.09, 0.5), sRGB.

    Raises:
        FitError: a view shows no object, or nothing but the object.
    """
    if views.alpha is not None:
        alpha, background = views.alpha.float(), views.rgb.new_full((len(views), 3), GROUND)
        return Foreground(background=background, alpha=alpha, certainty=torch.ones_like(alpha))
    width = max(1, views.rgb.shape[-1] // BORDER)
    background = ground_color(views.rgb, width=width)
    distance = distance_to(background, views.rgb)
    noise = border_pixels(distance, width=width).median(dim=-1).values.flatten()
    threshold = (NOISE_FACTOR * noise).clamp(MIN_DISTANCE, 0.5)[:, None, None, None]
    inside, enclosed = _clean((distance > threshold)[:, 0])
    share = inside.float().mean(dim=(1, 2))
    wrong = ((share < MIN_SHARE) | (share > MAX_SHARE) | (noise > MAX_BORDER_DISTANCE)).nonzero()[:, 0].tolist()
    if wrong:
        found = (f"it covers {share[i]:.1%} of view {i}, whose border varies by {noise[i]:.2f}" for i in wrong[:8])
        raise FitError(
            f"`views` must show an object on a plain ground; {'; '.join(found)}. Try another seed or more guidance, or "
            "cut the object out of its photographs (alpha)."
        )
    alpha = _soften(distance, inside[:, None], threshold)
    certainty = torch.where(enclosed[:, None], ENCLOSED_CERTAINTY, 1.0)
    return Foreground(background=background, alpha=alpha, certainty=certainty)


def cut_out(views: Views) -> Views:
    """Return views of the object alone: with `alpha`, and colours straight as files hold them, for who wants no ground.

    What is seen is a mixture, so at the outline the object's own colour is what is left of it without the ground:

        rgb = (seen - (1 - alpha) ground) / alpha

    Views that have alpha are returned as they are.

    Raises:
        FitError: as `find_foreground`.
    """
    if views.alpha is not None:
        return views
    found = find_foreground(views)
    ground = found.background[:, :, None, None]
    straight = ground + (views.rgb - ground) / found.alpha.clamp_min(MIN_ALPHA)
    return replace(views, rgb=torch.where(found.alpha > 0, straight.clamp(0, 1), views.rgb), alpha=found.alpha)


def _clean(mask: Bool[Tensor, "v h w"]) -> tuple[Bool[Tensor, "v h w"], Bool[Tensor, "v h w"]]:
    """Drop specks; return what is left, and the pixels that it encloses."""
    from scipy import ndimage

    kept, enclosed = [], []
    for picture in mask.cpu().numpy():
        labels, _ = ndimage.label(picture, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        picture = (sizes >= MIN_SHARE * picture.size)[labels]
        kept.append(picture)
        enclosed.append(ndimage.binary_fill_holes(picture) & ~picture)
    return tuple(torch.from_numpy(np.stack(each)).to(mask.device) for each in (kept, enclosed))  # type: ignore[return-value]


def _soften(
    distance: Float[Tensor, "v 1 h w"], inside: Bool[Tensor, "v 1 h w"], threshold: Float[Tensor, "v 1 1 1"]
) -> Float[Tensor, "v 1 h w"]:
    """Return 1 well inside and, at the outline, how far a pixel's colour is on the way from ground to object."""
    core = 1 - max_pool2d((~inside).float(), 3, stride=1, padding=1)
    near = max_pool2d(inside.float(), 3, stride=1, padding=1)
    full = max_pool2d(distance * inside, 5, stride=1, padding=2)
    fraction = (distance / torch.maximum(full, 2 * threshold)).clamp(0, 1)
    return torch.where(core > 0, torch.ones_like(fraction), fraction * near)
