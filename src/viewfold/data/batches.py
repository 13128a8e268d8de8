"""Mixed batches: objects seen from several cameras, and single pictures with no camera.

Sample j of step s is drawn with its own generator from (seed, s, rank), so batches are the same after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.data.shards import Sample
from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One half of a step: `v` views of each of `b` objects, or `v` = 1 and no cameras for pictures."""

    latents: Float[Tensor, "b v c h w"]
    captions: list[str]
    cameras: Float[Tensor, "b v 16"] | None


class LatentSet:
    """Cached latents of many samples, held in memory as float16 (1 KiB a view at 64 px)."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        if not samples:
            raise InputError("`samples` must not be empty.")
        self.latents = [sample.latents().half() for sample in samples]
        self.captions = [[str(caption) for caption in sample.meta["captions"]] for sample in samples]
        self.cameras = [None if sample.cameras is None else sample.cameras.code() for sample in samples]
        self.orbits = [sample.orbits for sample in samples]

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, n: int, generator: torch.Generator, *, views: int | None = None) -> Batch:
        """Draw `n` samples with replacement; of each, `views` evenly spaced views of one orbit (None: one picture).

        Source: MVDream 3.2, four mutually orthogonal views of each render of an object.
        """
        latents, captions, cameras = [], [], []
        for index in torch.randint(len(self), (n,), generator=generator).tolist():
            wordings = self.captions[index]
            captions.append(wordings[int(torch.randint(len(wordings), (), generator=generator))])
            chosen = self._choose_views(index, views, generator)
            latents.append(self.latents[index][chosen].float())
            if views is not None:
                code = self.cameras[index]
                assert code is not None
                cameras.append(code[chosen])
        return Batch(
            latents=torch.stack(latents), captions=captions, cameras=torch.stack(cameras) if views is not None else None
        )

    def _choose_views(self, index: int, views: int | None, generator: torch.Generator) -> list[int]:
        n_views, orbits = len(self.latents[index]), self.orbits[index]
        if views is None:
            return [int(torch.randint(n_views, (), generator=generator))]
        per_orbit = n_views // orbits
        if per_orbit % views:
            raise InputError(f"`views` must divide the {per_orbit} views of an orbit; got {views}.")
        stride = per_orbit // views
        orbit = int(torch.randint(orbits, (), generator=generator))
        start = int(torch.randint(stride, (), generator=generator))
        return [orbit * per_orbit + start + stride * k for k in range(views)]
