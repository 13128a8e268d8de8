"""What a lift keeps in a folder while it runs, so that one that was killed goes on and ends in the same result.

    record.json                        all that decides the result; a folder of other settings is refused
    first-SEED.0.state                 views that were drawn, of each try, and the others around them (others-SEED)
    fit.0.state                        what was fitted to them
    distil.0.state, distil.1.state     the distillation as it stood, in turn: while one is written the other stands
    preview.webp                       the object as it stood, where that was asked for

A state begins with a number that rises and the SHA-256 of what follows, so that damage shows.  Everything between two
states is done again, which leads to the same numbers.  Knows no stage: states are theirs.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, Stopped, ViewfoldError
from viewfold.label import software
from viewfold.lifting.descent import Progress
from viewfold.lifting.preview import Preview
from viewfold.picture import contact_sheet
from viewfold.stopping import StopRequest, listening
from viewfold.store import atomic_write, check_output, contradictions, lock, read_json, read_regular, write_json
from viewfold.views import Views

FORMAT = 1
"""Of the folder; another one is refused."""

RECORD, PREVIEW, LOCK = "record.json", "preview.webp", ".lock"

NAMES = r"record\.json|preview\.webp|[\w-]+\.[01]\.state|\.lock|\..*\.viewfold-.*|\.DS_Store"
"""Names in such a folder; one that holds anything else is no such folder, and is left alone."""

Note = Callable[[str], None]
"""Told a line that whoever watches should read."""

_HEAD = struct.Struct(">8sQ32s")
_MAGIC = b"vf-lift\n"


@contextmanager
def keeping(folder: str | Path, *, every_s: float = 60.0, note: Note | None = None) -> Iterator[Keeper]:
    """Hold a folder for one lift, and yield its keeper, which asks the lift to stop when a signal comes.

    Ctrl-C, SIGTERM and SIGHUP end the lift after the step that runs; a second Ctrl-C ends it at once.  An empty folder
    goes away again, and so does one of a lift that failed for good.

    Args:
        folder: made where there is none.
        every_s: seconds between two states of a distillation.
        note: told of damage.

    Raises:
        OutputError: the folder holds other things or cannot be written, or another lift holds it.
    """
    folder = Path(folder)
    check_output(folder, holds=NAMES)
    above = [parent for parent in folder.absolute().parents if not parent.exists()]
    taken = f"`out` must be made by one lift at a time; another one is at work in {folder}. Name another place."
    try:
        with lock(folder / LOCK, taken), listening() as stop:
            keeper = Keeper(folder, every_s=every_s, note=note, stop=stop)
            try:
                yield keeper
            except FitError:  # the same command would fail in the same way
                keeper.clear()
                raise
            finally:
                if not keeper.holds_state:  # a record of nothing
                    keeper.clear()
    finally:
        if folder.is_dir() and not {entry.name for entry in folder.iterdir()} - {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # of the folders above, those that were made for it, unless something is there now
                for made in (folder, *above):
                    made.rmdir()


class Keeper:
    """The folder of one lift."""

    def __init__(
        self, folder: Path, *, every_s: float = 60.0, note: Note | None = None, stop: StopRequest | None = None
    ) -> None:
        self.folder, self.every_s = folder, every_s
        self.stop = StopRequest() if stop is None else stop
        self.note: Note = note or (lambda line: None)
        self._saved_s = time.monotonic()
        self._newest: dict[str, tuple[int, int]] = {}
        """From the name of a state to the number and the place (0 or 1) of the last one."""

    @property
    def holds_state(self) -> bool:
        """Whether there is something to go on from."""
        return any(self.folder.glob("*.state"))

    def begin(self, decides: Mapping[str, Any]) -> None:
        """Say what decides the result, before any state is read or written.

        Raises:
            InputError: the folder's states are of other settings, each of which is named.
        """
        made_by = {"format": FORMAT, "software": software(), "torch": str(torch.__version__)}
        now = json.loads(json.dumps(made_by | dict(decides)))  # tuples become lists, as in the file
        path = self.folder / RECORD
        before = self._record(path)
        if before is None:
            self.clear()  # whatever there is, nobody knows what of
            with atomic_write(path) as temporary:
                write_json(temporary, {"decides": now})
        elif differ := contradictions(before, now):
            raise InputError(
                f"`out` must be resumed with the settings that {self.folder} was begun with; {'; '.join(differ)}. "
                "Give the same ones, remove that folder, or name another `out`."
            )
        elif self.holds_state:
            self.note(f"the lift goes on from what {self.folder} keeps.")

    def _record(self, path: Path) -> dict[str, Any] | None:
        """Return what was said before, if that can be read."""
        if not path.exists():
            return None
        with suppress(ViewfoldError):
            before = read_json(path).get("decides")
            if isinstance(before, dict):
                return before
        self.note(f"{path} is damaged; the lift begins anew.")
        return None

    def check(self) -> None:
        """End the lift here if a signal asked for that.

        Raises:
            Stopped: it did.
        """
        if self.stop:
            raise Stopped(self.stop.signum, saved=self.holds_state)

    def check_views(self, views: Views, kept: str) -> None:
        """Refuse to go on with other views than those of a state, whose hash it has.

        Raises:
            InputError: they are others.
        """
        if (now := hash_views(views)) != kept:
            raise InputError(
                f"`out` must be resumed with the views that {self.folder} was begun with; their hash was {kept[:16]}, "
                f"is {now[:16]}. Watermark them as before, remove that folder, or name another `out`."
            )

    def keep(self, name: str, state: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Write a state if one is due, if the lift is to stop, or in any case; see `save`."""
        if now or self.stop or time.monotonic() - self._saved_s >= self.every_s:
            self.save(name, state())

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a state: tensors, numbers and text, in dicts, lists and tuples.  The one before it stays.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        number, place = self._newest.get(name, (0, 1))
        number, place = number + 1, 1 - place
        content = io.BytesIO()
        torch.save(dict(state), content)
        payload = content.getbuffer()
        with atomic_write(self._path(name, place)) as temporary, temporary.open("wb") as file:
            file.write(_HEAD.pack(_MAGIC, number, _digest(number, payload)))
            file.write(payload)
        self._newest[name] = number, place
        self._saved_s = time.monotonic()

    def load(self, name: str) -> dict[str, Any] | None:
        """Return the newest state of a name that is whole, on the CPU; None if there is none.

        One that is damaged is named, and the one before it is taken.
        """
        for number, place in sorted(self._places(name), reverse=True):
            path = self._path(name, place)
            try:
                state = _read(path)
            except Exception as error:  # what PyTorch raises of a damaged file is not bounded
                reason = getattr(error, "strerror", None) or str(error)[:160] or type(error).__name__
                self.note(f"{path} is damaged ({reason}); the lift goes on from before it.")
                continue
            self._newest[name] = number, place
            return state
        return None

    def views(self, name: str, draw: Callable[[], Views]) -> Views:
        """Return the views of a name as they were drawn before, or draw and keep them; without a label."""
        kept = self.load(name)
        if kept is not None:
            cameras = Cameras(world_from_camera=kept["world_from_camera"], fov_deg=kept["fov_deg"])
            said = {"prompt": kept["prompt"], "run": json.loads(kept["run"])}
            return Views(rgb=kept["rgb"], alpha=kept["alpha"], cameras=cameras, **said)
        drawn = draw()
        self.save(name, _tensors(drawn) | {"prompt": drawn.prompt, "run": json.dumps(drawn.run)})
        return drawn

    def show(self, preview: Preview) -> None:
        """Write a preview; a callback for `lift(previews=...)`."""
        with atomic_write(self.folder / PREVIEW) as temporary:
            contact_sheet(preview.rgb).save(temporary)

    def clear(self) -> None:
        """Remove all that is kept."""
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink(missing_ok=True)
        self._newest.clear()

    def _path(self, name: str, place: int) -> Path:
        return self.folder / f"{name}.{place}.state"

    def _places(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield the number, as its head says, and the place of each state of a name; what has no head comes last."""
        for place in (0, 1):
            with suppress(FileNotFoundError), self._path(name, place).open("rb") as file:
                head = file.read(_HEAD.size)
                is_whole = len(head) == _HEAD.size and head.startswith(_MAGIC)
                yield int.from_bytes(head[8:16], "big") if is_whole else 2**64, place


def stoppable(progress: Progress | None, keeper: Keeper | None) -> Progress:
    """Return a callback of progress that ends the lift where a signal asks for that."""

    def report(stage: str, step: int, total: int) -> None:
        if keeper is not None:
            keeper.check()
        if progress is not None:
            progress(stage, step, total)

    return report


def hash_views(views: Views) -> str:
    """Return the SHA-256 of pictures and cameras, wherever they lie."""
    sha = hashlib.sha256()
    for name, tensor in _tensors(views).items():
        if tensor is not None:
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _tensors(views: Views) -> dict[str, Any]:
    cameras = views.cameras
    return {
        "rgb": views.rgb,
        "alpha": views.alpha,
        "world_from_camera": cameras.world_from_camera,
        "fov_deg": cameras.fov_deg,
    }


def _digest(number: int, payload: bytes | memoryview) -> bytes:
    sha = hashlib.sha256(number.to_bytes(8, "big"))
    sha.update(payload)
    return sha.digest()


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of a state holds.

    Raises:
        Exception: it is damaged, or no such file; nothing in it is run.
    """
    content = memoryview(read_regular(path, max_bytes=limits.LIFT_STATE_BYTES))
    if len(content) < _HEAD.size:
        raise ValueError("it is cut off")
    magic, number, digest = _HEAD.unpack(content[: _HEAD.size])
    if magic != _MAGIC or digest != _digest(number, content[_HEAD.size :]):
        raise ValueError("its bytes are not those that were written")
    payload = io.BytesIO(content[_HEAD.size :])
    with zipfile.ZipFile(payload) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, which PyTorch's own are not")
    payload.seek(0)
    return torch.load(payload, map_location="cpu", weights_only=True)
