"""`viewfold personalize`: from a few pictures of one thing to a file that makes the model draw that thing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from viewfold.cli.model import Device, chosen, say_notes
from viewfold.cli.option import given, unset
from viewfold.cli.progress import progress_bars, training_bar
from viewfold.errors import InputError, Stopped
from viewfold.formats import VIEW_RECORDS

if TYPE_CHECKING:
    from viewfold.training.subject import SubjectSettings
    from viewfold.views import Views


@dataclass(frozen=True, kw_only=True)
class Personalize:
    """Teach a model one thing from three to eight pictures of it; a run that was stopped goes on."""

    source: Positional[Path]
    """Folder of pictures of one thing, or of views with cameras (transforms.json), which teach it more."""
    subject: str
    """What it is to be called: its class with a made-up word before it, "a zorb mug"."""
    class_name: Annotated[str, arg(name="class", metavar="TEXT")]
    """What kind of thing it is: "mug"."""
    out: Path
    """Folder of the run; --lora takes it when it is done."""
    model: str = "toybox"
    """A shipped or installed model, or a model folder."""
    preset: Literal["default", "paper"] = "default"
    """A LoRA with the model's own samples as a prior, or the paper's: all weights, held by how far they have moved."""
    background: Literal["keep", "remove"] = "keep"
    """Of pictures without alpha: keep it, or cut the subject out (pip install 'viewfold[photos]')."""
    steps: Annotated[int | None, unset("INT")] = None
    """Steps in all; by default 150, and 600 with paper."""
    minutes: Annotated[float | None, unset("FLOAT")] = None
    """Stop after this long, with what there is."""
    lr: Annotated[float | None, unset("FLOAT")] = None
    """Learning rate; by default 0.002, 0.00015 with all weights, and 0.000002 with paper."""
    rank: Annotated[int | None, unset("INT")] = None
    """Of the LoRA; by default 8."""
    no_pose: bool = False
    """Learn pictures one by one alone, without asking the model from where each was taken (as with paper)."""
    all_weights: bool = False
    """Train every weight instead of a LoRA: OUT/model is then a model of its own."""
    prior: Annotated[int | None, unset("INT")] = None
    """Of the model's own samples, how many a step; by default 1, 0 for none."""
    prior_prompts: Annotated[Path | None, unset("FILE")] = None
    """What those are drawn of, a prompt a line; by default the class and a dozen other things."""
    preservation: Annotated[float | None, unset("FLOAT")] = None
    """Weight of how far the weights have moved on average (the paper's lambda); by default 0, and 1 with paper."""
    forgetting: Annotated[float | None, unset("FLOAT")] = None
    """End when the error on other prompts has risen by this share; by default 0.5, 0 for never."""
    sheet: Annotated[tuple[str, ...], arg(metavar="PROMPT ...", help_behavior_hint="")] = ()
    """Prompts to draw at each check, into OUT/samples; by default the subject."""
    check_steps: Annotated[int | None, unset("INT")] = None
    """Steps between two checks; by default 50."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What is computed in; the weights are float32 in both."""
    override: bool = False
    """Go on from a checkpoint that was made with other settings."""
    seed: int = 0
    """Of everything random."""
    device: Device = "auto"
    """Where to compute; under torchrun cuda means one GPU a process."""

    def run(self) -> None:
        """Learn, and say how to use it."""
        settings = self._settings()
        prompts = self._prior_prompts()
        if not self.source.is_dir() and self.source.suffix != ".json":
            raise InputError(f"`source` must be a folder of pictures or of views; there is no '{self.source}'.")
        from viewfold.training.ranks import Ranks, local_device

        device = local_device(chosen(self.device))
        with Ranks.join(device or "cpu") as ranks:
            try:
                self._learn(device, settings, prompts, lead=ranks.lead)
            except Stopped as stop:
                if ranks.lead and stop.saved:
                    print(f"{self.out}: a checkpoint is saved; the same command goes on from there", file=sys.stderr)
                raise

    def _learn(self, device: Any, settings: SubjectSettings, prompts: list[str] | None, *, lead: bool) -> None:
        import torch

        from viewfold.personalization import check_subject, personalize
        from viewfold.pipeline import load

        model = load(self.model, device=device, dtype=torch.float32)
        notes = check_subject(model, self.subject, self.class_name)
        source, told = self._read(model.image_size)
        if lead:
            say_notes([*notes, *told])
        with progress_bars() as stage, training_bar(shown=lead) as report:
            made = personalize(
                model,
                source,
                subject=self.subject,
                class_name=self.class_name,
                out=self.out,
                settings=settings,
                prior_prompts=prompts,
                sheets=self.sheet or [self.subject],
                override=self.override,
                stage=stage if lead else None,
                found=self._say_poses if lead else None,
                progress=report,
            )
        if lead:
            print(_summary(made.report))
            print(self._use(made.path))

    def _read(self, size: int) -> tuple[Any, list[str]]:
        """Return the pictures or the posed views, and what is to be said of them."""
        folder = self.source
        if folder.suffix == ".json" or any((folder / name).is_file() for name in VIEW_RECORDS):
            from viewfold.views import Views

            for name, asked in (("no_pose", self.no_pose), ("background", self.background != "keep")):
                if asked:
                    raise InputError(f"`{name}` must be left out with views that have cameras; it is for pictures.")
            return Views.load(folder), []
        from viewfold.data.photos import PhotoSettings, read_photos

        found = read_photos(folder, size=size, settings=PhotoSettings(background=self.background))
        return found, [*found.notes, *(f"{name}: {reason}" for name, reason in found.failed)]

    def _prior_prompts(self) -> list[str] | None:
        if self.prior_prompts is None:
            return None
        from viewfold.pipeline.batch import read_prompts

        return read_prompts(self.prior_prompts)

    def _settings(self) -> SubjectSettings:
        from viewfold.training.subject import PAPER, WHOLE, SubjectSettings

        if self.all_weights and self.rank is not None:
            raise InputError("`rank` must be left out with `all_weights`, which trains no LoRA.")
        base = PAPER if self.preset == "paper" else SubjectSettings()
        loop = {name: getattr(self, name) for name in ("steps", "minutes", "lr", "check_steps")}
        own = {"rank": self.rank, "prior": self.prior, "preservation": self.preservation}
        if self.all_weights and self.preset == "default":
            base = WHOLE
        if self.forgetting is not None:
            base = replace(base, forgetting=self.forgetting or None)
        if self.no_pose:
            base = replace(base, pose=False)
        return replace(
            base, **given(own), loop=replace(base.loop, seed=self.seed, precision=self.precision, **given(loop))
        )

    def _say_poses(self, posed: Views) -> None:
        for line in _poses(posed, self.out):
            print(line, file=sys.stderr)

    def _use(self, path: Path) -> str:
        how = f"--lora {path}" if path == self.out else f"--model {path}"
        base = "" if path != self.out or self.model == "toybox" else f" --model {self.model}"
        return f'{path}: viewfold generate "{self.subject}" {how}{base}'


