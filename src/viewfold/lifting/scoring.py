"""Which score a distillation descends: a union of settings, and the loss that each stands for (lifting/score.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.score import reconstruction_loss, sds_loss


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Pull latents to the clean ones that the prior sees in them (x0-reconstruction; MVDream, equation 5)."""

    rescale: float = 0.5
    """0 to 1: how far contrast is brought back to the unguided one's (MVDream-threestudio)."""

    kind: Literal["reconstruction"] = field(default="reconstruction", init=False)
    """Names the score in records."""

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise InputError(f"`rescale` must lie between 0 and 1; got {self.rescale}.")


@dataclass(frozen=True, kw_only=True)
class SDS:
    """Plain score distillation (DreamFusion, equation 3); its contrast is guidance's, there is nothing to rescale."""

    kind: Literal["sds"] = field(default="sds", init=False)
    """Names the score in records."""


Score = Reconstruction | SDS


def score_loss(score: Score | str) -> Callable[..., Tensor]:
    """Return the loss of a score; all take the arguments of `sds_loss`.

    Raises:
        InputError: a score that there is not.
    """
    match score:
        case Reconstruction(rescale=rescale):
            return partial(reconstruction_loss, rescale=rescale)
        case SDS():
            return sds_loss
    raise unknown_score(score)


def unknown_score(score: Any) -> InputError:
    """Return the error that refuses a score by name."""
    return InputError(f"`score` must be Reconstruction(...) or SDS(); got {score!r}. Both are in lifting/scoring.py.")
