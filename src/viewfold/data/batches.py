"""Mixed batches, drawn from shards: objects seen from several cameras, and single pictures with no camera.

A batch depends on the generator that it is drawn with and nothing else, so that a resumed run draws what it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.catalog import Catalog, open_catalog
from viewfold.data.loading import Choice, Reader, stride_of
from viewfold.data.mixture import Source
from viewfold.data.shard_index import Kind
from viewfold.errors import InputError

Posterior = Literal["sample", "mean"]
"""What is taken of moments: a sample, new in each draw, or the mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One half of a step: `v` views of each of `b` objects, or `v` = 1 and no cameras for pictures."""

    latents: Float[Tensor, "b v c h w"]
    captions: list[str]
    cameras: Cameras | None
    """`b * v`, those of an object one after the other."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; from pinned memory while the host goes on."""
        cameras = None if self.cameras is None else self.cameras.to(device)
        return replace(self, latents=self.latents.to(device, non_blocking=self.latents.is_pinned()), cameras=cameras)

    def pin_memory(self) -> Batch:
        """Return the batch with its latents in memory that CUDA copies from by itself."""
        return replace(self, latents=self.latents.pin_memory())


class LatentSet:
    """Cached latents of many samples in one or several folders of shards, read as they are drawn."""

    def __init__(
        self,
        folders: str | Path | Source | Sequence[str | Path | Source],
        *,
        shape: tuple[int, int, int] | None = None,
        views: int | None = None,
        posterior: Posterior | None = None,
        grounds: Sequence[float] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Look through the shards, and refuse what a step could not use before there is one.

        Args:
            folders: of shards with cached latents; each sample of a batch is drawn from one of them by its weight.
            shape: (channels, height, width) that the network takes; None takes that of the first sample.
            views: so many evenly spaced views will be drawn of each sample; None for single pictures.
            posterior: None takes samples if all shards hold moments, else means.
            grounds: greys that moments are drawn over; none takes all that are cached.
            progress: called with (shards looked through, all shards), once more for each folder.

        Raises:
            InputError: no shards, or shards that hold no moments where they are asked for.
            AssetError: see `open_catalog`.
        """
        several = [folders] if isinstance(folders, str | Path | Source) else list(folders)
        if not several:
            raise InputError("`folders` must name at least one folder of shards.")
        sources = [Source.of(given) for given in several]
        self.catalogs: list[Catalog] = []
        for source in sources:
            found = open_catalog(source.folder, shape=shape, views=views, progress=progress)
            shape = shape or found.kinds[int(found.rows["kind"][0])].shape
            self.catalogs.append(found)
        total = sum(source.weight for source in sources)
        self.shares = [source.weight / total for source in sources]
        self._bounds = torch.tensor(self.shares, dtype=torch.float64).cumsum(0)[:-1]
        kinds = [catalog.kinds[number] for catalog in self.catalogs for number in np.unique(catalog.rows["kind"])]
        self.moments = all(kind.moments for kind in kinds)
        """Whether all samples hold mean and log variance."""
        if not self.moments and (posterior == "sample" or grounds):
            option = "posterior" if posterior == "sample" else "grounds"
            raise InputError(
                f"`{option}` must be left out where shards hold means alone; some of "
                f"{', '.join(f'`{c.folder}`' for c in self.catalogs)} do. Pack them with --latents and --grounds."
            )
        self.posterior: Posterior = posterior or ("sample" if self.moments else "mean")
        self._grounds = {kind: _allowed(kind, grounds) for kind in kinds}
        self.reader = Reader(self.catalogs, self._grounds, means=self.posterior == "mean")

    def __len__(self) -> int:
        return sum(len(catalog) for catalog in self.catalogs)

    @property
    def encoders(self) -> list[str]:
        """Which autoencoders the latents are of, as given to `cache_latents`; "unknown" where none is noted."""
        return sorted({encoder for catalog in self.catalogs for encoder in catalog.fingerprint["encoders"]})

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides which batches are drawn: samples, encoders, shares, and what is taken of moments."""
        prints = [dict(catalog.fingerprint) for catalog in self.catalogs]
        if len(prints) == 1:
            whole = prints[0]
        else:
            shares = zip(prints, self.shares, strict=True)
            whole = {str(n + 1): {**one, "share": round(share, 9)} for n, (one, share) in enumerate(shares)}
        drawn = {kind.grounds[i] for kind, some in self._grounds.items() if kind.moments for i in some}
        if not any(kind.moments for kind in self._grounds):
            return whole
        greys = sorted(ground for ground in drawn if ground is not None)
        return {**whole, "posterior": self.posterior, "grounds": greys}

    def account(self) -> dict[str, Any]:
        """Return what a report says of the data, with the samples that could not be read."""
        return {
            "folders": [
                {"folder": c.folder, "share": round(share, 9), "samples": len(c), "without_latents": len(c.bare)}
                for c, share in zip(self.catalogs, self.shares, strict=True)
            ],
            "latents": "moments" if self.moments else "means",
            "posterior": self.posterior,
            "replaced": self.reader.replaced,
            "unread": dict(self.reader.unread),
        }

    def draw(self, n: int, generator: torch.Generator, *, views: int | None = None) -> Batch:
        """Draw `n` samples with replacement; of each, `views` evenly spaced views of one orbit (None: one picture).

        A sample that cannot be read any more is noted, and another one stands for it, always the same one.  Several
        threads may draw at once.

        Source: MVDream 3.2, four mutually orthogonal views of each render of an object.

        Raises:
            InputError: views that do not divide an orbit.
            AssetError: neither a sample nor any that may stand for it can be read.
        """
        choices = self._choose(n, generator, views)
        found = self.reader.read(choices, views)
        values = torch.from_numpy(np.stack([values for _, values, _ in found])).float()
        if self.posterior == "sample":
            mean, logvar = values.unbind(dim=2)
            values = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        cameras = None
        if views is not None:
            poses = torch.from_numpy(np.concatenate([poses for *_, poses in found]))
            cameras = Cameras(world_from_camera=poses[:, :16].reshape(-1, 4, 4), fov_deg=poses[:, 16].contiguous())
        return Batch(latents=values, captions=[caption for caption, *_ in found], cameras=cameras)

    def _choose(self, n: int, generator: torch.Generator, views: int | None) -> list[Choice]:
        """Draw everything that may be drawn, from the tables alone."""

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        if len(self.catalogs) == 1:
            from_which = [0] * n
            places = torch.randint(len(self), (n,), generator=generator).tolist()
        else:
            marks = torch.rand(n, dtype=torch.float64, generator=generator)
            from_which = torch.bucketize(marks, self._bounds, right=True).tolist()
            places = [below(len(self.catalogs[number])) for number in from_which]
        choices = []
        for number, place in zip(from_which, places, strict=True):
            catalog = self.catalogs[number]
            row = catalog.row(place)
            wording, orbit = below(row.captions), 0
            if views is None:
                start = below(row.views)
            else:
                stride = stride_of(row, views)
                orbit, start = below(row.orbits), below(stride)
            n_grounds = len(self._grounds[catalog.kinds[row.kind]])
            choices.append(Choice(number, place, row, wording, orbit, start, below(n_grounds) if n_grounds > 1 else 0))
        return choices


def _allowed(kind: Kind, grounds: Sequence[float]) -> list[int]:
    """Return which members of a kind may be drawn."""
    places = [place for place, ground in enumerate(kind.grounds) if ground is None or not grounds or ground in grounds]
    held = {ground for ground in kind.grounds if ground is not None}
    if kind.moments and held and not set(grounds) <= held:
        raise InputError(
            f"`grounds` must be some that are cached, {', '.join(map(str, sorted(held)))}; got "
            f"{', '.join(map(str, grounds))}. Run `viewfold pack` with --latents and those --grounds."
        )
    return places
