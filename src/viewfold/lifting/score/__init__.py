"""Score distillation: losses that pull rendered views towards what a frozen diffusion prior expects of them.

    score           gradient on the latents x of the renders, per view                          file
    Reconstruction  x - x0, the clean latents that the prior sees in noisy ones (MVDream)       reconstruction.py
    SDS             w (guided noise - noise)                                                    sds.py
    SDI             x - x0, the noise found by DDIM inversion of x instead of drawn             sdi.py
    ISM             w (guided noise - noise without text, an interval before, on x's path)      ism.py
    ASD             w (guided noise - noise with the text, at a later level)                    asd.py
    VSD             w (guided noise - noise of a copy of the prior that learns the renders)     variational.py

All take latents of the renders (with their gradient) and return a scalar to differentiate.  The prior itself is never
differentiated.  `begin` makes the loss of a run of the settings; distillation calls it at every step.  Knows no field
and no renderer.  docs/lift.md compares the six.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.prior import Learnable, Prior
from viewfold.lifting.score.asd import ASD, asd_loss
from viewfold.lifting.score.ism import ISM, ism_loss
from viewfold.lifting.score.reconstruction import Reconstruction, reconstruction_loss
from viewfold.lifting.score.sdi import SDI, sdi_loss
from viewfold.lifting.score.sds import SDS, sds_loss
from viewfold.lifting.score.variational import VSD, Variational

Score = Reconstruction | SDS | SDI | ISM | ASD | VSD

SCORES: tuple[Score, ...] = (Reconstruction(), SDS(), SDI(), ISM(), ASD(), VSD())
"""Each with its defaults; `kind` is its name on the command line."""


@dataclass(frozen=True, eq=False)
class StepLoss:
    """(latents of the renders "b v c h w", cameras=, t=) -> the loss of a step; all as in `reconstruction_loss`."""

    loss: Callable[..., Tensor]

    memory: Variational | None = None
    """What it remembers between steps, if anything."""

    def __call__(self, latents: Float[Tensor, "b v c h w"], **where: Any) -> Float[Tensor, ""]:
        """Return the loss of a step."""
        return self.loss(latents, **where)

    def state(self) -> dict[str, Any]:
        """Return what it remembers, for a file."""
        return {} if self.memory is None else self.memory.state()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same score."""
        if self.memory is not None:
            self.memory.resume(state)


def begin(
    score: Score | str,
    *,
    prior: Prior,
    prompts: Sequence[str],
    negatives: Sequence[str],
    guidance: float,
    generator: torch.Generator | None = None,
) -> StepLoss:
    """Tell the prior what to see, and return the loss of one run, which may remember things between its steps.

    Args:
        score: which loss.
        prior: the frozen model.
        prompts: of the `b` objects.
        negatives: what each is to keep away from; "" is nothing.
        guidance: classifier-free guidance scale.
        generator: of all that is drawn.

    Raises:
        InputError: a score that there is not, or that this prior cannot give.
    """
    check_score(score, prior)
    told: dict[str, Any] = {"prior": prior, "guidance": guidance}
    both = prior.condition([*prompts, *negatives])
    match score:
        case Reconstruction(rescale=rescale):
            return _with_noise(partial(reconstruction_loss, **told, condition=both, rescale=rescale), generator)
        case SDS():
            return _with_noise(partial(sds_loss, **told, condition=both), generator)
        case SDI():
            return StepLoss(partial(sdi_loss, **told, condition=both, settings=score, generator=generator))
        case ISM():
            negative = prior.condition(list(negatives))
            return _with_noise(partial(ism_loss, **told, condition=both, negative=negative, settings=score), generator)
        case ASD():
            three = prior.condition([*prompts, *negatives, *prompts])
            return _with_noise(partial(asd_loss, **told, condition=three, settings=score), generator)
        case VSD():
            run = Variational(score, **told, prompts=prompts, negatives=negatives, generator=generator)
            return _with_noise(run.loss, generator, memory=run)
    raise AssertionError("unreachable")


def _with_noise(
    loss: Callable[..., Tensor], generator: torch.Generator | None, *, memory: Variational | None = None
) -> StepLoss:
    """Draw the noise of each step for a loss that takes it."""

    def step(latents: Float[Tensor, "b v c h w"], **where: Any) -> Float[Tensor, ""]:
        return loss(latents, noise=torch.randn(latents.shape, generator=generator).to(latents), **where)

    return StepLoss(step, memory)


def check_score(score: Score | str, prior: Prior | None = None) -> None:
    """Refuse a score that there is not, or that a prior cannot give, by name.

    Raises:
        InputError: with what to do.
    """
    if not isinstance(score, Score):
        names = ", ".join(f"{type(each).__name__}()" for each in SCORES)
        raise InputError(f"`score` must be one of {names}; got {score!r}. They are in lifting/score.")
    if isinstance(score, VSD) and prior is not None and not isinstance(prior, Learnable):
        raise InputError(
            f"`score` must be one that needs no training for {type(prior).__name__}, which has no `learner`; got VSD. "
            "Take another score, ASD() say, or give the prior one (lifting/prior.py)."
        )
