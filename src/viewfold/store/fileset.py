"""Several files beside each other that belong together, such as a mesh with its pictures: all of them, or none.

A rename moves one file.  So the files are made in a temporary folder, brought to the disk, and moved into their places
with a journal (`temporary` says where the folder is):

    new/      what is being written
    plan      which files there are, which one is followed to the others, and which of an older set are in the way
    ready/    what is to be moved: `new`, renamed once all of it is on the disk.  From here on the new set counts
    kept/     what stood in the places, until the last file has moved

A writer that is killed before `ready` has changed nothing.  After it, the next writer of the same file, or
`complete_files`, moves the rest.  A move that fails is undone, all of them, in the reverse order; one that is killed
meanwhile is completed like any other, for every new file is in `ready` or in its place at any time.

The moves of one folder happen one writer after the other, under a lock of the folder.  Where the disk or the system
keeps no locks (Windows), two writers at once may mix their sets, and nobody completes what was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from viewfold.errors import OutputError, ViewfoldError
from viewfold.store.atomic import followed, irreplaceable, parent_of, raise_blaming
from viewfold.store.sync import sync_folder, sync_tree
from viewfold.store.temporary import kept_in, new_in, ready_in, sweep, temporary

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the journal says; names are of files in one folder."""

    main: str
    files: list[str]
    stale: list[str]
    alone: bool


@contextlib.contextmanager
def atomic_files(
    path: str | Path, *, alone: bool = True, stale: Callable[[Path], Iterable[str]] = lambda path: ()
) -> Iterator[Path]:
    """Yield a temporary path; if the block succeeds, it and the files made beside it take their places beside `path`.

    All of them do, or none: on any failure, Ctrl-C included, what stood there stands there again.  `path` itself is
    replaced last.  A process that is killed has done nothing, or leaves what the next writer of `path` on this machine,
    or `complete_files`, completes.

    Args:
        path: the file that people open.  A symbolic link stays, and what it points to is replaced: the yielded path has
            that name, and the other files stand beside that; those that are links themselves are replaced.
        alone: whether `path` can be read without the others.  Then a reader finds the old one or the new one at any
            moment.  Otherwise (an OBJ, which names its materials) he finds none while the others are exchanged, never
            one of one set with the pictures of the other.
        stale: from the place of `path` (where a link leads) to the names of files beside it that go away: what an older
            set has and this one may not have.

    Raises:
        OutputError: the disk is full or a place cannot be written.
    """
    asked, path, holder = path, followed(path), None
    try:
        with parent_of(path), temporary(path) as holder:
            new = new_in(holder, path)
            yield new
            files = sorted(entry.name for entry in new.parent.iterdir())
            if path.name not in files:
                raise FileNotFoundError(errno.ENOENT, "the block did not make it", str(path))
            gone = sorted(set(stale(path)) - set(files))
            plan = _Plan(main=path.name, files=files, stale=gone, alone=alone)
            _check_places(path.parent, plan)
            _publish(holder, path, plan)
    except ViewfoldError:
        raise
    except Exception as error:
        waits = holder is not None and os.path.lexists(ready_in(holder))
        left = f" It waits in `{ready_in(holder)}`; saving there again completes it." if holder and waits else ""
        raise_blaming(error, asked, path.parent, left=left)


def complete_files(path: str | Path) -> None:
    """Complete the set of a file whose writer was killed while it moved it into place; does nothing otherwise.

    Raises:
        OSError: a file cannot be moved.
    """
    path = followed(path)
    if path.parent.is_dir():
        with _turn(path.parent):
            _complete(path)


def _publish(holder: Path, path: Path, plan: _Plan) -> None:
    """Move a set into its places; where that fails, back."""
    new, ready = new_in(holder, path).parent, ready_in(holder)
    (holder / "plan").write_text(json.dumps(asdict(plan)))
    sync_tree(new)
    sync_tree(holder / "plan")
    with _turn(path.parent):
        _complete(path)  # first: what a writer before had begun would otherwise be moved over this
        try:
            os.replace(new, ready)
            sync_folder(holder)
            _move(holder, path.parent, plan)
        except BaseException:
            if os.path.lexists(ready / plan.main):
                _move_back(holder, path.parent, plan)
                os.replace(ready, new)
            raise


def _complete(path: Path) -> None:
    def move(holder: Path) -> None:
        _move(holder, path.parent, _Plan(**json.loads((holder / "plan").read_text())))

    sweep(path, complete=move)


def _move(holder: Path, folder: Path, plan: _Plan) -> None:
    """Move what is ready into its places, the main file last; may be called again wherever it was ended."""
    ready, kept = ready_in(holder), kept_in(holder)
    kept.mkdir(exist_ok=True)
    left = set(os.listdir(ready))
    others = [name for name in plan.files if name in left and name != plan.main]
    if not plan.alone and plan.main in left:
        _put_aside(folder / plan.main, kept)
    for name in plan.stale:
        _put_aside(folder / name, kept)
    for name in others:
        _put_aside(folder / name, kept)
        os.replace(ready / name, folder / name)
    if plan.main in left:
        os.replace(ready / plan.main, folder / plan.main)
    sync_folder(folder)
    os.rmdir(ready)


def _move_back(holder: Path, folder: Path, plan: _Plan) -> None:
    """Undo what `_move` has done before the main file."""
    ready, kept = ready_in(holder), kept_in(holder)
    left = set(os.listdir(ready))
    for name in plan.files:
        if name not in left:
            os.replace(folder / name, ready / name)
    stood = os.listdir(kept) if kept.is_dir() else []
    for name in sorted(stood, key=lambda name: name == plan.main):
        os.replace(kept / name, folder / name)
    sync_folder(folder)


def _put_aside(place: Path, kept: Path) -> None:
    if not os.path.lexists(kept / place.name):
        with contextlib.suppress(FileNotFoundError):
            os.replace(place, kept / place.name)


def _check_places(folder: Path, plan: _Plan) -> None:
    """Refuse a place that is a folder, a pipe or a device, which must stay."""
    for name in (*plan.files, *plan.stale):
        place = folder / name
        if os.path.isdir(place) and not os.path.islink(place):
            raise OutputError(f"`{place}` cannot be written: it is a folder. Name another place.")
        if (reason := irreplaceable(place)) is not None:
            raise OutputError(f"`{place}` cannot be written: {reason}. Name another place.")


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait for the folder's lock and hold it; a process that ends lets go of it, however it ends."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk that keeps no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
