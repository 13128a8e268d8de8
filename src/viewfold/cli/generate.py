"""`viewfold generate`: from a prompt, or a file of them, to pictures with cameras."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from viewfold.cli.cluster import cluster_of
from viewfold.cli.model import Device, Loras, open_model, say_notes, unnamed_subjects
from viewfold.cli.option import slug, unset
from viewfold.cli.origin import OriginFlags
from viewfold.cli.placement import PlacementFlags
from viewfold.cli.progress import progress_bars, stage
from viewfold.errors import AssetError, InputError, PromptError
from viewfold.formats import VIEW_RECORDS

PROMPTS_A_TASK = 16
"""Of a cluster: few enough to share out evenly, many enough that nobody waits for the driver."""


@dataclass(frozen=True, kw_only=True)
class CameraFlags:
    """Where the views are taken from: evenly around the object."""

    elevation: Annotated[float | None, unset("DEGREES")] = None
    """Height above the horizon; by default 15."""
    azimuth: Annotated[float | None, unset("DEGREES")] = None
    """Direction of the first view: 0 is the front, 90 the object's left (+x); by default 0, with MVDream's 90."""
    fov: float = 40.0
    """Field of view in degrees; it matters to `lift`, the network is not told."""
    distance: Annotated[float | None, unset("FLOAT")] = None
    """From the object's centre; by default the object fills the frame."""


