"""A pipeline's network that learns beside the frozen one: what VSD trains on renders.

Beside the pipeline, which makes it; the layers are `model/lowrank.py`'s.  Satisfies `lifting.prior.Learner`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.model.condition import Condition
from viewfold.model.lowrank import LowRank, copy_with_low_rank

if TYPE_CHECKING:
    from viewfold.pipeline.multiview import MultiViewPipeline


class Learner:
    """The network's weights, shared, with low-rank layers on its attention and on what it makes of cameras."""

    def __init__(self, pipeline: MultiViewPipeline, *, rank: int, generator: torch.Generator | None = None) -> None:
        """Copy the network's structure.

        Raises:
            InputError: it is offloaded or kept in 8 bits, or has no attention layers that are known.
        """
        placement = getattr(pipeline, "placement", None)
        moved = any(hasattr(module, "_hf_hook") for module in pipeline.unet.modules())
        if moved or (placement is not None and placement.int8):
            how = "offloaded" if moved else "kept in 8 bits"
            raise InputError(
                f"`unet` must lie whole on its device for a copy of it to learn; it is {how}. Load the model without "
                "that, or take a score that needs no training, ASD() say."
            )
        self.pipeline = pipeline
        self.network = copy_with_low_rank(pipeline.unet, rank=rank, generator=generator)

    def parameters(self) -> list[nn.Parameter]:
        """Return the two factors of every low-rank layer."""
        layers = [module for module in self.network.modules() if isinstance(module, LowRank)]
        return [factor for layer in layers for factor in (layer.down, layer.up)]

    def predict_noise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Condition,
        cameras: Cameras | None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return the noise in x_t as the pipeline does, by this network."""
        return self.pipeline.predict_noise(x, t, condition, cameras, network=self.network)
