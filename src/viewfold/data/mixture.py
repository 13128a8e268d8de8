"""Which folders of shards a step is drawn from, and how often each; as words on the command line have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viewfold.errors import InputError


@dataclass(frozen=True)
class Source:
    """A folder, or a URL that fsspec knows, of shards with latents."""

    folder: str | Path
    weight: float = 1.0
    """How often it is drawn from, beside the others."""

    @classmethod
    def of(cls, given: str | Path | Source) -> Source:
        """Return what `FOLDER` or `FOLDER:WEIGHT` says; a folder whose own name ends so is taken as it is.

        Raises:
            InputError: a weight that is not a number above 0.
        """
        if isinstance(given, Source):
            return given
        folder, colon, said = str(given).rpartition(":")
        if not colon or not folder or Path(given).exists():
            return cls(given)
        try:
            weight = float(said)
        except ValueError:
            return cls(given)
        if not 0 < weight < float("inf"):
            raise InputError(f"the weight of `{folder}` must be a number above 0; got {said}.")
        return cls(folder, weight)
