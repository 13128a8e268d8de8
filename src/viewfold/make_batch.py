"""From a list of prompts to a 3D asset each: start it again and it goes on where it stopped.

Beside `make`, whose `lift` makes each; the list is shared and gone through as `pipeline.batch` does with views.  An
asset's files share a stem that depends on its prompt, all settings and the model, and on nothing else: what another
model or other settings made has another name.  Its report tells that, as `unit`, and the doubts about the prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from viewfold.errors import InputError, ViewfoldError
from viewfold.formats import MESHES
from viewfold.lifting.asset import Turntable, check_place
from viewfold.lifting.keeping import Note, keeping
from viewfold.lifting.presets import STANDARD
from viewfold.lifting.stages import LiftSettings
from viewfold.make import lift
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline import BatchReport, MultiViewPipeline
from viewfold.pipeline.batch import describe_maker, unit_name, work_through
from viewfold.pipeline.hook import OriginHook
from viewfold.pipeline.tries import Scorer
from viewfold.store import read_json


def lift_batch(
    model: MultiViewPipeline,
    prompts: Iterable[str],
    out: str | Path,
    *,
    suffix: str = ".glb",
    splats: bool = False,
    turntable: bool | Turntable = True,
    seed: int = 0,
    tries: int = 1,
    scorer: Scorer | None = None,
    settings: LiftSettings | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Callable[[str, int, int], None] | None = None,
    note: Note | None = None,
) -> BatchReport:
    """Make a 3D asset of each prompt, with its turntable and report; finished ones are skipped, bad ones reported.

    Several processes may be given one list and one folder: each prompt is lifted by one of them, and each returns when
    all of the list is done.  The one that a killed process was at goes on from what it kept (`lifting.keeping`).

    Args:
        model: what `load` returned.
        prompts: texts; repeated ones are made once.
        out: the folder of all files: "a-red-mug-0123456789.glb", .webp and .json.
        suffix, splats, turntable: the kind of the meshes, and what comes along, see `Asset3D.save`.
        seed, tries, scorer, settings, origin: the same for every prompt, see `lift`; neither `scorer` nor `origin`
            tells assets apart.
        progress: called with ("prompts", done, all) before the first and after each that is not there already.
        note: see `lift`.

    Raises:
        OutputError: the disk is full or cannot be written (the rest would fail as well).
        InputError: a setting that no prompt could satisfy, or another suffix.
        MissingExtraError: a package that every prompt would need.
    """
    if suffix not in MESHES:
        raise InputError(f"`suffix` must be one of {', '.join(MESHES)}; got {suffix!r}.")
    settings = settings or STANDARD
    same: dict[str, Any] = {"seed": seed, "tries": tries, "scorer": scorer, "settings": settings, "origin": origin}
    shown = [] if turntable in (True, "webp") else [f"turntable {turntable or 'none'}"]
    common = [
        seed,
        tries,
        *["splats"] * splats,
        *shown,
        asdict(settings),
        asdict(model.defaults),
        describe_maker(model),
    ]
    units = {prompt: hashlib.sha256(json.dumps([prompt, *common]).encode()).hexdigest() for prompt in prompts}
    places = {prompt: Path(out) / (unit_name(prompt, unit) + suffix) for prompt, unit in units.items()}

    def is_finished(prompt: str, path: Path) -> bool:
        return path.is_file() and _unit_of(path) == units[prompt]

    def make(prompt: str, path: Path) -> None:
        check_place(path, splats=splats, turntable=turntable)
        with keeping(path.with_suffix(".lift"), note=note) as keeper:
            if not is_finished(prompt, path):  # else a killed process had all but moved it
                said = {"unit": units[prompt], "warnings": model.text.check(prompt)}
                asset = lift(model, prompt, **same, note=note, keeper=keeper)
                replace(asset, report=asset.report | said).save(path, splats=splats, turntable=turntable)
            keeper.clear()

    missing = {path for path in places.values() if not path.is_file()}

    def report(path: Path | None = None) -> None:
        if progress is not None and (path is None or path in missing):
            missing.discard(path)  # type: ignore[arg-type]
            progress("prompts", len(places) - len(missing), len(places))

    report()
    return work_through(places, out, make, is_finished=is_finished, progress=lambda prompt, path: report(path))


def _unit_of(path: Path) -> str | None:
    """Return what the report beside an asset says that it is of; None where there is none that can be read."""
    try:
        return read_json(path.with_suffix(".json")).get("unit")
    except (ViewfoldError, AttributeError):
        return None
