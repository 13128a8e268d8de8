"""Many prompts, one folder or file each: start it again and it goes on where it stopped.

A unit of work is a prompt with its settings.  Its folder's name depends on nothing else, and the folder appears whole
or not at all: one that exists is a finished unit.  Processes, and machines that share a disk, may work on one list:
each claims a unit before it draws it, and takes over those of one that is gone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError, MissingExtraError, OutputError, PromptError, ViewfoldError
from viewfold.origin.hook import ORIGIN
from viewfold.pipeline.generation import describe_run, generate, orbit
from viewfold.pipeline.hook import OriginHook
from viewfold.pipeline.multiview import MultiViewPipeline
from viewfold.store import Claims, read_json, read_regular

_SLUG_LENGTH, _HASH_LENGTH = 40, 10

_LOOK_S = 1.0
"""Between two looks at what other processes are drawing."""


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What became of a list of prompts."""

    done: list[Path] = field(default_factory=list)
    """Folders, or files, written by this run."""

    skipped: list[Path] = field(default_factory=list)
    """Those that were there already, or that another process made meanwhile."""

    failed: dict[str, str] = field(default_factory=dict)
    """Prompts that could not be made, and why."""

    def summary(self) -> str:
        """Return one line for people, and one for each failure."""
        lines = [f"{len(self.done)} made, {len(self.skipped)} there already, {len(self.failed)} failed"]
        return "\n".join([*lines, *(f"  {prompt[:60]!r}: {reason}" for prompt, reason in self.failed.items())])


def generate_batch(
    model: MultiViewPipeline,
    prompts: Iterable[str],
    out: str | Path,
    *,
    cameras: Cameras | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    rescale: float = 0.0,
    negative: str | None = None,
    suffix: str | None = None,
    origin: OriginHook | None = ORIGIN,
    progress: Callable[[str, Path], None] | None = None,
) -> BatchReport:
    """Generate views of each prompt into a folder of its own; finished ones are skipped, bad ones reported.

    Several processes may be given one list and one folder: each prompt is drawn by one of them, and each returns when
    all of the list is done.

    Args:
        model: what `load` returned.
        prompts: texts; repeated ones are made once.
        out: the folder of folders.
        cameras, seed, steps, guidance, rescale, negative, suffix: the same for every prompt, see `generate`.
        origin: likewise; it does not tell units apart.
        progress: called with each prompt and its folder when it is done, skipped or has failed.

    Raises:
        OutputError: the disk is full or cannot be written (the rest would fail as well).
        InputError: a setting that no prompt could satisfy, or a finished folder that another model, number type,
            scheduler or LoRA file made: nothing is drawn then.
        AssetError: the record of a finished folder is damaged.
    """
    defaults = model.defaults
    cameras = orbit(defaults) if cameras is None else cameras
    settings = {
        "seed": seed,
        "steps": defaults.steps if steps is None else steps,
        "guidance": defaults.guidance if guidance is None else guidance,
        "rescale": rescale,
        "negative": defaults.negative if negative is None else negative,
    }
    if suffix := defaults.suffix if suffix is None else suffix:
        settings["suffix"] = suffix  # where there is none, folders keep the names that they always had
    elif defaults.suffix:
        settings["suffix"] = ""
    folders = {prompt: Path(out) / folder_name(prompt, cameras=cameras, **settings) for prompt in prompts}
    _check_same_run([folder for folder in folders.values() if (folder / "run.json").is_file()], model)

    def draw(prompt: str, folder: Path) -> None:
        generate(model, prompt, cameras=cameras, origin=origin, **settings).save(folder)

    return work_through(folders, out, draw, is_finished=_is_drawn, progress=progress)


def _is_drawn(prompt: str, folder: Path) -> bool:
    return (folder / "run.json").is_file()


