"""What `viewfold evaluate` does beside printing: a page of what was measured, and what is drawn for it first."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from viewfold.cli.model import Device, open_model
from viewfold.cli.option import unset
from viewfold.cli.placement import PlacementFlags
from viewfold.cli.progress import progress_bars
from viewfold.errors import InputError
from viewfold.formats import READ_MESHES, RENDER_RECORD, VIEW_RECORDS

if TYPE_CHECKING:
    from viewfold.cli.evaluate import Evaluate

SPLATS = ".splats.ply"
"""Beside a mesh: no mesh."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What is to be measured, and the folder that it was found in: the run that it belongs to."""

    path: Path
    run: str = ""
    name: str = ""
    """Its place in that folder."""


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """A page of what was measured: the verdict with intervals, the worst first; several folders side by side."""

    report: Annotated[Path | None, unset("FOLDER")] = None
    """Also write report.html and report.json there; PATHS that hold the same prompts are compared."""
    worst: int = 12
    """How many of each run, the worst first, the page shows with pictures; all are in its table."""

    def folder(self, survey: SurveyFlags) -> Path | None:
        """Return where the report is written, if one is asked for."""
        return self.report or survey.folder


@dataclass(frozen=True, kw_only=True)
class SurveyFlags:
    """Draw what is measured: every prompt of a file, with every model and seed."""

    model: Annotated[tuple[str, ...], unset("MODEL ...")] = ()
    """With --prompts: the models that draw, one or more."""
    prompts: Annotated[Path | None, unset("FILE")] = None
    """A text file with one prompt a line, drawn into --out and measured instead of PATHS; finished ones are kept."""
    seed: Annotated[str, unset("INT[,INT ...]")] = "0"
    """With --prompts: the seeds of every prompt and model; by default 0."""
    out: Annotated[Path | None, unset("FOLDER")] = None
    """With --prompts: where MODEL/SEED/PROMPT and the report are written; by default out/ and the file's name."""
    views: int = 4
    """With --prompts: how many are drawn."""
    steps: Annotated[int | None, unset("INT")] = None
    """With --prompts: denoising steps; by default the model's own."""
    guidance: Annotated[float | None, unset("FLOAT")] = None
    """With --prompts: how closely to follow the prompt; by default the model's own."""

    @property
    def folder(self) -> Path | None:
        """Where all is drawn; None where nothing is."""
        return None if self.prompts is None else self.out or Path("out") / self.prompts.stem

    def draw(self, failed: list[tuple[str, str]], *, device: Device) -> list[Thing]:
        """Draw what is missing and return all; what could not be drawn goes to `failed`."""
        from viewfold.camera import Cameras
        from viewfold.pipeline.batch import read_prompts
        from viewfold.trial import draw_all

        assert self.prompts is not None and self.folder is not None
        prompts, seeds = read_prompts(self.prompts), parse_seeds(self.seed)
        Cameras.orbit(self.views)  # a number that cannot be used is refused before anything is loaded
        things = []
        with progress_bars() as report:
            drawings = draw_all(
                self.model or ("toybox",),
                prompts,
                seeds,
                self.folder,
                open_model=lambda name: open_model(name, device=device, placement=PlacementFlags()),
                n_views=self.views,
                steps=self.steps,
                guidance=self.guidance,
                progress=report,
            )
            for drawing in drawings:
                if drawing.folder is None:
                    failed.append((drawing.name, drawing.reason))
                else:
                    things.append(Thing(path=drawing.folder, run=drawing.model, name=drawing.folder.name))
        return things


def parse_seeds(words: str) -> list[int]:
    """Return the numbers of "0,1,2".

    Raises:
        InputError: something else than whole numbers with commas between.
    """
    try:
        return [int(word) for word in words.split(",")]
    except ValueError as error:
        raise InputError(f"`seed` must be whole numbers with commas between, such as 0,1; got '{words}'.") from error


def find_things(paths: Iterable[Path]) -> Iterator[Thing]:
    """Yield what is to be measured: of a folder without cameras the folders of views and the meshes within it."""
    for path in paths:
        if not path.is_dir() or has_cameras(path):
            yield Thing(path=path, name=path.name)
            continue
        within = sorted(place for place in path.rglob("*") if _is_thing(place))
        for place in within or [path]:
            yield Thing(path=place, run=str(path), name=str(place.relative_to(path)))


