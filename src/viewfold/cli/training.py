"""`viewfold train`: go on with a model's network, or start it anew, on shards of posed views and single pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from viewfold.cli.model import Device, chosen
from viewfold.cli.option import given, slug, unset
from viewfold.cli.progress import training_bar
from viewfold.errors import InputError, Stopped


@dataclass(frozen=True, kw_only=True)
class RateFlags:
    """How the weights move."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon learns more from a step; AdamW is the paper's."""
    lr: Annotated[float | None, unset("FLOAT")] = None
    """Peak learning rate; by default 0.001."""
    warmup: Annotated[int | None, unset("INT")] = None
    """Steps over which the rate rises; by default 200."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows: the same rate, or a fall to zero at the last of --steps."""
    cooldown: Annotated[int | None, unset("INT")] = None
    """With a constant rate: last of the steps, over which it falls to zero: sharper pictures (needs --steps)."""
    weight_decay: Annotated[float | None, unset("FLOAT")] = None
    """Pull of the weights towards zero; by default 0.01."""
    clip: Annotated[float | None, unset("FLOAT")] = None
    """Largest norm of the gradient; by default 1."""
    ema: Annotated[float | None, unset("FLOAT")] = None
    """Decay of the averaged weights, which are the result; by default 0.997."""


@dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """How the work is spread and kept."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What is computed in, by default bf16 if the device has it; the weights are float32 in both."""
    accumulate: Annotated[int | None, unset("INT")] = None
    """Batches a step and process, one after the other: a larger batch in the same memory; by default 1."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each holds the whole network, or (fsdp, with adamw) a part of it."""
    checkpoint_minutes: Annotated[float | None, unset("FLOAT")] = None
    """Minutes between two checkpoints; by default 5."""
    keep: Annotated[int | None, unset("INT")] = None
    """Newest checkpoints to keep; by default 2."""
    override: bool = False
    """Go on from a checkpoint that was made with other settings, data or model."""


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """What is drawn of the shards."""

    pictures: Annotated[tuple[str, ...], arg(metavar="FOLDER[:WEIGHT] ...", help_behavior_hint="")] = ()
    """Shards of single captioned pictures, the 2D half of the mix; weights as for OBJECTS."""
    posterior: Annotated[Literal["sample", "mean"] | None, unset("{sample,mean}")] = None
    """Of moments (`pack --grounds`): a new sample in each draw, or the mean; by default sample if all are moments."""
    grounds: Annotated[tuple[float, ...], arg(metavar="GREY ...", help_behavior_hint="")] = ()
    """Of moments: the greys to draw from; by default all that are there."""
    read_ahead: Annotated[int | None, unset("INT")] = None
    """Batches a process that are read before their steps ask; by default 3."""


