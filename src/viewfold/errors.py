"""The exceptions that viewfold raises on purpose.

    ViewfoldError
    ├── InputError (also ValueError)      an argument, a prompt or a camera that cannot be used      exit 2
    │   └── PromptError                   a prompt that says nothing to the model
    ├── FileError                         a file that is missing, damaged or of the wrong kind       exit 3
    │   ├── WeightsError                  weights that do not fit the network they are meant for
    │   └── AssetError                    a mesh, image or shard that cannot be read
    ├── OutputError                       a result that cannot be written (disk full, no permission)  exit 4
    ├── FitError                          an optimisation that diverged or found nothing              exit 5
    └── MissingExtraError                 an optional package that the request needs                  exit 6

Every message has the form "`argument` must ...; got ... . What to do."  The command line prints the message and
exits with `exit_code`; it never shows a traceback for these.

    KeyboardInterrupt
    └── Stopped                           a signal ended work that can go on    exit 128 + its number (SIGTERM: 143)
"""

from __future__ import annotations


class ViewfoldError(Exception):
    """Any failure that viewfold foresaw."""

    exit_code = 1


class InputError(ViewfoldError, ValueError):
    """An argument is out of range, of the wrong shape or contradicts another one."""

    exit_code = 2


class PromptError(InputError):
    """A prompt is empty or holds nothing that the text encoder can read."""


class FileError(ViewfoldError):
    """A file is missing, damaged or not what it should be."""

    exit_code = 3


class WeightsError(FileError):
    """A checkpoint does not fit: names or shapes are missing, unexpected or different."""


class AssetError(FileError):
    """A mesh, picture or shard is damaged or larger than the limits allow."""


class OutputError(ViewfoldError):
    """A result could not be written; nothing was left under its final name."""

    exit_code = 4


class FitError(ViewfoldError):
    """A fit or a distillation diverged, or the surface came out empty."""

    exit_code = 5


class MissingExtraError(ViewfoldError):
    """An optional package is not installed; the message holds the command that installs it."""

    exit_code = 6


class Stopped(KeyboardInterrupt):
    """A signal asked long work to end, which it did cleanly; the same command goes on from there."""

    def __init__(self, signum: int, *, saved: bool = False) -> None:
        super().__init__(signum)
        self.signum, self.saved = signum, saved

    @property
    def exit_code(self) -> int:
        """As a shell counts: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signum


def is_panic(error: BaseException) -> bool:
    """Return whether a library written in Rust gave up; its class has no name to catch, and is no `Exception`."""
    return type(error).__name__ == "PanicException"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch has a class of its own for a GPU's, and a plain RuntimeError for others."""
    said = str(error).lower()
    signs = ("out of memory", "not enough memory", "can't allocate memory", "defaultcpuallocator", "alloc_failed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in said for sign in signs))
