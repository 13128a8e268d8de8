"""Bytes on disk, below everything that writes: whole files and folders, locks, JSON of a reasonable size.

`atomic` makes a file or a folder under a temporary name, `fileset` several files beside each other, `sync` brings them
to the disk and renames them, `temporary` keeps the temporary names and clears up after processes that were killed,
`claims` shares the work on a folder, `regular` opens what a stranger names.  Knows no pictures and no networks.
"""

from viewfold.store.atomic import CANNOT_WRITE, atomic_write, check_output
from viewfold.store.claims import Claims
from viewfold.store.document import contradictions, finite, read_json, write_json
from viewfold.store.fileset import atomic_files, complete_files
from viewfold.store.mutex import lock
from viewfold.store.regular import open_regular, read_regular
from viewfold.store.temporary import sweep

__all__ = [
    "CANNOT_WRITE",
    "Claims",
    "atomic_files",
    "atomic_write",
    "check_output",
    "complete_files",
    "contradictions",
    "finite",
    "lock",
    "open_regular",
    "read_json",
    "read_regular",
    "sweep",
    "write_json",
]
