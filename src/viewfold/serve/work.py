"""What a worker does with a job: its folder says what is asked, and gets what comes of it.

    request.json                      what was asked for
    views/, asset.glb ...             what was made
    lora.safetensors, posed/          what was learned
    lift/, learn/                     kept while it runs, so that a job whose worker was killed goes on

Knows folders and models, not the queue: any process on any machine that sees the folder may do it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from viewfold.errors import AssetError, InputError, MissingExtraError, ViewfoldError
from viewfold.serve.attempt import Cancelled
from viewfold.serve.folder import jobs_folder, picture_path
from viewfold.serve.journal import Journal
from viewfold.serve.progress import clear, read_progress
from viewfold.serve.request import Make, Personalize, Request
from viewfold.store import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from viewfold.pipeline import MultiViewPipeline
    from viewfold.views import Views

REQUEST, VIEWS, ASSET, LORA = "request.json", "views", "asset", "lora.safetensors"

KEPT_LIFT, KEPT_LEARNING = "lift", "learn"

THUMB, THUMB_PX = "thumb.webp", 192

MESH_PHASES = ("fit", "distil", "mesh", "polish", "texture", "check", "save")

PREVIEW_EVERY_S = 1.0


def begin(data: Path, job: str, owner: str, request: dict[str, Any]) -> None:
    """Make a job's folder, from which it can be done anywhere."""
    folder = jobs_folder(data) / job
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / REQUEST) as temporary:
        write_json(temporary, {"owner": owner, "request": request})


def read_request(folder: Path) -> tuple[Make | Personalize, str]:
    """Return what a job's folder says is asked for, and by whom."""
    told = read_json(folder / REQUEST)
    return TypeAdapter(Request).validate_python(told["request"]), told["owner"]


@dataclass
class Models:
    """The model that a worker holds: loading one takes longer than drawing with it."""

    device: str | None = None
    open: Callable[..., MultiViewPipeline] | None = None
    """Loads a model; None: `viewfold.load`."""
    _name: tuple[str, bool] | None = None
    _model: Any = None
    _subjects: tuple[Path, ...] | None = ()
    """None: not known, since one could not be read."""

    def get(self, name: str, *, subjects: Sequence[Path] = (), exact: bool = False) -> MultiViewPipeline:
        """Return a model with what it learned of some subjects, and of no other.

        Args:
            name: of the model.
            subjects: LoRA files.
            exact: in float32, to be trained.
        """
        import torch

        from viewfold.pipeline import load

        if self._name != (name, exact):
            self._model, self._name, self._subjects = None, None, ()  # or two of them are in memory at once
            self._model = (self.open or load)(name, device=self.device, dtype=torch.float32 if exact else None)
            self._name = (name, exact)
        if self._subjects != tuple(subjects):
            self._subjects = None
            self._model.unload_lora_weights()
            for path in subjects:
                self._model.load_lora_weights(path)
            self._subjects = tuple(subjects)
        return self._model


def do(data: Path, job: str, models: Models, *, stopping: Callable[[], None] | None = None) -> dict[str, Any]:
    """Do a job and return its figures.

    Args:
        data: the data folder.
        job: its name.
        models: what the worker holds.
        stopping: called at every step; raises if the job is to end, `Cancelled` or `Stopped`.

    Raises:
        ViewfoldError: what the job asks for cannot be done.
    """
    folder = jobs_folder(data) / job
    asked, owner = read_request(folder)
    began = time.monotonic()
    try:
        if isinstance(asked, Personalize):
            figures = _personalize(data, folder, asked, owner, models, stopping)
        elif asked.quality == "views":
            figures = _draw(data, folder, asked, models, stopping)
        else:
            figures = _lift(data, folder, asked, models, stopping)
    except (Cancelled, ViewfoldError):
        for kept in (KEPT_LIFT, KEPT_LEARNING):  # nobody goes on from there
            shutil.rmtree(folder / kept, ignore_errors=True)
        raise
    told = read_progress(folder) or {}
    clear(folder)
    return figures | {"notes": told.get("notes", []), "seconds": round(time.monotonic() - began, 2)}