@dataclass(frozen=True, kw_only=True)
class DrawingFlags:
    """How the model reads the prompt and draws; a model's folder may name other defaults (model_index.json)."""

    negative: Annotated[str | None, unset("TEXT")] = None
    """What to keep away from; by default nothing."""
    suffix: Annotated[str | None, unset("TEXT")] = None
    """Words that follow the prompt; by default none with toybox, ", 3d asset" with MVDream's models."""
    rescale: float = 0.0
    """0 to 1: takes back the contrast that high guidance adds."""
    scheduler: Annotated[Literal["ddim", "dpm", "euler", "unipc"] | None, unset("{ddim,dpm,euler,unipc}")] = None
    """The sampler; by default as the model was made: ddim."""
    lora: Loras = ()
    """A .safetensors file or folder of personalize, that changes the model, and how much (else 1); several add up."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw consistent views of what a prompt says: pictures, cameras, a contact sheet and a turntable."""

    prompt: Positional[Annotated[str, unset("[PROMPT]")]] = ""
    """What to draw; or use --prompts."""
    prompts: Annotated[Path | None, unset("FILE")] = None
    """A text file with one prompt a line; each gets a folder of its own, finished ones are skipped."""
    model: str = "toybox"
    """A shipped or installed model, a model folder, or a released checkpoint file."""
    out: Annotated[Path | None, unset("FOLDER")] = None
    """Folder to write; by default out/ and the prompt's words, or the file's name."""
    views: int = 4
    """How many, 1 to 256."""
    source: Annotated[Path | None, unset("FOLDER", name="from")] = None
    """Folder of saved views to keep; the others are drawn around them."""
    seed: int = 0
    """The same seed draws the same pictures, alone or in a file."""
    tries: int = 1
    """Times to draw, from as many seeds; the views that agree best with each other are kept."""
    steps: Annotated[int | None, unset("INT")] = None
    """Denoising steps: more is slower and somewhat better; by default 8 with toybox, 50 with MVDream's models."""
    guidance: Annotated[float | None, unset("FLOAT")] = None
    """How closely to follow the prompt, 1 is the plain model; by default 2 with toybox, 10 with MVDream's models."""
    device: Device = "auto"
    """Where to compute."""
    cluster: Annotated[str | None, unset("auto|ADDRESS")] = None
    """Ray cluster that draws the file of prompts: the one that this machine belongs to, or HOST:PORT."""
    camera: CameraFlags = CameraFlags()
    drawing: DrawingFlags = DrawingFlags()
    memory: PlacementFlags = PlacementFlags()
    origin: OriginFlags = OriginFlags()

    def run(self) -> None:
        """Draw one prompt or a file of them and say where the results are."""
        if bool(self.prompt) == bool(self.prompts):
            raise InputError("`prompt` must be given, or a file of them with `prompts`: one of the two.")
        if self.cluster is not None and self.prompts is None:
            raise InputError("`cluster` must go with `prompts`: one prompt is drawn here.")
        if self.source is not None and self.prompts is not None:
            raise InputError("`source` must be left out with `prompts`: one folder of views shows one prompt.")
        if self.tries != 1 and self.prompts is not None:
            raise InputError("`tries` must be left out with `prompts`: each prompt is drawn once.")
        if self.tries != 1 and self.views < 2:
            raise InputError("`tries` must be 1 for a single view, which agrees with no other.")
        check_source(self.source)
        from viewfold.model.defaults import Defaults
        from viewfold.pipeline.tries import check_tries

        check_tries(self.tries)
        self._cameras(Defaults())  # numbers that cannot be used are refused before anything is loaded
        settings: dict[str, Any] = {
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "rescale": self.drawing.rescale,
            "negative": self.drawing.negative,
            "suffix": self.drawing.suffix,
            **self.origin.arguments(),
        }
        if self.prompts is None:
            self._run_one(settings)
        else:
            self._run_file(self.prompts, settings)

    def _cameras(self, defaults: Any) -> Any:
        from viewfold.camera import Cameras

        asked = self.camera
        return Cameras.orbit(
            self.views,
            elevation_deg=defaults.elevation_deg if asked.elevation is None else asked.elevation,
            azimuth_deg=defaults.azimuth_deg if asked.azimuth is None else asked.azimuth,
            fov_deg=asked.fov,
            distance=asked.distance,
        )

    def _open(self) -> Any:
        drawing = self.drawing
        return open_model(
            self.model, device=self.device, placement=self.memory, lora=drawing.lora, scheduler=drawing.scheduler
        )

    def _run_one(self, settings: dict[str, Any]) -> None:
        from viewfold.evaluation.record import score_views
        from viewfold.pipeline import generate
        from viewfold.pipeline.tries import best_of
        from viewfold.store import check_output
        from viewfold.views import VIEW_FILES, Views

        started = time.perf_counter()
        out = self.out or Path("out") / slug(self.prompt)
        check_output(out, holds=VIEW_FILES)
        given = None if self.source is None else Views.load(self.source)
        model = self._open()
        say_notes([*model.text.check(self.prompt), *unnamed_subjects(self.prompt, self.drawing.lora)])
        cameras, defaults = self._cameras(model.defaults), model.defaults
        negative = defaults.negative if self.drawing.negative is None else self.drawing.negative
        model.release_text([defaults.worded(self.prompt, self.drawing.suffix), negative])
        seeds = range(self.seed, self.seed + self.tries)
        with progress_bars() as report:

            def draw(seed: int) -> Views:
                name = "generate" if self.tries == 1 else f"seed {seed}"
                told = settings | {"seed": seed, "progress": stage(report, name)}
                return generate(model, self.prompt, cameras=cameras, given=given, **told)

            views = draw(self.seed) if self.tries == 1 else best_of(draw, seeds, score_views)
        views.save(out)
        seconds = time.perf_counter() - started
        print(f"{out}: {len(views)} views, contact.png, turntable.webp, transforms.json, run.json ({seconds:.1f} s)")
        if self.tries > 1:
            tries = views.run["tries"]
            print(f"  seed {tries['chosen']}, of {self.tries}: scores {', '.join(f'{s:.3f}' for s in tries['scores'])}")

    def _run_file(self, path: Path, settings: dict[str, Any]) -> None:
        from viewfold.pipeline import generate_batch
        from viewfold.pipeline.batch import read_prompts

        out = self.out or Path("out") / path.stem
        prompts = read_prompts(path)
        if self.cluster is not None:
            self._run_cluster(prompts, out, settings)
            return
        model = self._open()
        finished = itertools.count(1)
        with progress_bars() as report:
            done = generate_batch(
                model,
                prompts,
                out,
                cameras=self._cameras(model.defaults),
                progress=lambda prompt, folder: report("prompts", next(finished), len(set(prompts))),
                **settings,
            )
        print(f"{out}: {done.summary()}")
        if done.failed:
            raise PromptError(f"{len(done.failed)} prompts could not be drawn; the rest is done.")

    def _run_cluster(self, prompts: list[str], out: Path, settings: dict[str, Any]) -> None:
        """Draw on many machines, some prompts a task; what is finished is skipped, as everywhere."""
        from viewfold.data.pool import work_in_pool

        prompts = list(dict.fromkeys(prompts))
        tasks = [tuple(prompts[i : i + PROMPTS_A_TASK]) for i in range(0, len(prompts), PROMPTS_A_TASK)]
        make = functools.partial(_Drawer, self, out.resolve(), settings)
        done, failures = 0, []
        gpus = 1 if self.device == "cuda" else 0
        with cluster_of(self.cluster, out, gpus=gpus) as pool, progress_bars() as report:
            for task, reason in work_in_pool(tasks, make, pool):
                done += len(task)
                report("prompts", done, len(prompts))
                failures += [reason] if reason else []
        print(f"{out}: {len(prompts)} prompts")
        for failure in failures:
            print(failure, file=sys.stderr)
        if failures:
            raise PromptError("some prompts could not be drawn, see above; the rest is done.")


class _Drawer:
    """What a worker of a cluster draws with: the model, loaded once."""

    def __init__(self, verb: Generate, out: Path, settings: dict[str, Any]) -> None:
        self.verb, self.out, self.settings = verb, out, settings
        self.model = verb._open()

    def __call__(self, prompts: tuple[str, ...]) -> str | None:
        from viewfold.pipeline import generate_batch

        cameras = self.verb._cameras(self.model.defaults)
        done = generate_batch(self.model, prompts, self.out, cameras=cameras, **self.settings)
        return "\n".join(f"{prompt[:60]!r}: {reason}" for prompt, reason in done.failed.items()) or None


def check_source(source: Path | None) -> None:
    """Refuse a folder that holds no views before anything slow is done."""
    if source is None or (source.suffix == ".json" and source.is_file()):
        return
    if not any((source / name).is_file() for name in VIEW_RECORDS):
        raise AssetError(
            f"`source` must be a folder that `viewfold generate` wrote, or one of photographs with cameras; '{source}' "
            f"holds no {VIEW_RECORDS[0]}."
        )
