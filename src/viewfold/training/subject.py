"""What multi-view DreamBooth learns from, and how: a subject's latents, the prior's, and the settings.

Knows latents, cameras and prompts, and neither files nor networks; `dreambooth.py` trains on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.batches import Batch
from viewfold.errors import InputError
from viewfold.model.lowrank import Layers
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.settings import LoopSettings

HELD_BACK = 4
"""Samples of the prior that are not trained on: their error tells what is forgotten."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Posed:
    """Latents of views of one object."""

    latents: Float[Tensor, "v c h w"]
    cameras: Cameras

    def take(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n c h w"], Cameras]:
        """Return `n` views, or all that there are, spread evenly over their order around the object."""
        positions = self.cameras.world_from_camera[:, :3, 3]
        order = torch.atan2(positions[:, 1], positions[:, 0]).argsort()
        n = min(n, len(order))
        start = torch.rand((), generator=generator) * len(order)
        chosen = order[(start + torch.arange(n) * (len(order) / n)).long() % len(order)]
        return self.latents[chosen], self.cameras[chosen]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is learned."""

    text: str
    """What the subject is called, "a zorb mug"."""
    pictures: Float[Tensor, "n c h w"] | None = None
    """Latents of single pictures, of which a step takes some."""
    posed: Posed | None = None
    """Views of it from known cameras."""
    posed_text: str | None = None
    """What posed views are called, with the suffix of the model say; None: `text`."""

    def __post_init__(self) -> None:
        if self.pictures is None and self.posed is None:
            raise InputError("`pictures` must be given, or posed views; got neither.")

    def draw_pictures(self, n: int, generator: torch.Generator) -> Batch | None:
        """Return `n` single pictures without cameras, with replacement; None where there are none."""
        if self.pictures is None:
            return None
        chosen = torch.randint(len(self.pictures), (n,), generator=generator)
        return Batch(latents=self.pictures[chosen][:, None], captions=[self.text] * n, cameras=None)

    def draw_posed(self, n: int, generator: torch.Generator, *, views: int) -> Batch | None:
        """Return `n` times some posed views, each time together; None where there are none."""
        if self.posed is None:
            return None
        latents, cameras = zip(*(self.posed.take(views, generator) for _ in range(n)), strict=True)
        text = self.text if self.posed_text is None else self.posed_text
        return Batch(latents=torch.stack(latents), captions=[text] * n, cameras=Cameras.cat(list(cameras)))


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorSamples:
    """What the model drew before it began to change, all from the same cameras."""

    prompts: Sequence[str]
    latents: Float[Tensor, "n v c h w"]
    cameras: Cameras

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.latents) or len(self.prompts) <= HELD_BACK:
            raise InputError(
                f"`prior` must be more than {HELD_BACK} samples, a prompt each; got {len(self.prompts)} prompts and "
                f"{len(self.latents)} samples."
            )

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Return `n` of the samples that are trained on, with replacement."""
        return self._rows(torch.randint(len(self.latents) - HELD_BACK, (n,), generator=generator).tolist())

    @property
    def held_back(self) -> Batch:
        """The samples that are not trained on, the last ones."""
        return self._rows(list(range(len(self.latents) - HELD_BACK, len(self.latents))))

    def _rows(self, rows: list[int]) -> Batch:
        prompts = [self.prompts[row] for row in rows]
        return Batch(latents=self.latents[rows], captions=prompts, cameras=Cameras.cat([self.cameras] * len(rows)))


@dataclass(frozen=True, kw_only=True)
class SubjectSettings:
    """How a subject is learned; docs/personalize.md says what was tried."""

    rank: int | None = 8
    """Of the low-rank layers; None trains all weights."""
    layers: Layers = "transformer"
    """Which layers have low-rank ones."""
    pose: bool = True
    """Ask the model from where single pictures were taken, and learn them as posed views too."""
    pictures: int = 4
    """Single pictures a step, if there are any."""
    posed: int = 1
    """Draws of posed views a step, if there are any."""
    views: int = 4
    """Views of a draw."""
    prior: int = 1
    """Samples of the prior a step; 0 for none."""
    prior_weight: float = 0.3
    preservation: float = 0.0
    """Weight of the mean change of a weight, |theta - theta0|_1 / N (MVDream: lambda = 1)."""
    forgetting: float | None = 0.5
    """The run ends when the error on what was held back of the prior has risen by this share; None: never."""
    objective: ObjectiveSettings = field(
        default_factory=lambda: ObjectiveSettings(share_2d=0.0, drop_text=0.0, timestep_bias=2.0)
    )
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=150, optimizer="adamw", lr=2e-3, warmup=10, weight_decay=0.01, ema=0.9, check_steps=50
        )
    )

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("pictures", 1), ("posed", 1), ("views", 1), ("prior", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}` must be at least {least}; got {value}.")
        for name in ("prior_weight", "preservation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"`{name}` must be a finite number of at least 0; got {getattr(self, name)}.")
        if self.forgetting is not None and not self.forgetting > 0:
            raise InputError(f"`forgetting` must be above 0; got {self.forgetting}.")


WHOLE = replace(SubjectSettings(), rank=None, loop=replace(SubjectSettings().loop, lr=1.5e-4))
"""All weights, at a rate that suits them."""

PAPER = SubjectSettings(
    rank=None,
    pose=False,
    pictures=4,
    prior=0,
    preservation=1.0,
    forgetting=None,
    objective=ObjectiveSettings(share_2d=0.0, drop_text=0.0, snr_cap=None),
    loop=LoopSettings(
        steps=600, optimizer="adamw", lr=2e-6, warmup=0, weight_decay=0.01, beta2=0.999, ema=0.0, check_steps=100
    ),
)
"""MVDream, section 3.3 and appendix: 600 steps of AdamW at 2e-6, decay 0.01, batches of 4, lambda 1, all weights,
single pictures alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectBatch:
    """One part of a step."""

    pictures: Batch | None
    posed: Batch | None
    prior: Batch | None

    def to(self, device: torch.device) -> SubjectBatch:
        """Return the batch there."""
        parts = {name: getattr(self, name) for name in ("pictures", "posed", "prior")}
        return SubjectBatch(**{name: None if part is None else part.to(device) for name, part in parts.items()})
