"""What distillation asks of a generative model.  `MultiViewPipeline` satisfies it; tests use a fake.

Sits between FLOW 2 and whatever network there is, so that `lift` imports neither the pipeline nor diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


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

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Return the text tokens of each prompt; the empty string is the unconditional text."""
        ...

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """Return normalised latents of sRGB pictures in [0, 1]; gradients flow back to the pictures."""
        ...

    def predict_noise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        text: Float[Tensor, "b n d"] | Float[Tensor, "b v n d"],
        cameras: Float[Tensor, "b v 16"] | None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return the noise in x_t, whatever the network itself predicts (a v-prediction is converted inside)."""
        ...