@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """What to see of it."""

    held_out: Annotated[str | None, unset("FOLDER")] = None
    """Shards that are not trained on, packed with --latents; their error is noted at each check."""
    sheet: Annotated[tuple[str, ...], arg(metavar="PROMPT ...", help_behavior_hint="")] = ()
    """Prompts to draw at each check, into OUT/samples."""
    check_steps: Annotated[int | None, unset("INT")] = None
    """Steps between two checks; by default 500."""
    log: Annotated[tuple[Literal["tensorboard", "wandb"], ...], arg(help_behavior_hint="")] = ()
    """Where else to write the figures of log.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model's multi-view network; a run that was stopped goes on.

    On several processes: torchrun --nproc-per-node 2 -m viewfold.cli train ...
    """

    objects: Positional[Annotated[tuple[str, ...], arg(metavar="OBJECTS[:WEIGHT] ...")]]
    """Folders or URLs (s3://, hf://) of shards of posed views, packed with --latents; weight 1 where none is given."""
    out: Path
    """Folder of the run: checkpoint-STEP, log.jsonl, run.json, and model/ when it is done."""
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
    fold: Annotated[bool, arg(help_behavior_hint="")] = True
    """Train each view by itself, the baseline of the paper's ablation."""
    seed: int = 0
    """Of everything random: new weights, what is drawn, noise."""
    device: Device = "auto"
    """Where to compute; under torchrun cuda means one GPU a process."""
    data: DataFlags = DataFlags()
    rate: RateFlags = RateFlags()
    processes: ProcessFlags = ProcessFlags()
    watch: WatchFlags = WatchFlags()

    def run(self) -> None:
        """Train, and write the finished model as a folder that every command reads."""
        self._check_folders()
        loop = self._loop()
        from viewfold.store import check_output
        from viewfold.training.ranks import Ranks, local_device
        from viewfold.weights.components import MODEL_PARTS

        check_output(self.out / "model", holds=rf"{'|'.join(MODEL_PARTS)}|model_index\.json|ATTRIBUTION\.md")
        device = local_device(chosen(self.device))
        with Ranks.join(device or "cpu") as ranks:
            try:
                self._train(device, loop, lead=ranks.lead)
            except Stopped as stop:
                if ranks.lead and stop.saved:
                    print(f"{self.out}: a checkpoint is saved; the same command goes on from there", file=sys.stderr)
                raise

    def _check_folders(self) -> None:
        """Refuse what is no folder before anything slow is loaded."""
        from viewfold.data.mixture import Source

        if not self.objects:
            raise InputError("`objects` must name a folder of shards. Make it with `viewfold pack`.")
        held_out = () if self.watch.held_out is None else (self.watch.held_out,)
        for name, words in (("objects", self.objects), ("pictures", self.data.pictures), ("held_out", held_out)):
            for folder in (str(Source.of(word).folder) for word in words):
                if "://" not in folder and not Path(folder).is_dir():
                    raise InputError(
                        f"`{name}` must be a folder of shards; got '{folder}'. Make it with `viewfold pack`."
                    )

    def _train(self, device: Any, loop: Any, *, lead: bool) -> None:
        import torch

        from viewfold.data.attribution import copy_attribution
        from viewfold.data.mixture import Source
        from viewfold.model.weights_hash import hash_tensors
        from viewfold.pipeline import load
        from viewfold.store import atomic_write
        from viewfold.training.diffusion import train_diffusion

        model = load(self.model, device=device, dtype=torch.float32)  # whatever its size: small steps need it
        self._prepare(model)
        vae = hash_tensors(sorted(model.vae.state_dict().items())).hexdigest()
        with training_bar(shown=lead) as report:
            trained = train_diffusion(
                model.unet,
                model.text,
                model.alphas_cumprod,
                self.out,
                objects=self.objects,
                pictures=self.data.pictures or None,
                settings=self._settings(model.scheduler.config["prediction_type"], loop),
                held_out=self.watch.held_out,
                sheets=self._sheets(model),
                vae=vae,
                override=self.processes.override,
                log=self.watch.log,
                progress=report,
            )
        if not lead:
            return
        model.unet = trained.network.eval()
        with atomic_write(self.out / "model") as folder:
            model.save_pretrained(folder)
            copy_attribution([Source.of(word).folder for word in (*self.objects, *self.data.pictures)], folder)
        print(_summary(trained.report))
        print(f"{self.out / 'model'}: use it with --model {self.out / 'model'}")

    def _prepare(self, model: Any) -> None:
        """Give the network what it lacks: new weights, or a camera's embedding; both decided by the seed alone."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.fresh:
                config = {k: v for k, v in model.unet.config.items() if not k.startswith("_")}
                model.unet = type(model.unet)(**config).to(model.device)
            model.unet.add_camera_embedding()  # for a plain 2D network; at first it changes nothing

    def _sheets(self, model: Any) -> Callable[[], Any] | None:
        """Return what draws the prompts of --sheet with the network as it stands."""
        if not self.watch.sheet:
            return None
        import torch

        from viewfold.pipeline.generation import orbit

        cameras = orbit(model.defaults, n_views=self.views or 4)
        names = [slug(prompt) for prompt in self.watch.sheet]
        if len(set(names)) < len(names):
            raise InputError(f"`sheet` must be prompts of different words; got {', '.join(self.watch.sheet)}.")
        for prompt in self.watch.sheet:
            model.text.check(prompt)
        looks = [cameras] if self.fold else [cameras[view] for view in range(len(cameras))]  # as it is trained

        def draw() -> dict[str, Any]:
            worded = [model.defaults.worded(prompt) for prompt in self.watch.sheet]
            drawn = [model(worded, look, negative_prompt=model.defaults.negative).cpu() for look in looks]
            rows = [views.permute(1, 2, 0, 3).flatten(2) for views in torch.cat(drawn, dim=1)]  # v 3 h w -> 3 h (v w)
            return dict(zip(names, rows, strict=True))

        return draw

    def _loop(self) -> Any:
        from viewfold.training.settings import LoopSettings

        asked = {f.name: getattr(flags, f.name) for flags in (self, self.data, self.rate, self.processes, self.watch)
                 for f in fields(flags)}  # fmt: skip
        known = {f.name for f in fields(LoopSettings)}
        return LoopSettings(**given({name: value for name, value in asked.items() if name in known}))

    def _settings(self, prediction: str, loop: Any) -> Any:
        from viewfold.training.diffusion import DiffusionSettings

        base = DiffusionSettings()
        share = base.objective.share_2d if self.data.pictures else 0.0
        return replace(
            base,
            **given({"batch": self.batch, "views": self.views}),
            fold=self.fold,
            posterior=self.data.posterior,
            grounds=self.data.grounds,
            loop=loop,
            objective=replace(base.objective, share_2d=share, prediction=prediction),
        )


def _summary(report: dict[str, Any]) -> str:
    """Return one line of what the run cost."""
    line = (
        f"{report['step']} steps ({report['steps_made']} now), {report['samples_per_s']} samples/s, "
        f"{report['waiting_for_data']:.1%} of the time waiting for data, {report['peak_memory_mib']} MiB"
    )
    if "utilisation" in report:
        line += (
            f", {report['flops_a_step'] / 1e9:.1f} GFLOP a step, {report['flops_per_s'] / 1e9:.1f} GFLOP/s: "
            f"{report['utilisation']:.0%} of a large matrix product here"
        )
    for name, data in report.get("data", {}).items():
        if data["replaced"]:
            unread = "; ".join(f"{uid}: {reason}" for uid, reason in list(data["unread"].items())[:3])
            line += f"; {name}: {data['replaced']} samples drawn could not be read, others stood for them ({unread})"
        bare = sum(folder["without_latents"] for folder in data["folders"])
        line += f"; {name}: {bare} samples have no latents and were left out" if bare else ""
    if report["steps_skipped"]:
        line += f"; {report['steps_skipped']} steps had no finite gradient and were skipped"
    return line
