"""What the prior says of the pictures of a step: pictures to latents, noise of one level on all, and a score.

Asks a prior (lifting/prior.py) and a score (lifting/score), and knows no representation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.errors import FitError
from viewfold.lifting.prior import Prior
from viewfold.lifting.score import StepLoss, begin
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.studio import Shot


@dataclass(frozen=True, kw_only=True, eq=False)
class Opinion:
    """The score of one step."""

    loss: Float[Tensor, ""]
    """To be descended; its value means little."""

    latents: Float[Tensor, "b v c h w"]
    t: Int[Tensor, "b"]

    def blame(self, shot: Shot) -> None:
        """Say so if a step failed because the prior turned finite pictures into something that is not finite.

        Asked after a step has failed, so that no other step has to wait for the answer.

        Raises:
            FitError: it did.
        """
        advice = "Check the weights, and use float32 if half precision overflows."
        if not bool(shot.pictures.detach().isfinite().all()):
            return
        if not bool(self.latents.detach().isfinite().all()):
            raise FitError(f"`prior` must encode pictures to finite latents; its VAE gave NaN or infinity. {advice}")
        if not bool(self.loss.detach().isfinite()):
            raise FitError(f"`prior` must return finite noise; got NaN or infinity at t = {self.t.tolist()}. {advice}")


class Critic:
    """Asks one prior about one prompt.

    What a score remembers between steps, VSD's copy of the prior, begins anew with a phase of more or fewer objects.
    """

    def __init__(self, prior: Prior, prompt: str, settings: DistilSettings) -> None:
        self.prior, self.prompt, self.settings, self.noise = prior, prompt, settings, settings.noise
        self._scores: dict[int, StepLoss] = {}

    def judge(self, shot: Shot, *, step: int, generator: torch.Generator | None = None) -> Opinion:
        """Return the score of a step's pictures, differentiable in them.

        Args:
            shot: pictures of any size; they are stretched to the prior's, bilinearly.
            step: counted from 0; says which noise levels may be drawn.  All objects of the batch get one.
            generator: of everything random, on the CPU.
        """
        prior, settings, n_objects = self.prior, self.settings, shot.n_objects
        latents = self._encode(shot.pictures, generator).unflatten(0, (n_objects, -1))
        t = self.noise.draw(step, n_objects=n_objects, n_levels=len(prior.alphas_cumprod), generator=generator)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = self._score(n_objects, generator)(latents, cameras=shot.cameras, t=t.to(latents.device))
        if settings.score_mean == "latents":
            loss = loss / latents[0, 0].numel()
        return Opinion(loss=loss, latents=latents, t=t)

    def state(self) -> dict[int, Any]:
        """Return what the scores that have begun remember, by the number of objects, for a file."""
        return {n_objects: score.state() for n_objects, score in self._scores.items()}

    def resume(self, state: dict[int, Any], *, generator: torch.Generator | None = None) -> None:
        """Begin the scores of a state, which draws from the generator, and go on from what they remembered."""
        for n_objects, remembered in state.items():
            self._score(n_objects, generator).resume(remembered)

    def _score(self, n_objects: int, generator: torch.Generator | None) -> StepLoss:
        """Return the loss of steps of so many objects, told of the prompt once."""
        if n_objects not in self._scores:
            self._scores[n_objects] = begin(
                self.settings.score,
                prior=self.prior,
                prompts=[self.prompt] * n_objects,
                negatives=[self.settings.negative] * n_objects,
                guidance=self.settings.guidance,
                generator=generator,
            )
        return self._scores[n_objects]

    def _encode(
        self, pictures: Float[Tensor, "n 3 i j"], generator: torch.Generator | None
    ) -> Float[Tensor, "n c h w"]:
        """Return latents: the posterior's mean, or samples of it."""
        size = self.prior.image_size
        if pictures.shape[-1] != size:
            pictures = interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)
        if not self.settings.sample_posterior:
            return self.prior.encode(pictures)
        return self.prior.encode(pictures, generator=generator or torch.default_generator)
