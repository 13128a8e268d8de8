"""What lies in a folder of assets: the files that are meshes, one per uid."""

from __future__ import annotations

from pathlib import Path

from viewfold.errors import InputError
from viewfold.formats import READ_MESHES


def find_assets(folder: str | Path) -> list[Path]:
    """Return the assets of a folder by name, one per uid."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"`folder` must be a folder of assets; `{folder}` is none.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (p.suffix.lower() not in READ_MESHES, p.suffix.lower(), p.name)):
        if path.suffix.lower() in READ_MESHES and not path.name.startswith("."):
            found.setdefault(path.stem, path)
    if not found:
        raise InputError(f"`folder` must hold {', '.join(READ_MESHES)} files; `{folder}` holds none.")
    return [found[uid] for uid in sorted(found)]
