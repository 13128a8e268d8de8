"""`viewfold lift`: from a prompt, from views or from a file of prompts, to 3D files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from viewfold.cli.generate import check_source
from viewfold.cli.model import Device, Loras, open_model, say_notes, unnamed_subjects
from viewfold.cli.option import given, slug, unset
from viewfold.cli.origin import OriginFlags
from viewfold.cli.placement import PlacementFlags
from viewfold.cli.progress import progress_bars
from viewfold.cli.result import check_places, save_asset, say_asset
from viewfold.errors import InputError, PromptError
from viewfold.formats import MESHES

if TYPE_CHECKING:
    from viewfold.lifting.keeping import Keeper


@dataclass(frozen=True, kw_only=True)
class Lift:
    """Make a 3D file of what a prompt says, with a turntable and a report beside it."""

    prompt: Positional[Annotated[str, unset("[PROMPT]")]] = ""
    """What to make; or use --prompts."""
    prompts: Annotated[Path | None, unset("FILE")] = None
    """A text file with one prompt a line; each gets files of its own, finished ones are skipped."""
    source: Annotated[Path | None, unset("FOLDER", name="from")] = None
    """Folder of saved views to start from; by default they are generated."""
    mesh: Annotated[Path | None, unset("FILE")] = None
    """A mesh of your own to texture: .glb, .gltf, .obj or .ply; its shape and place stay, its colours go."""
    model: str = "toybox"
    """A shipped or installed model, a model folder, or a released checkpoint file."""
    out: Annotated[Path | None, unset("FILE")] = None
    """File to write, .glb, .obj, .ply, .stl or .usdz, or folder for --prompts; by default out/ and the words, .glb."""
    format: Annotated[Literal["glb", "obj", "ply", "stl", "usdz"] | None, unset("NAME")] = None
    """Of the files that --prompts makes: glb (the default), obj, ply, stl or usdz."""
    seed: int = 0
    """The same seed makes the same object."""
    quality: Literal["draft", "standard", "high", "mvdream", "mvdream-reduced"] = "standard"
    """How much: draft fits few views, standard many, high distils too; mvdream distils alone. Options override it."""
    views: Annotated[int | None, unset("INT")] = None
    """Views to generate and fit; by default as many as the model turns plausibly (toybox 16, draft 8)."""
    lens: Literal["cameras", "silhouettes", "pictures"] = "cameras"
    """Where the field of view is known from; silhouettes and pictures (8 or more, half a minute) search it."""
    tries: int = 1
    """Sets of first views to draw, of which the one that agrees best with itself is lifted."""
    steps: Annotated[int | None, unset("INT")] = None
    """Steps of distillation, by default none, and 60 with high."""
    guidance: Annotated[float | None, unset("FLOAT")] = None
    """Of the distillation: how closely to follow the prompt; by default 3."""
    score: Annotated[Literal["reconstruction", "sds", "sdi", "ism", "asd", "vsd"] | None, unset("NAME")] = None
    """Of the distillation: the loss that is minimised, by default reconstruction."""
    negative: Annotated[str | None, unset("TEXT")] = None
    """What to keep away from, in the distillation; by default nothing, and MVDream's list with mvdream."""
    representation: Annotated[Literal["grid", "hash", "sdf", "gaussians", "mesh"] | None, unset("NAME")] = None
    """What is fitted, before it becomes a mesh; by default grid, and hash with mvdream."""
    splats: bool = False
    """Write the gaussians themselves too, as .splats.ply beside the file; with --representation gaussians only."""
    faces: Annotated[int | None, unset("INT")] = None
    """Largest number of faces; by default 4000."""
    texture: Annotated[int | None, unset("INT")] = None
    """Width of the texture in texels; by default 512."""
    height: Annotated[float | None, unset("METRES")] = None
    """Of the object in its file, along z; by default as it was made, 0.6 to 1 (an STL has it in millimetres)."""
    origin_at: Annotated[Literal["base", "centre"] | None, unset("{base,centre}", name="origin")] = None
    """Where the file's origin is: under the object or in its middle; by default where it was made, about the middle."""
    turntable: Literal["webp", "mp4", "none"] = "webp"
    """The animation beside the file; mp4 needs imageio-ffmpeg."""
    maps: bool = False
    """Write colour, opacity, depth and normals from eight sides, with their cameras, into a folder NAME.maps."""
    previews: bool = False
    """Show the object as it grows: writes preview.webp into the folder that is kept beside OUT, NAME.lift."""
    lora: Loras = ()
    """A .safetensors file or folder of personalize, that changes the model, and how much (else 1); several add up."""
    device: Device = "auto"
    """Where to compute."""
    memory: PlacementFlags = PlacementFlags()
    origin: OriginFlags = OriginFlags()

    def run(self) -> None:
        """Make the files and say where they are."""
        self._check()
        if self.mesh is not None:
            from viewfold.cli.retexture import retexture_file

            retexture_file(self, self.mesh, self._out)
            return
        settings = self._settings()
        if self.prompts is None:
            self._run_one(settings)
        else:
            self._run_file(self.prompts, settings)

    def _check(self) -> None:
        """Refuse what contradicts itself before anything is loaded."""
        if bool(self.prompt) == bool(self.prompts):
            raise InputError("`prompt` must be given, or a file of them with `prompts`: one of the two.")
        alone = {"from": self.source, "mesh": self.mesh, "previews": self.previews or None}
        for name, value in alone.items():
            if self.prompts is not None and value is not None:
                raise InputError(f"`{name}` must be left out with `prompts`, a list; got {value}.")
        if self.prompts is not None and self.maps:
            raise InputError(
                "`maps` must be left out with `prompts`. `viewfold render FOLDER --out MAPS --depth --normals` draws "
                "those of all files."
            )
        if self.mesh is not None:
            from viewfold.cli.retexture import check_options

            check_options(self)
        if self.prompts is None and self.format is not None:
            raise InputError(f"`format` must go with `prompts`; one file's ending says it. Use --out X.{self.format}.")
        if self.prompts is None and self._out.suffix.lower() not in MESHES:
            raise InputError(f"`out` must end in {', '.join(MESHES)}; got '{self._out.name}'.")
        if self.prompts is not None and self._out.suffix.lower() in MESHES:
            raise InputError(
                f"`out` must be a folder with `prompts`; got '{self._out.name}'. Name the kind by --format."
            )
        if self.source is not None and (self.views is not None or self.tries != 1):
            name = "tries" if self.views is None else "n_views"
            raise InputError(f"`{name}` must be left out with `from`, whose views are used as they are.")
        if self.quality.startswith("mvdream"):
            if self.source or self.views is not None or self.tries != 1:
                raise InputError(f"`quality` {self.quality} begins with a blob and takes no views. Leave them out.")
            if self.lens != "cameras":
                raise InputError(f"`lens` must be left out with `quality` {self.quality}, which has no views.")
        if self.splats and self.representation != "gaussians":
            raise InputError("`splats` must come with `representation` gaussians; of nothing else are there any.")
        if self.quality == "mvdream" and self.representation in ("gaussians", "mesh"):
            raise InputError(
                f"`representation` must not be {self.representation} with quality mvdream, whose lamps light a volume."
            )
        check_source(self.source)

    @property
    def turns(self) -> Literal["webp", "mp4", False]:
        """The kind of turntable, as `Asset3D.save` takes it."""
        return False if self.turntable == "none" else self.turntable

    @property
    def _out(self) -> Path:
        if self.out is not None:
            return self.out
        return Path("out") / (f"{slug(self.prompt)}.glb" if self.prompts is None else self.prompts.stem)

    def _settings(self) -> Any:
        from viewfold.lifting.presets import DRAFT, HIGH, MVDREAM, MVDREAM_REDUCED, STANDARD, represented
        from viewfold.lifting.score import SCORES
        from viewfold.scene.standing import Standing

        presets = {"draft": DRAFT, "high": HIGH, "mvdream": MVDREAM, "mvdream-reduced": MVDREAM_REDUCED}
        base = represented(presets.get(self.quality, STANDARD), self.representation)
        score = next((each for each in SCORES if each.kind == self.score), None)
        distil = {"steps": self.steps, "guidance": self.guidance, "negative": self.negative, "score": score}
        mesh = {"faces": self.faces, "texture_size": self.texture}
        settings = replace(
            base,
            survey=replace(base.survey, **given({"views": self.views})),
            observe=replace(base.observe, lens=self.lens),
            distil=replace(base.distil, **given(distil)),
            mesh=replace(base.mesh, **given(mesh)),
            standing=Standing(height=self.height, origin=self.origin_at),
        )
        if score is not None and settings.distil.steps == 0:
            raise InputError(f"`score` must come with a distillation; got {self.score} and no steps. Add --steps 60.")
        return settings

    def _arguments(self, settings: Any) -> dict[str, Any]:
        """Return the arguments of `lift` and `lift_batch`."""
        from viewfold.evaluation.record import score_views

        return {
            "seed": self.seed,
            "tries": self.tries,
            "scorer": score_views,
            "settings": settings,
            **self.origin.arguments(),
        }

    def _open(self) -> Any:
        return open_model(self.model, device=self.device, placement=self.memory, lora=self.lora)

    def _run_one(self, settings: Any) -> None:
        from viewfold.make import lift
        from viewfold.views import Views

        started, out = time.perf_counter(), self._out
        check_places(out, self)
        views = None if self.source is None else Views.load(self.source)
        model = self._open()
        say_notes([*model.text.check(self.prompt), *unnamed_subjects(self.prompt, self.lora)])
        defaults = model.defaults  # of the views; the distillation reads the bare prompt, as the original's does
        model.release_text([self.prompt, settings.distil.negative, defaults.worded(self.prompt), defaults.negative])
        with kept_beside(out) as keeper, progress_bars() as report:
            asset = lift(
                model,
                self.prompt,
                views=views,
                progress=report,
                previews=keeper.show if self.previews else None,
                note=say,
                keeper=keeper,
                **self._arguments(settings),
            )
            save_asset(asset, out, self)
            keeper.clear()
        say_asset(asset, out, started, self)

    def _run_file(self, path: Path, settings: Any) -> None:
        from viewfold.make_batch import lift_batch
        from viewfold.pipeline.batch import read_prompts

        prompts, suffix = read_prompts(path), f".{self.format or 'glb'}"
        check_places(self._out / f"any{suffix}", self)
        model = self._open()
        with progress_bars() as report:
            done = lift_batch(
                model,
                prompts,
                self._out,
                suffix=suffix,
                splats=self.splats,
                turntable=self.turns,
                progress=report,
                note=say,
                **self._arguments(settings),
            )
        print(f"{self._out}: {done.summary()}")
        if done.failed:
            raise PromptError(f"{len(done.failed)} prompts could not be lifted; the rest is done.")


@contextmanager
def kept_beside(out: Path) -> Iterator[Keeper]:
    """Yield the keeper of a result, in a folder beside it; stopped, say that the same command goes on."""
    from viewfold.lifting.keeping import keeping

    folder = out.with_suffix(".lift")
    with keeping(folder, note=say) as keeper:
        try:
            yield keeper
        except KeyboardInterrupt:
            if keeper.holds_state:
                say(f"{folder} keeps the work; the same command goes on from there.")
            raise


def say(line: str) -> None:
    """Show a line above the progress."""
    say_notes([line])