def _is_thing(place: Path) -> bool:
    if place.is_dir():
        return has_cameras(place)
    is_mesh = place.suffix.lower() in READ_MESHES and not place.name.lower().endswith(SPLATS)
    return is_mesh and not has_cameras(place.parent)  # a cloud of points beside photographs is theirs


def has_cameras(folder: Path) -> bool:
    """Return whether a folder is one of views."""
    is_render = (folder / RENDER_RECORD).is_file() and next(folder.glob("000.*"), None) is not None
    return is_render or any((folder / name).is_file() for name in VIEW_RECORDS)


def check_flags(verb: Evaluate) -> None:
    """Refuse what contradicts itself before anything is drawn or measured.

    Raises:
        InputError: flags that do not go together, or nothing to measure.
        OutputError: a place where the report cannot be written.
    """
    from viewfold.evaluation.publication import DOCUMENT, PAGE
    from viewfold.store import check_output

    survey, page = verb.survey, verb.page
    if survey.prompts is None:
        blank = SurveyFlags()
        odd = [f.name for f in dataclasses.fields(survey) if getattr(survey, f.name) != getattr(blank, f.name)]
        if odd:
            raise InputError(f"`{odd[0]}` must go with `prompts`, a file of what is to be drawn.")
        if not verb.paths:
            raise InputError("`paths` must name at least one folder of views or mesh.")
    elif verb.paths or verb.reference is not None:
        given = "paths" if verb.paths else "reference"
        raise InputError(f"`{given}` must be left out with `prompts`: the views that they draw are measured.")
    elif survey.views < (least := 8 if verb.halves else 2):
        raise InputError(f"`views` must be {least} or more to be measured; got {survey.views}.")
    if len({path.resolve() for path in verb.paths}) < len(verb.paths) and page.report is not None:
        raise InputError("`paths` must each be there once in a report; one is named twice.")
    if page.worst < 0:
        raise InputError(f"`worst` must be 0 or more; got {page.worst}.")
    if (folder := page.folder(survey)) is not None:
        for name in (PAGE, DOCUMENT):
            check_output(folder / name)


def refuse_beside(verb: object, what: str, heeded: Iterable[str]) -> None:
    """Refuse a flag that is given beside `what`, which heeds only some.

    Raises:
        InputError: there is one.
    """
    known = {what, *heeded}
    for field, value, default in _fields(verb):
        if field.name not in known and value != default:
            raise InputError(f"`{field.name}` must go without `{what}`, which does not heed it.")


def write_report(verb: Evaluate, cases: list[Any], failed: list[tuple[str, str]]) -> None:
    """Write the page and the file of what was measured, and say where they are."""
    from viewfold.evaluation.findings import find
    from viewfold.evaluation.publication import write_findings

    folder = verb.page.folder(verb.survey)
    if folder is None:
        return
    findings = find(cases, failed, command=command_of("evaluate", verb), machine=describe_machine())
    page, document = write_findings(findings, folder, worst=verb.page.worst)
    print(f"{page}: {len(cases)} measured, {len(failed)} left out; {document}", file=sys.stderr if verb.json else None)


def describe_machine() -> dict[str, str]:
    """Return what the figures were measured on, in words, without the machine's own name."""
    import torch

    import viewfold

    threads = torch.get_num_threads()
    system = f"{platform.system()} {platform.machine()}, {threads} thread{'s' * (threads != 1)}"
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    versions = f"viewfold {viewfold.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return {"Machine": system + gpu, "Versions": versions}


def command_of(name: str, verb: object) -> str:
    """Return the command line of a verb: what differs from its defaults, as a shell takes it."""
    words, flags = [], []
    for field, value, default in _fields(verb):
        if "Positional" in str(field.type):
            words += map(str, value)
        elif value != default:
            flag = "--" + field.name.replace("_", "-")
            values = [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
            flags += [flag] if value is True else [flag, *values]
    return shlex.join(["viewfold", name, *words, *flags])


def _fields(verb: Any) -> Iterator[tuple[Any, Any, Any]]:
    for field in dataclasses.fields(verb):
        value = getattr(verb, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        else:
            yield field, value, field.default
