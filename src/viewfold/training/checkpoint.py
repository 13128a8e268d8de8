"""Checkpoints of a run: written whole or not at all, the newest few kept, resumed only by the run that they are of.

A checkpoint is a folder `checkpoint-STEP`: safetensors (PyTorch's distributed checkpoint, a file a process under FSDP,
so that another number of processes can read it) and record.json with all that decides how the run goes on.  Nothing in
it is a pickle.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from viewfold import limits
from viewfold.errors import InputError, OutputError, ViewfoldError, WeightsError
from viewfold.store import atomic_write, read_json, write_json
from viewfold.store.sync import sync_folder, sync_tree
from viewfold.training.ranks import Ranks, lost_process

RECORD = "record.json"
_NAME = re.compile(r"checkpoint-(\d{8,12})")


class Checkpoints:
    """The checkpoints in the folder of a run."""

    def __init__(self, out: Path, *, ranks: Ranks, keep: int) -> None:
        self.out, self.ranks, self.keep = out, ranks, keep

    def all(self) -> list[Path]:
        """Return them, oldest first."""
        found = self.out.glob("checkpoint-*") if self.out.is_dir() else ()
        return sorted((path for path in found if _NAME.fullmatch(path.name)), key=step_of)

    def newest(self) -> Path | None:
        """Return the one to go on from, if there is any.

        Raises:
            InputError: the folder holds a checkpoint of the first version of this program, which would be ignored.
        """
        former = self.out / "checkpoint.pt"
        found = self.all()
        if not found and former.exists():
            raise InputError(
                f"`out` must hold checkpoints of this version; {former} is an earlier one's. Move it away."
            )
        return found[-1] if found else None

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self.out / f"checkpoint-{step:08d}"

    def save(self, step: int, state: Mapping[str, Tensor], record: Mapping[str, Any], *, sharded: bool) -> None:
        """Write a checkpoint and remove the oldest ones beyond `keep`; sharded, every process must call it.

        Raises:
            OutputError: the disk is full or the place cannot be written.
        """
        path = self.path(step)
        if sharded:
            self._save_together(path, state, record)
        elif self.ranks.lead and not path.exists():
            with atomic_write(path) as folder:
                _write(folder, state, together=False)
                write_json(folder / RECORD, record)
        if self.ranks.lead:
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)

    def _save_together(self, path: Path, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Let every process write its file into one temporary folder, which rank 0 then renames."""
        temporary = self.out / f".{path.name}"
        try:
            with self.ranks.together(), _place(path):
                if self.ranks.lead:
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
            with self.ranks.together(), _place(path), lost_process():
                _write(temporary, state, together=True)
            with self.ranks.together(), _place(path):  # nobody goes on, or reads it, before it stands
                if self.ranks.lead:
                    write_json(temporary / RECORD, record)
                    sync_tree(temporary)
                    temporary.replace(path)
                    sync_folder(path.parent)
        except BaseException:
            if self.ranks.lead:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def load(self, path: Path, state: Mapping[str, Tensor], *, sharded: bool) -> None:
        """Fill tensors, in place, with those of a checkpoint; names and shapes must be the same.

        Sharded, every process must call it.

        Raises:
            WeightsError: it is another network's or optimiser's, or damaged.
        """
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        advice = "Move it away to go on from the one before it, or to start anew."
        try:
            reader = HuggingFaceStorageReader(str(path))
            for file in path.glob("*.safetensors"):
                _check_header(file)
            entries: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
            held = {name: tuple(entry.size) for name, entry in entries.items()}
            wanted = {name: tuple(_stored(value).shape) for name, value in state.items()}
            if held != wanted:
                raise ValueError(_difference(held, wanted))
            targets = {name: _stored(value) for name, value in state.items()}
            with _quiet():
                reader = HuggingFaceStorageReader(str(path))
                dcp.load(targets, storage_reader=reader, no_dist=not sharded)
        except ViewfoldError:
            raise
        except (Exception, dcp.CheckpointException) as error:  # damaged files raise anything; DCP's is no Exception
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise WeightsError(f"`{path}` does not fit this network: {reason}. {advice}") from error

    def record(self, path: Path) -> dict[str, Any]:
        """Return what a checkpoint says of its run.

        Raises:
            WeightsError: it cannot be read.
            InputError: it is not there, though another process sees it.
        """
        if not path.is_dir():
            raise InputError(f"`out` must be one folder that all processes share; {path} is not there for all.")
        try:
            record = read_json(path / RECORD)
            if record["step"] != step_of(path):
                raise ValueError(f"it says step {record['step']!r}")
        except (ViewfoldError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"`{path}` must hold a readable {RECORD}; {error}. Move it away to go on from the one before it."
            ) from error
        return record


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, which is in its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _stored(value: Tensor) -> Tensor:
    """Return a tensor in the shape that the file has, where a single number is a list of one; it shares the memory."""
    return value.detach().reshape(1) if value.ndim == 0 else value.detach()


def _write(folder: Path, state: Mapping[str, Tensor], *, together: bool) -> None:
    """Write the tensors; what goes wrong is raised as itself, and not in DCP's wrapping, which is no Exception."""
    import torch.distributed.checkpoint as dcp

    tensors = {name: _stored(value).contiguous() for name, value in state.items()}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=together)
    try:
        with _quiet():
            dcp.save(tensors, storage_writer=writer, no_dist=not together)
    except dcp.CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error


@contextmanager
def _place(path: Path) -> Iterator[None]:
    """Turn what a place does (a full disk, no permission) into an error that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"`{path}` cannot be written: {(error.strerror or str(error)).lower()}.") from error


def _check_header(file: Path) -> None:
    with file.open("rb") as content:
        claimed = int.from_bytes(content.read(8), "little")
    if not 2 <= claimed <= min(limits.STATE_HEADER_BYTES, file.stat().st_size - 8):
        raise ValueError(f"{file.name} is damaged or cut short")


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say the first few names in which a checkpoint and a run differ."""
    missing, unexpected = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
    shapes = [
        f"{n} {held[n]} instead of {wanted[n]}" for n in sorted(held.keys() & wanted.keys()) if held[n] != wanted[n]
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{what}: {len(names)} ({', '.join(names[:3])})" for what, names in parts.items() if names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DCP from warning that it works in one process, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
