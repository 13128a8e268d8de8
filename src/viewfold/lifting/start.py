"""How a lift begins: from views that a representation is fitted to, or from a blob, with no views at all.

From a blob there is nothing to observe and nothing to fit: the prior alone decides.  What later stages ask of views is
then answered by pictures of the representation itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.fit import Fitted
from viewfold.lifting.foreground import find_foreground
from viewfold.lifting.observation import Observed
from viewfold.scene.blob import Blob
from viewfold.scene.representation import Representation, RepresentationSettings
from viewfold.views import Views

SELF_VIEWS, SELF_ELEVATION_DEG, SELF_SIZE = 4, 15.0, 64
"""Pictures that a representation takes of itself, their elevation and size: as many as the paper's views."""


@dataclass(frozen=True, kw_only=True)
class FromViews:
    """Observe the views, and fit a representation to them."""

    kind: Literal["views"] = field(default="views", init=False)
    """Names the start in records."""


@dataclass(frozen=True, kw_only=True)
class FromBlob:
    """Begin with a grey ball, and leave everything to the distillation (MVDream, DreamFusion)."""

    radius: float = 0.25
    """Of the ball, in world units; see `scene.blob.Blob`."""

    fov_deg: float = 40.0
    """Field of view of the pictures that stand for views, from where they frame the object."""

    kind: Literal["blob"] = field(default="blob", init=False)
    """Names the start in records."""

    def __post_init__(self) -> None:
        Blob(radius=self.radius)
        if not 0 < self.fov_deg < 180:
            raise InputError(f"`fov_deg` must lie between 0 and 180; got {self.fov_deg}.")


Start = FromViews | FromBlob


def begin_blob(start: FromBlob, *, representation: RepresentationSettings, device: torch.device | str) -> Fitted:
    """Return a representation of a grey ball, fitted to nothing: its `pictures` and `loss` are None."""
    made = representation.begin(Blob(radius=start.radius), device=device)
    made.refresh()
    return Fitted(representation=made, observed=observe_itself(made, fov_deg=start.fov_deg), pictures=None, loss=None)


@torch.no_grad()
def observe_itself(representation: Representation, *, fov_deg: float) -> Observed:
    """Return pictures that a representation takes of itself from four sides, with the alpha that it knows."""
    cameras = Cameras.orbit(SELF_VIEWS, elevation_deg=SELF_ELEVATION_DEG, fov_deg=fov_deg).to(representation.device)
    seen = representation.render(cameras, size=SELF_SIZE, quality=2.0)
    straight = (seen.rgb / seen.alpha.clamp_min(1e-4)).clamp(0, 1)
    views = Views(rgb=straight, alpha=seen.alpha.clamp(0, 1), cameras=cameras)
    return Observed(views=views, foreground=find_foreground(views))
