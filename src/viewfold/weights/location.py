"""Where a model is: one that comes with the package, an installed release, a folder, or a released file.

Below `generation.load`.  A released file is converted once and kept beside the installed releases.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from viewfold.errors import InputError, WeightsError
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.convert import convert
from viewfold.weights.original import ORIGINAL_PREFIXES, split
from viewfold.weights.release import RELEASES, installed, models_folder

SHIPPED = ("toybox",)
"""Models inside the package, under `viewfold/models`."""


def find_model(name: str) -> Path:
    """Return the folder of a model by its name, its folder, or the released file that holds it.

    Raises:
        WeightsError: there is none, or the file holds no whole model.
    """
    path = Path(name).expanduser()
    if name in SHIPPED:
        folder = Path(__file__).parents[1] / "models" / name
        if not folder.is_dir():
            raise WeightsError(f"`{name}` must come with the package; {folder} is missing. Install viewfold again.")
        return folder
    if name and path.is_dir():
        return path
    if path.is_file():
        return _convert_once(path)
    if name in RELEASES:
        folder = installed(name)
        if not folder.is_dir():
            file = RELEASES[name].file
            raise WeightsError(
                f"`{name}` must be installed first; {folder} does not exist. Run: viewfold weights fetch {name}, "
                f"or if you have {file}: viewfold weights convert {file} --to {folder}"
            )
        return folder
    raise WeightsError(
        f"`name` must be {', '.join([*SHIPPED, *RELEASES])}, a model's folder, or a weights file; got '{name}', "
        "which is none of them. Check the spelling or the path."
    )


def _convert_once(path: Path) -> Path:
    """Convert a released file to a folder beside the installed releases; the same file (path, size, time) once."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = models_folder() / f"{path.stem}-{key}"
    if folder.is_dir():
        return folder
    missing = sorted(set(ORIGINAL_PREFIXES.values()) - split(read_checkpoint(path)).keys())
    if missing:
        raise WeightsError(
            f"`{path}` must hold UNet, VAE and text encoder to be loaded; missing: {', '.join(missing)}. "
            "`viewfold weights convert` writes the parts that it holds."
        )
    try:
        convert(path, to=folder)
    except InputError as error:
        raise WeightsError(
            f"`{path}` cannot be loaded as it is: {error} Convert it: viewfold weights convert {path} --to FOLDER, "
            "with --head-channels or --heads, and load the folder."
        ) from error
    warnings.warn(f"{path.name} was converted to {folder}, which is read from now on.", stacklevel=4)
    return folder
