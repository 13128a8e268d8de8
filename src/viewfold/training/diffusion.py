"""Train the multi-view network of a model folder on shards: the middle of flow 3.

The folder gives the frozen parts (VAE, text encoder, tokenizer, scheduler) and, if it has one, the network to go on
from; the result is the same folder with the averaged weights of the new network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from viewfold.data.batches import Batch, LatentSet, Posterior
from viewfold.data.mixture import Source
from viewfold.errors import InputError
from viewfold.model.condition import Condition
from viewfold.model.weights_hash import hash_tensors
from viewfold.training.loop import fit
from viewfold.training.monitor import Progress
from viewfold.training.objective import ObjectiveSettings, diffusion_loss, drop, n_pictures
from viewfold.training.ranks import Ranks
from viewfold.training.run import Checked, Trained
from viewfold.training.settings import LoopSettings
from viewfold.training.writers import WriterName

if TYPE_CHECKING:
    from viewfold.model.backbone import Backbone, PromptReader


Folders = str | Path | Source | Sequence[str | Path | Source]
"""A folder or URL of shards, or several, each of which may have a weight."""

CAPTIONS_KEPT = 40_000
"""Conditions held in memory, in half precision (25 kB each for the shipped encoder)."""

HELD_OUT_OBJECTS = 64
"""About so many held-out objects are predicted at each check, the same ones under the same noise."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """A training run of the multi-view network."""

    batch: int = 24
    """Objects a step and process; pictures come on top, `objective.share_2d` of all samples."""
    views: int = 4
    """Views of each object, evenly spaced on its circle."""
    fold: bool = True
    """Let the views see each other; False trains the per-view baseline of the ablation."""
    posterior: Posterior | None = None
    """What is taken of cached moments; None takes samples where all shards hold moments, else means."""
    grounds: tuple[float, ...] = ()
    """Greys, of those that moments are cached over, to draw from; none draws from all."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)

    def __post_init__(self) -> None:
        for name in ("batch", "views"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedBatch:
    """One part of a step: objects and, if the mix has any, pictures."""

    objects: Batch
    pictures: Batch | None

    def to(self, device: torch.device) -> MixedBatch:
        """Return the batch there."""
        return self._each(lambda batch: batch.to(device))

    def pin_memory(self) -> MixedBatch:
        """Return the batch with its latents in memory that CUDA copies from by itself."""
        return self._each(Batch.pin_memory)

    def _each(self, change: Callable[[Batch], Batch]) -> MixedBatch:
        return MixedBatch(
            objects=change(self.objects), pictures=None if self.pictures is None else change(self.pictures)
        )


class TextCache:
    """A cache of the conditions of captions, on the host in half precision."""

    def __init__(self, reader: PromptReader) -> None:
        self._reader = reader
        self._known: dict[str, Condition] = {}

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> Condition:
        """Return a row for each caption, float32 on the host; those that are new are read in one batch."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        if new:
            device = next(self._reader.network.parameters()).device
            with torch.autocast(device.type, enabled=False):  # as sampling reads them
                read = self._reader.encode(new).to("cpu", torch.float16)
            self._known |= dict(zip(new, read, strict=True))
        condition = Condition.cat([self._known[caption].to(dtype=torch.float32) for caption in captions])
        while len(self._known) > CAPTIONS_KEPT:
            del self._known[next(iter(self._known))]
        return condition

    def read_some(self, captions: Sequence[str], *, dropped: float, generator: torch.Generator) -> Condition:
        """Return the same with a share of the captions, drawn by chance, read as the empty text."""
        gone = drop(len(captions), dropped, generator).tolist()
        return self.read(["" if lost else caption for lost, caption in zip(gone, captions, strict=True)])


def train_diffusion(
    unet: Backbone,
    reader: PromptReader,
    alphas_cumprod: Tensor,
    out: str | Path,
    *,
    objects: Folders,
    pictures: Folders | None,
    settings: DiffusionSettings,
    held_out: Folders | None = None,
    sheets: Callable[[], dict[str, Tensor]] | None = None,
    vae: str | None = None,
    override: bool = False,
    log: Iterable[WriterName | str] = (),
    progress: Progress | None = None,
) -> Trained:
    """Train `unet` where it is and return it with its averaged weights, and what the run cost.

    Args:
        unet: the network, fresh or pretrained, float32; all of it is trained.
        reader: of captions, the network's own (`unet.reader`); frozen.
        alphas_cumprod: of the scheduler that will sample.
        out: holds the checkpoints, log.jsonl and run.json; a run there is continued.
        objects: shards of posed views with cached latents; of several, each sample is drawn from one by its weight.
        pictures: shards of single pictures with cached latents; None trains on objects alone.
        held_out: shards of posed views that are not trained on; their error is noted at each check.
        sheets: draws pictures "3 h w" by name with `unet`, which holds the averages while it is called.
        vae: hash of the autoencoder that will decode what the network draws (`hash_tensors`); latents of another
            one are refused.  None takes whatever they are of.
        override, log, progress: see `fit`.

    Raises:
        InputError: no shards, latents of another autoencoder, or a share of pictures without pictures.
        AssetError: latents or captions of a sample that cannot be used.
        FitError, WeightsError, OutputError, Stopped: see `fit`.
    """
    assert isinstance(unet, nn.Module)
    objective = settings.objective
    if (pictures is None) != (objective.share_2d == 0):
        raise InputError(
            f"`pictures` must be given exactly when `share_2d` is above 0; got {pictures} and {objective.share_2d}."
        )
    size = unet.config["sample_size"]
    shape = (unet.config["in_channels"], size, size)
    open_set = partial(LatentSet, shape=shape, posterior=settings.posterior, grounds=settings.grounds)

    def opened() -> tuple[LatentSet, LatentSet | None, LatentSet | None]:
        return (
            open_set(objects, views=settings.views),
            None if pictures is None else open_set(pictures),
            None if held_out is None else LatentSet(held_out, shape=shape, views=settings.views),
        )

    object_set, picture_set, seen_less = Ranks.join(unet.device).first_of_each_machine_first(opened)
    sets = {"objects": object_set, "pictures": picture_set, "held_out": seen_less}
    if vae is not None:
        for name, latents in sets.items():
            _check_encoder(name, latents, vae)
    n_flat = n_pictures(settings.batch, objective.share_2d)
    if picture_set is not None and n_flat == 0:
        raise InputError(
            f"`batch` must be large enough for {objective.share_2d:.0%} of pictures; got {settings.batch}, beside "
            "which there would be none. Raise it, or leave `pictures` out."
        )
    device = unet.device
    alphas_cumprod = alphas_cumprod.to(device)
    unet.requires_grad_(True).train()

    texts = TextCache(reader)

    def term(batch: Batch, generator: torch.Generator, *, objective: ObjectiveSettings = objective) -> Tensor:
        condition = texts.read_some(batch.captions, dropped=objective.drop_text, generator=generator).to(device)
        latents = batch.latents
        if not settings.fold and batch.cameras is not None:  # each view an object of its own
            condition, latents = condition.repeat_interleave(latents.shape[1]), latents.flatten(0, 1)[:, None]
        return diffusion_loss(
            unet,
            latents,
            condition,
            batch.cameras,
            alphas_cumprod=alphas_cumprod,
            settings=objective,
            generator=generator,
        )

    def draw(step: int, generator: torch.Generator) -> MixedBatch:
        posed = object_set.draw(settings.batch, generator, views=settings.views)
        flat = None if picture_set is None or n_flat == 0 else picture_set.draw(n_flat, generator)
        return MixedBatch(objects=posed, pictures=flat)

    def loss(batch: MixedBatch, generator: torch.Generator) -> dict[str, Tensor]:
        _tell(sets)
        posed = term(batch.objects, generator)
        if batch.pictures is None:
            return {"loss": posed}
        flat = term(batch.pictures, generator)
        share = n_flat / (n_flat + settings.batch)
        return {"loss": (1 - share) * posed + share * flat, "posed": posed, "flat": flat}

    def check(done: int) -> Checked:
        scalars = {}
        if seen_less is not None:
            generator = torch.Generator().manual_seed(0)
            errors = []
            for _ in range(-(-min(HELD_OUT_OBJECTS, len(seen_less)) // settings.batch)):  # no more at once than a step
                batch = seen_less.draw(settings.batch, generator, views=settings.views).to(device)
                errors.append(term(batch, generator, objective=replace(objective, drop_text=0.0)))
            scalars["held_out"] = float(torch.stack(errors).mean())
        return Checked(scalars=scalars, pictures={} if sheets is None else sheets())

    return fit(
        unet,
        draw,
        loss,
        out,
        settings=settings.loop,
        samples=settings.batch + n_flat,
        record={
            "batch": settings.batch,
            "views": settings.views,
            "fold": settings.fold,
            "objective": asdict(objective),
            "text_encoder": hash_tensors(sorted(reader.network.state_dict().items())).hexdigest(),
            "noise_schedule": hash_tensors([("alphas_cumprod", alphas_cumprod)]).hexdigest(),
            "objects": object_set.fingerprint,
            "pictures": None if picture_set is None else picture_set.fingerprint,
        },
        override=override,
        account=lambda: {"data": {name: one.account() for name, one in sets.items() if one is not None}},
        check=check if held_out is not None or sheets is not None else None,
        log=log,
        progress=progress,
    )


def _tell(sets: Mapping[str, LatentSet | None]) -> None:
    """Warn of each sample that could not be read, once."""
    for name, latents in sets.items():
        for line in [] if latents is None else latents.reader.news():
            warnings.warn(f"{name}: a sample is replaced by another one: {line}", stacklevel=2)


def _check_encoder(name: str, latents: LatentSet | None, vae: str) -> None:
    """Refuse latents that the model could not decode; warn of those that do not say what they are of."""
    for encoder in [] if latents is None else latents.encoders:
        if encoder == "unknown":
            warnings.warn("some shards do not say which autoencoder their latents are of; pack them anew", stacklevel=3)
        elif encoder != vae:
            raise InputError(
                f"`{name}` must hold latents of the model's own autoencoder ({vae[:12]}); got some of another one "
                f"({encoder[:12]}). Run `viewfold pack` with --latents and this model."
            )
