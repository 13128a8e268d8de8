"""Posed pictures of a folder of assets: the second step of the training data, after the assets, before the shards.

Reads assets with what `source` knows about them; writes <uid>/000.webp ... and <uid>/meta.json.  A folder
appears under its name complete or not at all, so that a run can be stopped, repeated and shared between machines.
Knows no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.data.source import AssetFile, captioned_assets
from viewfold.data.workers import Workers
from viewfold.errors import AssetError, InputError
from viewfold.picture import to_pil
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write, check_output, read_json, write_json

RENDER_FILES = r"\d{3,}\.webp|meta\.json|\.DS_Store"
"""Names in a folder of renders; a folder that holds anything else is never replaced."""


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """How assets are photographed; the defaults are the shipped model's."""

    size: int = 64
    """Pixels across and down."""

    supersample: int = 2
    """Samples per pixel along each axis."""

    orbits: int = 2
    """Circles of views per object, each with its own elevation, starting azimuth, field of view and distance."""

    views: int = 4
    """Views per circle, evenly spaced."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the height above the horizon, uniform per circle."""

    random_azimuth: bool = True
    """Start each circle at a random azimuth; otherwise at the front."""

    fov_deg: tuple[float, float] = (40.0, 40.0)
    """Range of the field of view, uniform per circle."""

    distance: tuple[float, float] | None = None
    """Range of the distance in units of 0.5 / tan(fov / 2), uniform per circle; None frames the object."""

    seed: int = 0
    """Cameras of an object depend on this and on its name alone."""

    def __post_init__(self) -> None:
        for name, most in (("size", 4096), ("supersample", 16), ("orbits", 1024), ("views", 256)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"`{name}` must lie between 1 and {most}; got {getattr(self, name)}.")
        for name, least, most in (("elevation_deg", -89.9, 89.9), ("fov_deg", 1, 170), ("distance", 0.1, 100)):
            low, high = getattr(self, name) or (least, most)
            if not least <= low <= high <= most:
                raise InputError(f"`{name}` must be a rising range within {least} to {most}; got {low} to {high}.")

    def cameras(self, uid: str) -> Cameras:
        """Return the cameras of one object, circle by circle."""
        digest = hashlib.sha256(f"{self.seed}|{uid}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        circles = []
        for _ in range(self.orbits):
            elevation, fov = random.uniform(*self.elevation_deg), random.uniform(*self.fov_deg)
            azimuth = random.uniform(0, 360) if self.random_azimuth else 0.0
            distance = None
            if self.distance is not None:
                distance = random.uniform(*self.distance) * OBJECT_RADIUS / np.tan(np.deg2rad(fov) / 2)
            circles.append(
                Cameras.orbit(self.views, elevation_deg=elevation, azimuth_deg=azimuth, fov_deg=fov, distance=distance)
            )
        return Cameras.cat(circles)


PAPER = RenderSettings(
    size=256, views=32, random_azimuth=False, fov_deg=(15.0, 60.0), elevation_deg=(0.0, 30.0), distance=(0.9, 1.1)
)
"""MVDream's data: 32 uniform azimuths from 0, twice per object, field of view U[15, 60], elevation U[0, 30], distance
U[0.9, 1.1] x 0.5 / tan(fov / 2) (arXiv 2308.16512, appendix).  Its distances crop the corners of wide objects."""


@dataclass(frozen=True, kw_only=True)
class RenderReport:
    """What became of the assets of a folder."""

    done: int = 0
    """Rendered now."""

    skipped: int = 0
    """Found finished."""

    failed: list[tuple[str, str]] = field(default_factory=list)
    """File name and reason of each asset that could not be rendered."""


def render_assets(
    folder: str | Path,
    out: str | Path,
    *,
    settings: RenderSettings = RenderSettings(),  # noqa: B008
    workers: int = 1,
    captions: str | Path | None = None,
    caption_from_name: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Render every asset of `folder` that `out` does not hold yet.

    They come in no order that their names would tell, so that a run that was stopped leaves a fair sample: names often
    begin with the kind.

    Args:
        folder: of <uid>.glb, .obj or .ply and optional <uid>.json files.
        out: receives a folder per asset.
        settings: pictures and cameras.
        workers: processes; 1 works in this one.
        captions: a table of them, see `captions.read_table`.
        caption_from_name: caption an asset that has none after its file; else it is named as a failure.
        progress: called with (assets dealt with, all assets).

    Raises:
        InputError: no such folder, no asset in it, or `out` holds renders of other settings.
        OutputError: a result cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if workers < 1:
        raise InputError(f"`workers` must be at least 1; got {workers}.")
    assets = captioned_assets(folder, captions=captions, from_name=caption_from_name)
    failed = [(asset.name, asset.reason) for asset in assets if asset.reason is not None]
    left_out = len(failed)
    pending = [asset for asset in assets if asset.reason is None and not _is_finished(out, asset, settings)]
    pending.sort(key=lambda asset: hashlib.sha256(asset.uid.encode("utf-8", "surrogateescape")).digest())
    dealt_with = len(assets) - len(pending)
    for path, reason in _render_all(pending, out, settings, workers):
        dealt_with += 1
        if reason is not None:
            failed.append((path.name, reason))
        if progress is not None:
            progress(dealt_with, len(assets))
    done = len(pending) - (len(failed) - left_out)
    return RenderReport(done=done, skipped=len(assets) - len(pending) - left_out, failed=sorted(failed))


def _is_finished(out: Path, asset: AssetFile, settings: RenderSettings) -> bool:
    """Tell whether an asset has its pictures; what is said about it is brought up to date.

    Raises:
        InputError: it has pictures, but of other settings.
    """
    path = out / asset.uid / "meta.json"
    if not path.is_file():
        return False
    try:
        meta = read_json(path)
    except AssetError:  # damaged: it is rendered again
        return False
    then, now = meta.get("render"), json.loads(json.dumps(asdict(settings)))
    if not isinstance(then, dict) or then != now:
        then = then if isinstance(then, dict) else {}
        other = [f"{name} {then.get(name)}, now {now.get(name)}" for name in now if then.get(name) != now[name]]
        raise InputError(
            f"`out` must hold renders of the same settings to be gone on with; {path.parent} was made with "
            f"{'; '.join(other)}. Name another folder, or remove that one."
        )
    made = {name: meta[name] for name in ("uid", "views", "render", "mesh") if name in meta}
    if meta != (renewed := {**asset.record, **made}):
        with atomic_write(path) as temporary:
            write_json(temporary, renewed)
    return True


def render_asset(asset: Path | AssetFile, out: Path, *, settings: RenderSettings) -> None:
    """Render one asset into `out`/<uid>.

    Raises:
        AssetError: the asset or its json cannot be used.
        OutputError: the result cannot be written.
    """
    asset = AssetFile.of(asset) if isinstance(asset, Path) else asset
    path, uid, record = asset.path, asset.uid, asset.record
    mesh = load_mesh(path)
    facts = {
        "faces": len(mesh.faces),
        "textures": sum(material.texture is not None for material in mesh.materials),
        "bounds": [mesh.vertices.amin(dim=0).tolist(), mesh.vertices.amax(dim=0).tolist()],
    }
    try:
        mesh = mesh.fit_sphere(OBJECT_RADIUS)
    except InputError as error:
        raise AssetError(f"`{path}` cannot be rendered: {error}") from error
    cameras = settings.cameras(uid)
    rendering = rasterize(mesh, cameras, size=settings.size, supersample=settings.supersample)
    if not bool(rendering.alpha.any()):
        raise AssetError(f"`{path}` cannot be rendered: none of its faces is visible.")
    straight = torch.cat([rendering.rgb / rendering.alpha.clamp(min=1e-6), rendering.alpha], dim=1).clamp(0, 1)
    check_output(out / uid, holds=RENDER_FILES)
    with atomic_write(out / uid) as partial:
        partial.mkdir()
        names = _write_pictures(straight, partial)
        views = _describe(cameras, names)
        meta = {**record, "uid": uid, "views": views, "render": asdict(settings), "mesh": facts}
        write_json(partial / "meta.json", meta)


def _write_pictures(rgba: Float[Tensor, "v 4 h w"], folder: Path) -> list[str]:
    names = [f"{index:03d}.webp" for index in range(len(rgba))]
    for name, picture in zip(names, rgba, strict=True):
        to_pil(picture).save(folder / name, lossless=True, method=2, quality=20)
    return names


def _describe(cameras: Cameras, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(
        names,
        cameras.world_from_camera.flatten(1).tolist(),
        cameras.fov_deg.tolist(),
        cameras.elevation_deg.tolist(),
        cameras.azimuth_deg.tolist(),
        strict=True,
    )
    return [
        {"file": name, "world_from_camera": pose, "fov_deg": fov, "elevation_deg": elevation, "azimuth_deg": azimuth}
        for name, pose, fov, elevation, azimuth in rows
    ]


def _attempt(path: AssetFile, out: Path, settings: RenderSettings) -> str | None:
    """Render one asset; return the reason if the asset is to blame."""
    try:
        render_asset(path, out, settings=settings)
    except (AssetError, MemoryError) as error:
        return str(error) or "not enough memory"
    return None


def _render_all(
    paths: Sequence[AssetFile], out: Path, settings: RenderSettings, workers: int
) -> Iterator[tuple[AssetFile, str | None]]:
    """Yield each asset with the reason for its failure, or None, as they are finished."""
    if workers == 1 or len(paths) <= 1:
        for path in paths:
            yield path, _attempt(path, out, settings)
        return
    left = list(paths)
    at_once = 2 * workers
    while left:
        # An asset that kills its process breaks the pool; go on one by one until the culprit is known.
        done: set[str] = set()
        try:
            for path, reason in _in_pool(left, out, settings, min(workers, at_once), at_once):
                done.add(path.uid)
                yield path, reason
            return
        except BrokenProcessPool:
            left = [path for path in left if path.uid not in done]
            if at_once > 1:
                at_once = 1
            else:
                yield left.pop(0), "its process died, probably for lack of memory"
                at_once = 2 * workers


def _in_pool(
    paths: Sequence[AssetFile], out: Path, settings: RenderSettings, workers: int, at_once: int
) -> Iterator[tuple[AssetFile, str | None]]:
    running: dict[Future[str | None], AssetFile] = {}
    waiting = iter(paths)
    with Workers(workers) as pool:
        while True:
            while len(running) < at_once and (path := next(waiting, None)) is not None:
                running[pool.submit(_attempt, path, out, settings)] = path
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running[future], future.result()
                del running[future]
