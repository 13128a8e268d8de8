"""The protocols of a multi-view network and of its prompt reader: all that pipeline, training and estimates call.

`unet.MultiViewUNet` and `text.TextEncoder` answer; so may any others, another kind of text and of cameras included:
what a `Condition` holds, and whether cameras become 16 numbers or maps of rays, is the network's own business.
A network is a torch module that diffusers can save (`ModelMixin`, `ConfigMixin`); these are the calls beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.model.condition import Condition


@runtime_checkable
class PromptReader(Protocol):
    """Encodes prompts as the `Condition` of one network.

    Two readers that are equal (`==`) give equal conditions as long as the weights stay the same.
    """

    @property
    def network(self) -> Any:
        """The text network: a frozen torch module, whose weights decide what is read.

        Once a model has released it, a stand-in with its `config` alone, which must do for `check`.
        """
        ...

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Return a row for each prompt, which depends on that prompt alone; "" is the unconditional one.

        Raises:
            PromptError: no prompt, or one that is too long to read.
            FitError: the text network's output is not finite.
        """
        ...

    def check(self, prompt: str) -> list[str]:
        """Return what a person should know before using this prompt: words that are cut or not known.

        Raises:
            PromptError: the prompt says nothing.
        """
        ...


@runtime_checkable
class Backbone(Protocol):
    """A network that predicts noise (or v, or the clean latents) of the views of several objects."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Holds `sample_size`, the edge of the square latents, and `in_channels`, their number of channels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights; latents come in it."""
        ...

    def reader(self, tokenizer: Any, text_encoder: Any) -> PromptReader:
        """Return what reads prompts for this network with the text parts of its model."""
        ...

    def add_camera_embedding(self) -> None:
        """Give a network that takes no cameras what it needs for them; nothing happens where it has that."""
        ...

    def example_inputs(self, n_objects: int, cameras: Cameras) -> tuple[Any, ...]:
        """Return arguments of a call of the usual sizes, to count its work; all but the cameras mean nothing."""
        ...

    def __call__(self, latents: Tensor, timesteps: Tensor, condition: Condition, cameras: Cameras | None, /) -> Tensor:
        """Return the prediction "b v c h w" for latents of that shape.

        Args:
            latents: noisy; the views of one object may see each other, objects never do.
            timesteps: 0 to 999, one per object.
            condition: what this network's reader made of a prompt per object.
            cameras: one set of `v` for all objects, or `b * v`, the views of an object one after the other
                (`Cameras.per_object`); None: no cameras, as with plain pictures.
        """
        ...