def _draw(data: Path, folder: Path, asked: Make, models: Models, stopping: Any) -> dict[str, Any]:
    """Draw views."""
    from viewfold.camera import Cameras
    from viewfold.evaluation.record import score_views
    from viewfold.pipeline import generate
    from viewfold.pipeline.tries import best_of

    journal = Journal(folder, phases=("load", "generate", "save"), stopping=stopping)
    model = _open(data, asked, models, journal)
    place = model.defaults
    cameras = Cameras.orbit(asked.views or 4, elevation_deg=place.elevation_deg, azimuth_deg=place.azimuth_deg)

    def draw(seed: int) -> Views:
        drawn = (seed - asked.seed) * _steps(model, asked)

        def report(step: int, steps: int) -> None:
            journal("generate", drawn + step, asked.tries * steps)

        return generate(
            model,
            asked.prompt,
            cameras=cameras,
            seed=seed,
            negative=asked.negative,
            guidance=asked.guidance,
            steps=asked.steps,
            progress=report,
            previews=lambda step, steps, rgb: journal.show(rgb),
        )

    seeds = range(asked.seed, asked.seed + asked.tries)
    views = draw(asked.seed) if asked.tries == 1 else best_of(draw, seeds, score_views)
    journal.show(views.over())
    journal("save", 0, 1)
    return _save_views(folder, views)


def _lift(data: Path, folder: Path, asked: Make, models: Models, stopping: Any) -> dict[str, Any]:
    """Draw views and lift them; what a killed lift kept is gone on from."""
    from viewfold.evaluation.record import score_views
    from viewfold.lifting.keeping import keeping
    from viewfold.lifting.presets import DRAFT, HIGH, STANDARD
    from viewfold.lifting.preview import Preview
    from viewfold.make import Drawing, lift

    settings = {"draft": DRAFT, "standard": STANDARD, "high": HIGH}[asked.quality]
    if asked.views is not None:
        settings = replace(settings, survey=replace(settings.survey, views=asked.views))
    if asked.negative is not None:
        settings = replace(settings, distil=replace(settings.distil, negative=asked.negative))
    phases = tuple(name for name in MESH_PHASES if name != "distil" or settings.distil.steps)
    journal = Journal(folder, phases=("load", "generate", *phases), stopping=stopping)
    model = _open(data, asked, models, journal)

    def show(preview: Preview) -> None:
        journal.show(preview.rgb)

    with keeping(folder / KEPT_LIFT, every_s=20.0, note=journal.note) as keeper:
        asset = lift(
            model,
            asked.prompt,
            seed=asked.seed,
            tries=asked.tries,
            scorer=score_views,
            settings=settings,
            drawing=Drawing(steps=asked.steps, guidance=asked.guidance, negative=asked.negative),
            progress=journal,
            previews=show,
            preview_every_s=PREVIEW_EVERY_S,
            note=journal.note,
            keeper=keeper,
        )
        journal("save", 0, 3)
        figures = _save_views(folder, asset.views)
        journal("save", 1, 3)
        asset.save(folder / f"{ASSET}.glb")
        journal("save", 2, 3)
        _save_others(folder, asset)
        journal("save", 3, 3)
        keeper.clear()
    names = ("faces", "watertight", "components", "rerender_psnr_db", "silhouette_iou")
    return figures | {name: asset.report[name] for name in names if asset.report.get(name) is not None}


