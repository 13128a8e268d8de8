"""Train the multi-view network of a model folder on shards: the middle of flow 3.

The folder gives the frozen parts (VAE, text encoder, tokenizer, scheduler) and, if it has one, the network to go on
from; the result is the same folder with the averaged weights of the new network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from viewfold.data.batches import Batch, LatentSet
from viewfold.data.shards import open_shards
from viewfold.errors import InputError
from viewfold.train.loop import LoopSettings, Ranks, fit
from viewfold.train.objective import ObjectiveSettings, diffusion_loss, drop, n_pictures

if TYPE_CHECKING:
    from viewfold.model.text import TextEncoder
    from viewfold.model.unet import MultiViewUNet


CAPTIONS_KEPT = 40_000
"""Text embeddings held in memory, in half precision (25 kB each for the shipped encoder)."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """A training run of the multi-view network."""

    batch: int = 24
    """Objects a step and process; pictures come on top, `objective.share_2d` of all samples."""
    views: int = 4
    """Views of each object, evenly spaced on its circle."""
    fold: bool = True
    """Let the views see each other; False trains the per-view baseline of the ablation."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)

    def __post_init__(self) -> None:
        for name in ("batch", "views"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


def train_diffusion(
    unet: MultiViewUNet,
    encoder: TextEncoder,
    alphas_cumprod: Tensor,
    out: str | Path,
    *,
    objects: str | Path,
    pictures: str | Path | None,
    settings: DiffusionSettings,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> MultiViewUNet:
    """Train `unet` in place and return it with its averaged weights.

    Args:
        unet: fresh or pretrained.
        encoder: frozen.
        alphas_cumprod: of the scheduler that will sample.
        out: holds checkpoint.pt and log.jsonl; a run there is continued.
        objects: shards of posed views with cached latents.
        pictures: shards of single pictures with cached latents; None trains on objects alone.

    Raises:
        InputError: no shards, no latents in them, or a share of pictures without pictures.
    """
    objective = settings.objective
    if (pictures is None) != (objective.share_2d == 0):
        raise InputError(
            f"`pictures` must be given exactly when `share_2d` is above 0; got {pictures} and {objective.share_2d}."
        )
    object_set = LatentSet(open_shards(objects))
    picture_set = None if pictures is None else LatentSet(open_shards(pictures))
    n_flat = n_pictures(settings.batch, objective.share_2d)
    unet.train()

    @functools.lru_cache(maxsize=CAPTIONS_KEPT)
    def embed(caption: str) -> Tensor:
        return encoder.encode([caption])[0].half()

    def term(batch: Batch, generator: torch.Generator) -> Tensor:
        dropped = drop(len(batch.captions), objective.drop_text, generator).tolist()
        captions = ["" if gone else caption for caption, gone in zip(batch.captions, dropped, strict=True)]
        text = torch.stack([embed(caption).float() for caption in captions])
        latents, cameras = batch.latents, batch.cameras
        if not settings.fold and cameras is not None:
            text = text.repeat_interleave(latents.shape[1], dim=0)
            latents, cameras = latents.flatten(0, 1)[:, None], cameras.flatten(0, 1)[:, None]
        return diffusion_loss(
            unet, latents, text, cameras, alphas_cumprod=alphas_cumprod, settings=objective, generator=generator
        )

    def loss_of_step(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        loss = posed = term(object_set.draw(settings.batch, generator, views=settings.views), generator)
        if picture_set is None or n_flat == 0:
            return {"loss": loss}
        flat = term(picture_set.draw(n_flat, generator), generator)
        share = n_flat / (n_flat + settings.batch)
        loss = (1 - share) * posed + share * flat
        return {"loss": loss, "posed": posed, "flat": flat}

    ema = fit(unet, loss_of_step, out, settings=settings.loop, progress=progress)
    unet.load_state_dict(ema.weights)
    return unet.eval()


def is_lead() -> bool:
    """Return whether this process writes the result (rank 0)."""
    return Ranks.join().rank == 0
