"""A trial: what each model draws of each prompt from each seed; start it again and it goes on.

Beside `make_batch`: `pipeline.batch` draws a list with one model and one seed, here are all of them, one model at a
time, each drawing in `OUT/MODEL/SEED/PROMPT`.  Knows no measure; `viewfold evaluate` joins the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import FileError, InputError
from viewfold.pipeline import MultiViewPipeline
from viewfold.pipeline.batch import generate_batch
from viewfold.pipeline.generation import orbit
from viewfold.weights.location import find_model

SEEDS = 1000
"""Most of one trial."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What became of one prompt with one model and one seed."""

    model: str
    """As its folder is called."""
    seed: int
    prompt: str
    folder: Path | None
    """Where the views are; None of what could not be drawn."""
    reason: str = ""
    """Why it could not be."""

    @property
    def name(self) -> str:
        """Of what could not be drawn, for people."""
        return f"{self.model}, seed {self.seed}, {self.prompt[:60]!r}"


def draw_all(
    models: Sequence[str],
    prompts: Iterable[str],
    seeds: Sequence[int],
    out: str | Path,
    *,
    open_model: Callable[[str], MultiViewPipeline],
    n_views: int = 4,
    steps: int | None = None,
    guidance: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Drawing]:
    """Draw every prompt with every model and seed; yield what became of each, a model and seed at a time.

    Models are loaded one after the other, and each when the one before is done.  What is there already is not drawn
    again.  A model that cannot be read is told of each of its drawings, and the others are drawn.

    Args:
        models: names, folders or files, as `load` takes them.
        prompts: texts; repeated ones are drawn once.
        seeds: different from each other.
        out: the folder of all.
        open_model: loads one.
        n_views: around the object, from each model's own height and direction.
        steps, guidance: the same for all; each model's own where they are None.
        progress: called with (model and seed, drawn, all) after each.

    Raises:
        WeightsError: a model of this name is not there; nothing is drawn then.
        InputError: no model, no seed, one twice, two models of one name, or a setting that no prompt could satisfy.
        OutputError: the disk is full or cannot be written.
    """
    prompts = list(dict.fromkeys(prompts))
    names = name_models(models)
    if not seeds or len(set(seeds)) < len(seeds) or len(seeds) > SEEDS:
        raise InputError(
            f"`seeds` must be 1 to {SEEDS} different numbers; got {len(seeds)}, {len(set(seeds))} different."
        )
    for model in models:
        find_model(model)  # a slip of the pen in the last is told before the first has drawn for an hour
    settings = {"n_views": n_views, "steps": steps, "guidance": guidance}
    return _draw_all(dict(zip(names, models, strict=True)), prompts, seeds, Path(out), open_model, progress, settings)


def name_models(models: Sequence[str]) -> list[str]:
    """Return what the folders of the models' drawings are called.

    Raises:
        InputError: there is none, or two would be called the same.
    """
    names = [re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model" for model in models]
    if not names:
        raise InputError("`models` must name at least one model.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"`models` must have names of their own; {', '.join(twice)} is there twice. Rename a folder.")
    return names


def _draw_all(
    models: dict[str, str],
    prompts: list[str],
    seeds: Sequence[int],
    out: Path,
    open_model: Callable[[str], MultiViewPipeline],
    progress: Callable[[str, int, int], None] | None,
    settings: dict[str, Any],
) -> Iterator[Drawing]:
    n_views = settings.pop("n_views")
    for name, given in models.items():
        try:
            model = open_model(given)
        except FileError as error:
            for seed in seeds:
                for prompt in prompts:
                    yield Drawing(model=name, seed=seed, prompt=prompt, folder=None, reason=str(error))
            continue
        cameras = orbit(model.defaults, n_views=n_views)
        for seed in seeds:
            places: dict[str, Path] = {}

            def note(
                prompt: str, folder: Path, places: dict[str, Path] = places, label: str = f"{name} {seed}"
            ) -> None:
                places[prompt] = folder
                if progress is not None:
                    progress(label, len(places), len(prompts))

            place = out / name / str(seed)
            done = generate_batch(model, prompts, place, cameras=cameras, seed=seed, progress=note, **settings)
            for prompt in prompts:
                reason = done.failed.get(prompt, "")
                folder = None if reason else places[prompt]
                yield Drawing(model=name, seed=seed, prompt=prompt, folder=folder, reason=reason)
        del model  # before the next one asks for its memory
