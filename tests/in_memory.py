"""Latents of all samples in memory, drawn one after the other: what draws from disk are held to, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.batches import Batch
from viewfold.data.shards import Sample


class InMemory:
    """The samples of shards with means, as they were drawn before they were read from disk."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.latents = [sample.latents().half() for sample in samples]
        self.captions = [[str(caption) for caption in sample.meta["captions"]] for sample in samples]
        self.cameras = [sample.cameras for sample in samples]
        self.orbits = [sample.orbits for sample in samples]

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, n: int, generator: torch.Generator, *, views: int | None = None) -> Batch:
        """Draw `n` samples with replacement; of each, `views` evenly spaced views of one orbit (None: one picture)."""
        latents: list[Tensor] = []
        captions, cameras = [], []
        for index in torch.randint(len(self), (n,), generator=generator).tolist():
            wordings = self.captions[index]
            captions.append(wordings[int(torch.randint(len(wordings), (), generator=generator))])
            chosen = self._choose_views(index, views, generator)
            latents.append(self.latents[index][chosen].float())
            if views is not None:
                own = self.cameras[index]
                assert own is not None
                cameras.append(own[chosen])
        return Batch(
            latents=torch.stack(latents), captions=captions, cameras=Cameras.cat(cameras) if views is not None else None
        )

    def _choose_views(self, index: int, views: int | None, generator: torch.Generator) -> list[int]:
        n_views, orbits = len(self.latents[index]), self.orbits[index]
        if views is None:
            return [int(torch.randint(n_views, (), generator=generator))]
        stride = n_views // orbits // views
        orbit = int(torch.randint(orbits, (), generator=generator))
        start = int(torch.randint(stride, (), generator=generator))
        return [orbit * (n_views // orbits) + start + stride * k for k in range(views)]
