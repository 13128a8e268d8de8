"""Mixed batches: objects seen from several cameras, and single pictures with no camera.

A batch depends on the generator that it is drawn with and nothing else, so that a resumed run draws what it would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.shards import Sample, latent_encoders
from viewfold.errors import AssetError, InputError

SHOWN = 3
"""How many unusable samples a message names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One half of a step: `v` views of each of `b` objects, or `v` = 1 and no cameras for pictures."""

    latents: Float[Tensor, "b v c h w"]
    captions: list[str]
    cameras: Cameras | None
    """`b * v`, those of an object one after the other."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        cameras = None if self.cameras is None else self.cameras.to(device)
        return replace(self, latents=self.latents.to(device), cameras=cameras)


class LatentSet:
    """Cached latents of many samples, held in memory as float16 (1 KiB a view at 64 px)."""

    def __init__(
        self, samples: Sequence[Sample], *, shape: tuple[int, int, int] | None = None, views: int | None = None
    ) -> None:
        """Read the latents of all samples, and refuse what a step could not use before there is one.

        Args:
            samples: of shards with cached latents.
            shape: (channels, height, width) that the network takes; None takes that of the first sample.
            views: so many evenly spaced views will be drawn of each sample; None for single pictures.

        Raises:
            InputError: no samples.
            AssetError: samples whose latents are missing, damaged, of another shape or not finite, that have no
                captions, or whose cameras do not fit their latents; the first few are named.
        """
        if not samples:
            raise InputError("`samples` must not be empty.")
        self.latents: list[Float[Tensor, "v c h w"]] = []
        self.captions: list[list[str]] = []
        self.cameras: list[Cameras | None] = []
        self.orbits: list[int] = []
        wrong: list[str] = []
        for sample in samples:
            try:
                latents = sample.latents().half()
                shape = shape or tuple(latents.shape[1:])  # type: ignore[assignment]
                self._check(sample, latents, shape, views)
            except AssetError as error:
                wrong.append(str(error).rstrip("."))
                continue
            self.latents.append(latents)
            self.captions.append([str(caption) for caption in sample.meta["captions"]])
            self.cameras.append(sample.cameras)
            self.orbits.append(sample.orbits)
        if wrong:
            shown = "; ".join(wrong[:SHOWN])
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise AssetError(f"{len(wrong)} of {len(samples)} samples cannot be trained on: {shown}{more}.")
        uids = hashlib.sha256("\n".join(sample.uid for sample in samples).encode()).hexdigest()
        encoders = sorted({encoder or "unknown" for encoder in latent_encoders(samples)})
        self.encoders: list[str] = encoders
        """Which autoencoders the latents are of, as given to `cache_latents`; "unknown" where none is noted."""
        self.fingerprint = {"samples": len(samples), "uids": uids, "encoders": encoders}

    @staticmethod
    def _check(
        sample: Sample, latents: Float[Tensor, "v c h w"], shape: tuple[int, ...] | None, views: int | None
    ) -> None:
        if tuple(latents.shape[1:]) != shape or not len(latents):
            raise AssetError(
                f"`{sample.uid}` must have latents of the shape {shape}, as the network has them; got "
                f"{tuple(latents.shape[1:])}. Pack them again with this model's autoencoder"
            )
        if not bool(latents.isfinite().all()):
            raise AssetError(f"`{sample.uid}` must have finite latents; they hold NaN or infinity. Pack them again")
        if views is None:
            return
        if sample.cameras is None or len(sample.cameras) != len(latents):
            n_cameras = 0 if sample.cameras is None else len(sample.cameras)
            raise AssetError(f"`{sample.uid}` must have a camera for each of its {len(latents)} views; got {n_cameras}")
        per_orbit, rest = divmod(len(latents), sample.orbits)
        if rest or per_orbit % views:
            raise AssetError(
                f"`{sample.uid}` must have circles of views that {views} `views` divide evenly; got {len(latents)} "
                f"views on {sample.orbits} circles"
            )

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
        per_orbit = n_views // orbits
        if per_orbit % views:
            raise InputError(f"`views` must divide the {per_orbit} views of an orbit; got {views}.")
        stride = per_orbit // views
        orbit = int(torch.randint(orbits, (), generator=generator))
        start = int(torch.randint(stride, (), generator=generator))
        return [orbit * per_orbit + start + stride * k for k in range(views)]
