"""Write many toys to disk: `<uid>.glb` and `<uid>.json` each, on several processes (`viewfold assets`).

First station of flow 3; `data/render.py` makes pictures of these files.  Work is idempotent: an asset whose two files
exist is skipped, so an interrupted run is finished by starting it again, and several machines may share a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from viewfold.data.toybox import AUTHOR, LICENCE, Asset, Group, sample_toy
from viewfold.data.workers import Workers
from viewfold.errors import InputError, OutputError
from viewfold.scene.export import save_mesh
from viewfold.store import atomic_write, write_json
from viewfold.store.atomic import followed

_CHUNK = 32
"""Assets per task of a worker process."""


@dataclass(frozen=True, kw_only=True)
class AssetsReport:
    """What `write_assets` did."""

    folder: Path
    """Where the files are."""

    written: int
    """Assets made in this run."""

    skipped: int
    """Assets that were complete before it."""

    failures: tuple[tuple[int, str], ...]
    """(seed, reason) of each asset that could not be made, by seed."""

    def __str__(self) -> str:
        lines = [
            f"{self.written} assets written, {self.skipped} already there, {len(self.failures)} failed: {self.folder}"
        ]
        return "\n".join([*lines, *(f"  seed {seed}: {reason}" for seed, reason in self.failures)])


def write_assets(
    folder: str | Path,
    *,
    count: int,
    seed: int = 0,
    held_out: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> AssetsReport:
    """Write the toys of the seeds `seed`, ..., `seed + count - 1`; one that fails is reported and the rest go on.

    Args:
        folder: made if missing.
        count: how many assets, 1 or more.
        seed: of the first asset, 0 or more; ranges that do not overlap share no asset.
        held_out: draw from the combinations kept for measuring instead of those to train on.
        workers: processes; 1 works in this one.
        progress: called with (assets done, count) as the work goes on.

    Raises:
        InputError: a number out of range.
        OutputError: the folder or a file in it cannot be written; what was complete stays.
    """
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"`{name}` must be {least} or more; got {value}.")
    folder = followed(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"`{folder}` cannot be made: {error.strerror}. Name another folder.") from error
    chunks = [range(start, min(start + _CHUNK, seed + count)) for start in range(seed, seed + count, _CHUNK)]
    outcomes: list[tuple[int, str]] = []
    run = _in_this_process if workers == 1 else _in_processes
    for outcome in run(folder, chunks, held_out, min(workers, len(chunks))):
        outcomes += outcome
        if progress is not None:
            progress(len(outcomes), count)
    return AssetsReport(
        folder=folder,
        written=sum(result == "written" for _, result in outcomes),
        skipped=sum(result == "skipped" for _, result in outcomes),
        failures=tuple(sorted((s, result) for s, result in outcomes if result not in ("written", "skipped"))),
    )


def write_asset(asset: Asset | Group, folder: str | Path) -> bool:
    """Write `<uid>.glb`, then `<uid>.json`, each under a temporary name first; return False if both were there."""
    glb, card = (Path(folder) / f"{asset.uid}{suffix}" for suffix in (".glb", ".json"))
    if glb.is_file() and card.is_file():
        return False
    save_mesh(asset.mesh(), glb)
    with atomic_write(card) as temporary:
        write_json(temporary, asset_record(asset))
    return True


def asset_record(asset: Asset | Group) -> dict[str, object]:
    """Return what the JSON file beside a GLB says: captions, what it is, seed, licence, author."""
    return {
        "uid": asset.uid,
        "captions": asset.captions,
        **asset.identity,
        "seed": asset.seed,
        "held_out": asset.held_out,
        "licence": LICENCE,
        "author": AUTHOR,
    }


def _write_chunk(folder: Path, seeds: Iterable[int], held_out: bool) -> list[tuple[int, str]]:
    """Return (seed, "written" | "skipped" | the reason of the failure) for each seed."""
    outcomes = []
    for seed in seeds:
        try:
            written = write_asset(sample_toy(seed, held_out=held_out), folder)
            outcomes.append((seed, "written" if written else "skipped"))
        except OutputError:  # a full disk is not the asset's fault, and the next one would fail as well
            raise
        except Exception as error:  # one bad asset must not end the run; the report names it
            outcomes.append((seed, f"{type(error).__name__}: {error}"))
    return outcomes


def _in_this_process(
    folder: Path, chunks: list[range], held_out: bool, workers: int
) -> Iterator[list[tuple[int, str]]]:
    del workers
    for chunk in chunks:
        for seed in chunk:
            yield _write_chunk(folder, [seed], held_out)


def _in_processes(folder: Path, chunks: list[range], held_out: bool, workers: int) -> Iterator[list[tuple[int, str]]]:
    with Workers(workers) as pool:
        tasks = {pool.submit(_write_chunk, folder, chunk, held_out): chunk for chunk in chunks}
        for task in as_completed(tasks):
            error = task.exception()
            if isinstance(error, OutputError):
                raise error
            # a worker that was killed takes its chunk, and those after it, with it
            yield task.result() if error is None else [(s, f"{type(error).__name__}: {error}") for s in tasks[task]]
