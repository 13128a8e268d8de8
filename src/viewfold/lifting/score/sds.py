"""Plain score distillation (SDS), DreamFusion's: the difference of predicted and drawn noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.lifting.prior import Prior
from viewfold.lifting.score.prediction import predict, pull


@dataclass(frozen=True, kw_only=True)
class SDS:
    """Plain score distillation (DreamFusion, equation 3); its contrast is guidance's, there is nothing to rescale."""

    kind: Literal["sds"] = field(default="sds", init=False)
    """Names the score in records."""


def sds_loss(
    latents: Float[Tensor, "b v c h w"],
    *,
    prior: Prior,
    condition: Any,
    cameras: Cameras | None,
    t: Int[Tensor, "b"],
    noise: Float[Tensor, "b v c h w"],
    guidance: float = 50.0,
) -> Float[Tensor, ""]:
    """Return plain score distillation: the gradient is (1 - a_t) (predicted noise - noise) / (b v).

    Arguments as in `reconstruction_loss`.  The value is half the squared gradient per view, as released; only its
    gradient means something.  Source: DreamFusion equation 3 with w(t) = sigma_t^2.
    """
    seen = predict(latents, noise, prior=prior, condition=condition, cameras=cameras, t=t, guidance=guidance)
    return pull(latents, seen.guided - noise, 1 - seen.level)
