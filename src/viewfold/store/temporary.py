"""Temporary folders beside a result, by a name that tells, and what becomes of those of processes that were killed.

    .NAME.viewfold-0/        a second writer of NAME at the same time has -1, and so on
        held                 locked by its writer, so that a lock that is free tells of a writer that is gone
        new/NAME             what is being written
        old                  what stood there before, between two renames where one cannot do
        ready, plan, kept    of several files that take their places together: see `fileset`

`held` also names the machine: some network disks keep locks within one.  What another machine left stays.  It is the
first thing in the folder: an empty one may be removed at any time, for a writer who finds his gone makes another.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells a writer that is gone, and nothing is swept
    fcntl = None  # type: ignore[assignment]

SWEPT = 16
"""How many temporaries of one name are looked for.  Without a list of the folder, which may hold a million results."""

_LONGEST_NAME = 200
"""Bytes of a name that still leave room for ours in the 255 of most disks."""


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that is this writer's alone, and clear it up; swept first are those left behind."""
    sweep(path)
    holder, descriptor = _make(path)
    try:
        yield holder
    finally:
        _clear(holder, path, descriptor)


def new_in(holder: Path, path: Path) -> Path:
    """Return where in a temporary folder the successor of `path` is made."""
    return holder / "new" / path.name


def old_in(holder: Path) -> Path:
    """Return where in a temporary folder a predecessor waits."""
    return holder / "old"


def ready_in(holder: Path) -> Path:
    """Return where in a temporary folder files wait that are whole and on the disk, until each is in its place."""
    return holder / "ready"


def kept_in(holder: Path) -> Path:
    """Return where in a temporary folder the predecessors of several files wait, by their names."""
    return holder / "kept"


def sweep(path: Path, *, complete: Callable[[Path], None] | None = None) -> None:
    """Clear up the temporaries of `path` whose writers, on this machine, are gone.

    Args:
        complete: called with a temporary folder that has files `ready`, to put them into their places; where it fails
            the folder stays.  None leaves such folders as they are.
    """
    for slot in range(SWEPT):
        _reclaim(_holder(path, slot), path, complete)
        shutil.rmtree(_gone(_holder(path, slot)), ignore_errors=True)


def _clear(holder: Path, path: Path, descriptor: int) -> None:
    """Remove a temporary folder and let go of its lock.

    A predecessor in it returns if its place is empty; where it cannot, both stay; so do files that are ready.  The lock
    is closed before it is removed, for a network disk or Windows keeps a file that is open, and the folder with it; by
    then the folder has a name that nobody else looks for or makes.
    """
    try:
        if os.path.lexists(ready_in(holder)):
            return
        old = old_in(holder)
        if os.path.lexists(old) and not os.path.lexists(path):
            try:
                os.replace(old, path)
            except OSError:
                return
        for entry in (holder / "new", old, kept_in(holder)):
            shutil.rmtree(entry, ignore_errors=True)
        if fcntl is not None:
            gone = _gone(holder)
            shutil.rmtree(gone, ignore_errors=True)  # of one who was killed right here
            try:
                holder = holder.rename(gone)
            except OSError:
                return
    finally:
        os.close(descriptor)
    shutil.rmtree(holder, ignore_errors=True)


def _gone(holder: Path) -> Path:
    """Return the name under which a temporary folder is removed."""
    return holder.with_name(f"{holder.name}.gone")


def _holder(path: Path, slot: int) -> Path:
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.viewfold-{slot}")


def _make(path: Path) -> tuple[Path, int]:
    """Return a new temporary folder and the descriptor whose lock says that it is in use."""
    for slot in itertools.count():
        holder = _holder(path, slot)
        try:
            holder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        descriptor = None
        try:
            descriptor = _hold(holder)
            (holder / "new").mkdir()
            return holder, descriptor
        except (FileNotFoundError, FileExistsError):  # another took it for one that a killed writer left empty
            if descriptor is not None:
                os.close(descriptor)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            shutil.rmtree(holder, ignore_errors=True)
            raise
    raise AssertionError


def _hold(holder: Path) -> int:
    """Return the descriptor of a lock, which gets its name once it is locked: never, where the disk keeps no locks."""
    unnamed = holder / "new.held"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.write(descriptor, _machine())
        if _locked(descriptor):
            unnamed.rename(holder / "held")
            if not _is_named(descriptor, holder / "held"):
                raise FileNotFoundError(errno.ENOENT, "taken by another", str(holder))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _locked(descriptor: int) -> bool:
    """Lock an open file without waiting; False if another process has it, or the disk keeps no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _reclaim(holder: Path, path: Path, complete: Callable[[Path], None] | None) -> None:
    """Clear a temporary folder if nobody holds its lock, its ready files completed."""
    try:
        descriptor = os.open(holder / "held", os.O_RDWR)
    except OSError:  # there is none, as a rule
        _reclaim_unheld(holder)
        return
    if _locked(descriptor) and _is_named(descriptor, holder / "held") and os.read(descriptor, 1024) == _machine():
        try:
            if complete is not None and os.path.lexists(ready_in(holder)):
                complete(holder)
        finally:
            _clear(holder, path, descriptor)
    else:
        os.close(descriptor)


def _reclaim_unheld(holder: Path) -> None:
    """Remove a temporary folder in which nothing is yet, or never was."""
    if holder.is_dir():
        with contextlib.suppress(OSError):
            (holder / "new.held").unlink(missing_ok=True)
            holder.rmdir()


def _is_named(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one of this name: another may have cleared it and made a new one since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _machine() -> bytes:
    return platform.node().encode(errors="replace")[:1024]
