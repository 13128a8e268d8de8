"""What distillation asks of a generative model.  `MultiViewPipeline` satisfies it; tests use a fake.

Sits between FLOW 2 and whatever network there is, so that `lifting` imports neither the pipeline nor diffusers.  What a
network is told of a prompt is its own business: `lifting` gets it from `condition` and gives it back, unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from viewfold.camera import Cameras


@runtime_checkable
class Prior(Protocol):
    """A frozen multi-view diffusion model over latents, seen through the calls that distillation makes."""

    @property
    def device(self) -> torch.device:
        """Where the model computes, and so where whoever starts a flow puts all that goes in."""
        ...

    @property
    def image_size(self) -> int:
        """Edge, in pixels, of the square pictures that `encode` expects."""
        ...

    @property
    def alphas_cumprod(self) -> Float[Tensor, "steps"]:
        """The noise schedule: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, falling from about 1 to about 0."""
        ...

    def condition(self, prompts: Sequence[str]) -> Any:
        """Return the conditioning of these prompts, a row per object of a call; "" is the unconditional text."""
        ...

    def encode(
        self, images: Float[Tensor, "b 3 h w"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c i j"]:
        """Return normalised latents of sRGB pictures in [0, 1]; gradients flow back to the pictures.

        The posterior's mean, or with a generator a sample of it; one is passed if `DistilSettings.sample_posterior`
        asks for that, and not otherwise.
        """
        ...

    def predict_noise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Any,
        cameras: Cameras | None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return the noise in x_t, whatever the network itself predicts (a v-prediction is converted inside).

        Args:
            x: noisy latents of `b` objects.
            t: noise level per object.
            condition: what `condition` returned for `b` prompts.
            cameras: `v` that all objects share, or `b * v`, those of an object one after the other; None: no cameras.
        """
        ...


@runtime_checkable
class Learner(Protocol):
    """A copy of a prior's network with layers that are trained, on what renders look like (VSD)."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what is trained; all else is shared with the prior and stays as it is."""
        ...

    def predict_noise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Any,
        cameras: Cameras | None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return the noise in x_t as `Prior.predict_noise` does, differentiably in the parameters."""
        ...


@runtime_checkable
class Learnable(Prior, Protocol):
    """A prior of which a copy can learn; only VSD asks for one."""

    def learner(self, *, rank: int, generator: torch.Generator | None = None) -> Learner:
        """Return a new copy that still predicts what the prior does.

        Args:
            rank: of the layers that are trained.
            generator: of their first values.

        Raises:
            InputError: the network is placed in a way that it cannot learn in.
        """
        ...