def work_through(
    places: Mapping[str, Path],
    out: str | Path,
    make: Callable[[str, Path], object],
    *,
    is_finished: Callable[[str, Path], bool],
    progress: Callable[[str, Path], None] | None = None,
) -> BatchReport:
    """Make what is missing of a list, together with other processes that were given the same one.

    Args:
        places: each prompt's folder or file, in `out`; its name is what a process claims.
        out: the folder of all of them.
        make: makes one prompt's there, whole or not at all.
        is_finished: whether that has been done.
        progress: called with each prompt and its place when it is done, skipped or has failed.

    Raises:
        OutputError, MissingExtraError, InputError: what would happen to the rest as well ends the list; every other
            failure, and a PromptError, is one prompt's, and reported.
    """
    report = BatchReport()
    with Claims(out) as claims:
        for prompt, place in _shared(places, claims, is_finished):
            if is_finished(prompt, place):
                report.skipped.append(place)
            else:
                try:
                    make(prompt, place)
                    report.done.append(place)
                except (OutputError, MissingExtraError):
                    raise
                except InputError as error:
                    if not isinstance(error, PromptError):
                        raise
                    report.failed[prompt] = str(error)
                except ViewfoldError as error:
                    report.failed[prompt] = str(error)
            if progress is not None:
                progress(prompt, place)
    return report


def _shared(
    places: Mapping[str, Path], claims: Claims, is_finished: Callable[[str, Path], bool]
) -> Iterator[tuple[str, Path]]:
    """Yield each prompt and its place when it is finished or this process's to make; wait for those of others."""
    left = list(places.items())
    while left:
        elsewhere = []
        for prompt, place in left:
            if is_finished(prompt, place):
                yield prompt, place
            elif claims.take(place.name):
                try:
                    yield prompt, place
                finally:
                    claims.release(place.name)
            else:
                elsewhere.append((prompt, place))
        left = elsewhere
        if left:
            time.sleep(_LOOK_S)


def _check_same_run(finished: list[Path], model: MultiViewPipeline) -> None:
    """Refuse to go on with what was made in another way that the names of the folders do not tell."""
    now = describe_maker(model)
    for folder in finished:
        path = folder / "run.json"
        try:
            then = _maker(read_json(path))
        except (KeyError, TypeError) as error:
            raise AssetError(
                f"`{path}` must tell how the views were made; it is damaged. Remove its folder."
            ) from error
        other = [f"{what} {then[what]}, now {now[what]}" for what in now if now[what] != then[what]]
        if other:
            raise InputError(
                f"`out` must hold results of the same run to be gone on with; {folder} was made with "
                f"{'; '.join(other)}. Name another folder, or remove that one."
            )


def describe_maker(model: MultiViewPipeline) -> dict[str, str]:
    """Return what tells a model's work from another's, in words: weights, number type, LoRA files, scheduler."""
    return _maker({**describe_run(model), "scheduler": type(model.scheduler).__name__})


def _maker(run: dict[str, Any]) -> dict[str, str]:
    """Return what made the views, in words; the hash counts the LoRA files and is that of the type computed in."""
    loras = [f"{lora['file']}:{lora['scale']} {lora['sha256'][:8]}" for lora in run.get("lora", ())]
    return {
        "weights": run["weights_sha256"][:8],
        "type": run["dtype"],
        "LoRA": " + ".join(loras) or "none",
        "scheduler": run["scheduler"],
    }


def folder_name(prompt: str, *, cameras: Cameras, **settings: object) -> str:
    """Return a name that a person can read and that is the same only for the same prompt, cameras and settings."""
    poses = cameras.world_from_camera.round(decimals=4).add(0.0).tolist()  # adding 0 turns -0 into 0
    unit = json.dumps([prompt, poses, cameras.fov_deg.tolist(), settings], sort_keys=True)
    return unit_name(prompt, hashlib.sha256(unit.encode()).hexdigest())


def unit_name(prompt: str, digest: str) -> str:
    """Return the prompt's first words and the beginning of what tells it and its settings from all others."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-") or "prompt"
    return f"{words}-{digest[:_HASH_LENGTH]}"


def read_prompts(path: str | Path) -> list[str]:
    """Read a file with one prompt a line; empty lines and lines that start with # are left out.

    Raises:
        InputError: the file is missing, too large, not UTF-8 text, or holds no prompt.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"`prompts` must be a text file; {path} is a folder, a pipe or a device.")
    try:
        text = read_regular(path, max_bytes=limits.PROMPT_FILE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            reason = f"it must be at most {limits.PROMPT_FILE_BYTES} bytes"
        raise InputError(f"`prompts` must be a text file, a prompt a line; {path} cannot be read: {reason}.") from error
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"`prompts` must hold at least one prompt; {path} holds none.")
    return prompts
