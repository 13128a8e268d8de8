"""`viewfold lift --mesh`: a texture for a mesh that exists."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from viewfold.cli.model import open_model, say_notes, unnamed_subjects
from viewfold.cli.option import given
from viewfold.cli.progress import progress_bars
from viewfold.cli.result import check_places, save_asset, say_asset
from viewfold.errors import InputError

if TYPE_CHECKING:
    from viewfold.cli.lift import Lift

DRAFT_VIEWS = 8


def retexture_file(options: Lift, mesh: Path, out: Path) -> None:
    """Make the files and say where they are, of options that `check_options` has passed."""
    from viewfold.lifting.retexture import RetextureSettings
    from viewfold.lifting.survey import Survey
    from viewfold.make import retexture
    from viewfold.scene.meshfile import load_mesh
    from viewfold.scene.standing import Standing

    started = time.perf_counter()
    check_places(out, options)
    settings = RetextureSettings(
        faces=options.faces,
        **given({"texture_size": options.texture}),
        standing=Standing(height=options.height, origin=options.origin_at),
        survey=Survey(views=options.views, most=DRAFT_VIEWS if options.quality == "draft" else Survey.most),
    )
    if options.quality == "draft":
        settings = replace(settings, strengths=settings.strengths[:1])
    shape = load_mesh(mesh)
    model = open_model(options.model, device=options.device, placement=options.memory, lora=options.lora)
    say_notes([*model.text.check(options.prompt), *unnamed_subjects(options.prompt, options.lora)])
    model.release_text([model.defaults.worded(options.prompt), model.defaults.negative])
    with progress_bars() as report:
        asset = retexture(
            model,
            options.prompt,
            shape,
            seed=options.seed,
            settings=settings,
            progress=report,
            **options.origin.arguments(),
        )
        save_asset(asset, out, options)
    say_asset(asset, out, started, options)


def check_options(options: Lift) -> None:
    """Refuse what says how to fit or distil, by name: a mesh that exists is neither fitted nor distilled.

    Raises:
        InputError: such an option.
    """
    unused = {
        "from": options.source,
        "tries": None if options.tries == 1 else options.tries,
        "steps": options.steps,
        "guidance": options.guidance,
        "lens": None if options.lens == "cameras" else options.lens,
        "score": options.score,
        "negative": options.negative,
        "representation": options.representation,
        "splats": options.splats or None,
        "previews": options.previews or None,
    }
    for name, value in unused.items():
        if value is not None:
            raise InputError(f"`{name}` must be left out with `mesh`: nothing is fitted or distilled; got {value}.")
    if options.quality not in ("draft", "standard"):
        raise InputError(f"`quality` must be draft or standard with `mesh`; got {options.quality}.")
