"""A run of training in miniature: a tiny model, tiny shards, two steps, and a network that notes what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import tiny_model, tiny_unet
from tiny_shards import write_shards
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.model.condition import Condition
from viewfold.model.unet import MultiViewUNet
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.run import Trained
from viewfold.training.settings import LoopSettings

LOOP = LoopSettings(steps=2, precision="fp32", warmup=0, optimizer="adamw", lr=1e-3)
SETTINGS = DiffusionSettings(batch=4, loop=LOOP, objective=ObjectiveSettings(share_2d=0.5))


class Recorder(MultiViewUNet):
    """Notes each call; predicts as its network does."""

    calls: list[dict[str, Any]]

    def forward(self, latents: Tensor, timesteps: Tensor, text: Condition, cameras: Cameras | None = None) -> Tensor:
        told = {"text": text.part("tokens"), "cameras": cameras}
        self.calls.append({"latents": latents, "t": timesteps, "training": self.training, **told})
        return super().forward(latents, timesteps, text, cameras)


def recorder() -> Recorder:
    """Return a tiny network that notes each call."""
    network = Recorder.from_config(tiny_unet().config)
    network.calls = []  # type: ignore[union-attr]
    return network  # type: ignore[return-value]


def train(
    tmp_path: Path, settings: DiffusionSettings = SETTINGS, unet: MultiViewUNet | None = None, **options: Any
) -> Trained:
    model = tiny_model()
    if "objects" not in options:
        options["objects"] = write_shards(tmp_path / "objects")
    if "pictures" not in options:
        options["pictures"] = write_shards(tmp_path / "pictures", posed=False, caption="a blue car")
    return train_diffusion(
        unet or tiny_unet(), model.text, model.alphas_cumprod, tmp_path / "run", settings=settings, **options
    )