def _personalize(
    data: Path, folder: Path, asked: Personalize, owner: str, models: Models, stopping: Any
) -> dict[str, Any]:
    """Teach the model a subject; a killed training goes on."""
    from viewfold.data.photos import read_photos
    from viewfold.personalization import check_subject, personalize
    from viewfold.training.subject import SubjectSettings
    from viewfold.weights.lora_file import lora_path

    journal = Journal(folder, phases=("load", "poses", "prior", "train", "save"), stopping=stopping)
    journal("load", 0, 1)
    model = models.get(asked.model, exact=True)
    journal("load", 1, 1)
    for line in check_subject(model, asked.subject, asked.class_):
        journal.note(line)
    settings = SubjectSettings()
    loop = replace(settings.loop, seed=asked.seed, **({} if asked.steps is None else {"steps": asked.steps}))
    pictures = _gather(data, folder, asked, owner)
    photos = read_photos(pictures, size=model.image_size)
    if photos.failed:
        raise AssetError("`pictures` must all be readable; " + "; ".join(f"{n}: {why}" for n, why in photos.failed))
    for line in photos.notes:
        journal.note(line)
    _save_thumb(folder, photos.photos[0].path)

    def trained(status: Any) -> None:
        journal("train", status.step, status.steps, loss=float(status.scalars.get("loss", float("nan"))))

    made = personalize(
        model,
        photos,
        subject=asked.subject,
        class_name=asked.class_,
        out=folder / KEPT_LEARNING,
        settings=replace(settings, loop=loop),
        stage=journal,
        found=lambda views: journal.show(views.over()),
        progress=trained,
    )
    journal("save", 0, 1)
    with atomic_write(folder / LORA) as temporary:
        shutil.copyfile(lora_path(made.path), temporary)
    if made.posed is not None:
        made.posed.save(folder / "posed", turntable=False)
    shutil.rmtree(folder / KEPT_LEARNING)
    shutil.rmtree(pictures)
    return {"steps": made.report.get("steps"), "pictures": len(photos.photos)}


def _open(data: Path, asked: Make, models: Models, journal: Journal) -> MultiViewPipeline:
    """Return the model that a prompt is drawn with, and say what there is to know about the prompt."""
    journal("load", 0, 1)
    subjects = [jobs_folder(data) / job / LORA for job in asked.subjects]
    gone = next((job for job, path in zip(asked.subjects, subjects, strict=True) if not path.is_file()), None)
    if gone is not None:
        raise InputError(f"`subjects` must be jobs that learned something and are still there; got {gone}.")
    model = models.get(asked.model, subjects=subjects)
    for line in model.text.check(asked.prompt):
        journal.note(line)
    journal("load", 1, 1)
    return model


def _steps(model: MultiViewPipeline, asked: Make) -> int:
    return model.defaults.steps if asked.steps is None else asked.steps


def _save_views(folder: Path, views: Views) -> dict[str, Any]:
    """Save views and what the list of jobs shows of them; return how well they agree."""
    from viewfold.evaluation.record import score_views
    from viewfold.picture import to_pil

    views.save(folder / VIEWS)
    front = to_pil(views.over()[0])
    front.thumbnail((THUMB_PX, THUMB_PX))
    with atomic_write(folder / THUMB) as temporary:
        front.save(temporary, format="WEBP", quality=85)
    return {"views": len(views), **({"agreement": round(score_views(views), 4)} if len(views) > 1 else {})}


def _save_thumb(folder: Path, picture: Path) -> None:
    from viewfold.picture import read_image, to_pil

    front = to_pil(read_image(picture)[:3])
    front.thumbnail((THUMB_PX, THUMB_PX))
    with atomic_write(folder / THUMB) as temporary:
        front.save(temporary, format="WEBP", quality=85)


def _save_others(folder: Path, asset: Any) -> None:
    """Write the asset in the other formats: small files, and nobody has to wait for one later."""
    for kind in ("obj", "ply", "stl", "usdz"):
        place = folder / ASSET if kind == "obj" else folder  # an OBJ has a material and a picture beside it
        place.mkdir(exist_ok=True)
        with suppress(MissingExtraError):  # usd-core
            _save_mesh(asset, place / f"{ASSET}.{kind}")


def _save_mesh(asset: Any, path: Path) -> None:
    """Write an asset's mesh without the turntable and the report, which are there already."""
    from viewfold.scene.export import save_mesh

    save_mesh(asset.standing.apply(asset.mesh), path, label=asset.label, name=asset.prompt)


def _gather(data: Path, folder: Path, asked: Personalize, owner: str) -> Path:
    """Copy the pictures of a request into the job's folder, which is whole from then on."""
    place = folder / "pictures"
    if place.is_dir():
        return place
    with atomic_write(place) as temporary:
        temporary.mkdir()
        for number, picture in enumerate(asked.pictures):
            found = picture_path(data, picture, owner)
            if not found.is_file():
                raise InputError(f"`pictures` must be on the server; {picture} is not any more. Send it again.")
            shutil.copyfile(found, temporary / f"{number:03d}.png")
    return place
