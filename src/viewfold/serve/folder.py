"""The data folder of a server: where jobs and pictures lie, and which files of a job may be had.

    queue.sqlite             the queue; queue.backup.sqlite, as it was when the server began
    jobs/ID/                 a folder a job
    pictures/OWNER/ID.png    pictures that were sent, for personalising
    tokens.json              who may come in from another address

Every name that the API takes is looked up in a list made here; none becomes a path by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

QUEUE, TOKENS, LOCK = "queue.sqlite", "tokens.json", "server.lock"

CANCEL, STOP = ".cancel", ".stop"
"""In the folder of a job that is done elsewhere: nobody wants it any more; the server goes, it is to be given back."""

Role = Literal["view", "contact", "turntable", "asset", "record", "lora", "posed", "preview", "thumb"]

TYPES = {
    ".png": "image/png", ".webp": "image/webp", ".json": "application/json", ".glb": "model/gltf-binary",
    ".obj": "model/obj", ".mtl": "model/mtl", ".ply": "application/octet-stream", ".stl": "model/stl",
    ".usdz": "model/vnd.usdz+zip", ".safetensors": "application/octet-stream", ".zip": "application/zip",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """One file of a job that may be had."""

    name: str
    path: Path
    role: Role
    format: str | None = None

    @property
    def type(self) -> str:
        """Its media type."""
        return TYPES[self.path.suffix]


def jobs_folder(data: Path) -> Path:
    """Return where the jobs' folders lie."""
    return data / "jobs"


def picture_path(data: Path, picture: str, owner: str) -> Path:
    """Return where a picture that was sent lies; its name is one that `job.is_id` accepts, its owner's the server's."""
    return data / "pictures" / owner / f"{picture}.png"


def files_of(folder: Path) -> dict[str, JobFile]:
    """Return what may be had of a job, by the name it has there, in the order in which people want it."""
    return {file.name: file for file in _files(folder) if file.path.is_file() and not file.path.is_symlink()}


def _files(folder: Path) -> Iterator[JobFile]:
    for kind in ("glb", "ply", "stl", "usdz"):
        yield JobFile(name=f"asset.{kind}", path=folder / f"asset.{kind}", role="asset", format=kind)
    yield JobFile(name="asset.json", path=folder / "asset.json", role="record")
    yield JobFile(name="asset.webp", path=folder / "asset.webp", role="turntable")
    yield JobFile(name="lora.safetensors", path=folder / "lora.safetensors", role="lora")
    groups: tuple[tuple[str, Role], ...] = (("views", "view"), ("posed", "posed"))
    for group, role in groups:
        for path in sorted((folder / group).glob("[0-9][0-9][0-9].png")):
            yield JobFile(name=f"{role}-{path.stem}.png", path=path, role=role)
    yield JobFile(name="contact.png", path=folder / "views" / "contact.png", role="contact")
    yield JobFile(name="turntable.webp", path=folder / "views" / "turntable.webp", role="turntable")
    for name in ("transforms.json", "run.json"):
        yield JobFile(name=name, path=folder / "views" / name, role="record")
    yield JobFile(name="preview.webp", path=folder / "preview.webp", role="preview")
    yield JobFile(name="thumb.webp", path=folder / "thumb.webp", role="thumb")


def bundle_of(folder: Path, name: str) -> list[tuple[str, Path]]:
    """Return what goes into an archive of a job: "views.zip" or "asset-obj.zip"; nothing if there is none."""
    place = {"views.zip": folder / "views", "asset-obj.zip": folder / "asset"}.get(name)
    if place is None or not place.is_dir():
        return []
    return [(path.name, path) for path in sorted(place.iterdir()) if path.is_file() and not path.is_symlink()]