def _poses(posed: Views, out: Path) -> list[str]:
    """Return what is said of the cameras that were found."""
    from viewfold.personalization import CLEAR, POSED_NAME

    names, clear = posed.run["pictures"], posed.run["clarity"]
    sides = zip(posed.cameras.azimuth_deg.tolist(), posed.cameras.elevation_deg.tolist(), strict=True)
    lines = [f"{name}: seen from azimuth {a:.0f}, elevation {e:.0f}" for name, (a, e) in zip(names, sides, strict=True)]
    unclear = [name for name, clarity in zip(names, clear, strict=True) if clarity < CLEAR]
    if unclear:
        lines.append(
            f"note: the model hardly tells the sides of {', '.join(unclear)} apart: the same all round, or "
            f"unknown to it. If views come out mixed up, put the cameras right in {out / POSED_NAME}/transforms.json, "
            "and give that folder in place of the pictures"
        )
    return lines


def _summary(report: dict[str, Any]) -> str:
    """Return one line of what the run cost."""
    line = f"{report['step']} steps ({report['steps_made']} now) in {report['seconds']} s"
    line += f", {report['peak_memory_mib']} MiB" if report["peak_memory_mib"] is not None else ""
    return line + (f"; ended early: {report['ended']}" if report.get("ended") else "")
