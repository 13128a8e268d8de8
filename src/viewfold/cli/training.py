"""`viewfold train`: go on with a model's network, or start it anew, on shards of posed views and single pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from viewfold.cli.flow import Device, chosen, given
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars
from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model's multi-view network; a run that was stopped goes on.

    On several processes: torchrun --nproc-per-node 2 -m viewfold.cli train ...
    """

    objects: Positional[Annotated[Path, arg(metavar="OBJECTS")]]
    """Folder of shards of posed views, packed with --latents."""
    out: Path
    """Folder of the run: checkpoint.pt, log.jsonl, and model/ when it is done."""
    pictures: Annotated[Path | None, unset("FOLDER")] = None
    """Folder of shards of single captioned pictures, the 2D half of the mix."""
    model: str = "toybox"
    """Where the autoencoder, the text encoder and the network come from."""
    fresh: bool = False
    """Start with a new network of the same shape."""
    steps: Annotated[int | None, unset("INT")] = None
    """Steps in all, those of earlier runs included; by default 10000."""
    minutes: Annotated[float | None, unset("FLOAT")] = None
    """Stop after this long, with a checkpoint."""
    batch: Annotated[int | None, unset("INT")] = None
    """Objects a step and process; by default 24."""
    views: Annotated[int | None, unset("INT")] = None
    """Views of each object; by default 4."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon learns more from a step; AdamW is the paper's."""
    lr: Annotated[float | None, unset("FLOAT")] = None
    """Peak learning rate; by default 0.001."""
    cooldown: Annotated[int | None, unset("INT")] = None
    """Last of the steps, over which the rate falls to zero: sharper pictures (needs --steps)."""
    fold: Annotated[bool, arg(help_behavior_hint="")] = True
    """Train each view by itself, the baseline of the paper's ablation."""
    seed: int = 0
    """Of everything random."""
    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Train, and write the finished model as a folder that every command reads."""
        if not self.objects.is_dir():
            raise InputError(
                f"`objects` must be a folder of shards; got '{self.objects}'. Make it with `viewfold pack`."
            )
        from torch import nn

        from viewfold.image import atomic_write, check_output
        from viewfold.model.unet import MultiViewUNet
        from viewfold.pipeline import load
        from viewfold.pipeline.components import PARTS
        from viewfold.train.diffusion import is_lead, train_diffusion

        check_output(self.out / "model", holds=rf"{'|'.join(PARTS)}|model_index\.json")
        model = load(self.model, device=chosen(self.device))
        model.unet.add_camera_embedding()  # for a plain 2D network; at first it changes nothing
        if self.fresh:
            network = MultiViewUNet(**{k: v for k, v in model.unet.config.items() if not k.startswith("_")})
            model.unet = nn.Module.to(network, model.device)
        settings = self._settings(model.scheduler.config["prediction_type"])
        try:
            with progress_bars() as report:
                train_diffusion(
                    model.unet,
                    model.text,
                    model.alphas_cumprod,
                    self.out,
                    objects=self.objects,
                    pictures=self.pictures,
                    settings=settings,
                    progress=lambda step, total, scalars: report("train", step, total),
                )
        except KeyboardInterrupt:
            checkpoint = self.out / "checkpoint.pt"
            if is_lead() and checkpoint.is_file():
                print(f"{checkpoint}: saved; the same command goes on from here", file=sys.stderr)
            raise
        if is_lead():
            with atomic_write(self.out / "model") as folder:
                model.save_pretrained(folder)
            print(f"{self.out / 'model'}: use it with --model {self.out / 'model'}")
        else:
            print("done", file=sys.stderr)

    def _settings(self, prediction: str) -> Any:
        from viewfold.train.diffusion import DiffusionSettings

        base = DiffusionSettings()
        names = ("steps", "minutes", "optimizer", "lr", "cooldown", "seed")
        loop = given({name: getattr(self, name) for name in names})
        share = base.objective.share_2d if self.pictures is not None else 0.0
        return replace(
            base,
            **given({"batch": self.batch, "views": self.views}),
            fold=self.fold,
            loop=replace(base.loop, **loop),
            objective=replace(base.objective, share_2d=share, prediction=prediction),
        )
