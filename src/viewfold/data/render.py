"""Posed pictures of a folder of assets: the second step of the training data, after the assets, before the shards.

Reads assets with what `source` knows about them; writes <uid>/000.webp ... and <uid>/meta.json.  A folder appears under
its name complete or not at all, so that a run can be stopped, repeated and shared between processes and machines.
Knows no network, and not how an engine draws.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.crew import Limits, work_through
from viewfold.data.engines import PAPER, Engine, EngineLost, Pictures, RenderSettings, Subject, open_engine
from viewfold.data.engines.builtin import Builtin
from viewfold.data.pool import Pool, work_in_pool
from viewfold.data.rendered import META, Rendered, asset_facts
from viewfold.data.source import AssetFile, captioned_assets
from viewfold.errors import AssetError, InputError
from viewfold.label import UNLABELLED, Label
from viewfold.store import Claims, atomic_write, check_output, sweep, write_json

__all__ = [
    "PAPER",
    "RENDER_FILES",
    "Limits",
    "RenderReport",
    "RenderSettings",
    "render_asset",
    "render_assets",
    "write_pictures",
]

RENDER_FILES = r"\d{3,}\.webp|\d{3,}\.(depth|normal)\.png|meta\.json|\.DS_Store"
"""Names in a folder of renders; a folder that holds anything else is never replaced."""

DEPTH_STEPS = 65535
"""Of a depth picture: its farthest point has this number."""

Webp = Literal["small", "fast"]
"""How much work goes into packing the same pixels."""

_WEBP: dict[Webp, dict[str, Any]] = {"small": {"method": 2, "quality": 20}, "fast": {"method": 0, "quality": 0}}

_LOOK_S = 0.2
"""Between two looks at what another process is working on."""


@dataclass(frozen=True, kw_only=True)
class RenderReport:
    """What became of the assets of a folder."""

    done: int = 0
    """Rendered now."""

    skipped: int = 0
    """Found finished, or finished by another process meanwhile."""

    renewed: int = 0
    """Of those that were to be rendered, how many had pictures of a file that has changed since, or damaged ones."""

    failed: list[tuple[str, str]] = field(default_factory=list)
    """File name and reason of each asset that could not be rendered."""

    remarks: list[str] = field(default_factory=list)
    """Of assets that were rendered now: what is drawn otherwise than their makers may have meant."""

    uncaptioned: list[str] = field(default_factory=list)
    """File names of assets without a caption: they have pictures, but cannot be packed until they have one."""


def render_assets(
    folder: str | Path,
    out: str | Path,
    *,
    settings: RenderSettings = RenderSettings(),  # noqa: B008
    workers: int = 1,
    captions: str | Path | None = None,
    caption_from_name: bool = False,
    limits: Limits = Limits(),  # noqa: B008
    blender: str | Path | None = None,
    webp: Webp = "small",
    pool: Pool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Render every asset of `folder` that `out` does not hold yet.

    They come in no order that their names would tell, so that a run that was stopped leaves a fair sample: names often
    begin with the kind.  Several processes may be given the same folders: each asset is rendered by one of them.

    Args:
        folder: of .glb, .gltf, .obj or .ply files, and folders of them.
        out: receives a folder per asset.
        settings: pictures, cameras and engine.
        workers: processes; 1 without a limit works in this one.
        captions: a table of them, see `captions.read_table`.
        caption_from_name: caption an asset that has none after its file; else it is named in the report.
        limits: of time and memory for each asset; one over them is named, and the rest goes on.
        blender: a Python that has bpy, or Blender's executable, for that engine.
        webp: "fast" writes a picture in a fifth of the time and 1.7 to 2.5 times the bytes; the pixels are the same.
        pool: workers elsewhere, in place of `workers` and `limits`; they see the same folders under the same names.
        progress: called with (assets dealt with, all assets).

    Raises:
        InputError: no such folder, no asset in it, or `out` holds renders of other settings.
        MissingExtraError: the engine is not installed.
        OutputError: a result cannot be written.
    """
    folder, out = (Path(folder), Path(out)) if pool is None else (Path(folder).resolve(), Path(out).resolve())
    if workers < 1:
        raise InputError(f"`workers` must be at least 1; got {workers}.")
    assets = captioned_assets(folder, captions=captions, from_name=caption_from_name)
    bare = [asset.name for asset in assets if asset.reason is None and not asset.record.get("captions")]
    threads = None if workers == 1 else max(1, (os.cpu_count() or 1) // workers)
    make = functools.partial(_Station, out, settings, webp, retries=limits.retries, blender=blender, threads=threads)
    with Rendered(out, settings) as rendered, Claims(out) as claims:
        pending, failed = _sorted_out(assets, rendered)
        renewed = sum((out / asset.uid).is_dir() for asset in pending)
        finished, n_done = len(assets) - len(pending) - len(failed), 0
        queue = _Queue(pending, rendered.is_finished, claims)
        while queue.left:
            if pool is None:
                results = work_through(queue, make, workers=min(workers, len(queue.left)), limits=limits)
            else:
                results = work_in_pool(queue, make, pool)
            with queue.swept(out), contextlib.closing(results):
                for asset, reason in results:
                    if reason is not None:
                        sweep(out / asset.uid)  # of what a process that was killed left
                        failed.append((asset.name, reason))
                    queue.release(asset)
                    rendered.note(asset, reason)
                    n_done += reason is None
                    if progress is not None:
                        progress(finished + n_done + len(failed) + queue.elsewhere, len(assets))
            if queue.left:
                time.sleep(_LOOK_S)
    if progress is not None and queue.elsewhere:
        progress(len(assets), len(assets))
    skipped = len(assets) - n_done - len(failed)
    return RenderReport(
        done=n_done, skipped=skipped, renewed=renewed, failed=sorted(failed), remarks=rendered.remarks, uncaptioned=bare
    )


def _sorted_out(assets: list[AssetFile], rendered: Rendered) -> tuple[list[AssetFile], list[tuple[str, str]]]:
    """Return the assets that are to be rendered, in no order that names would tell, and those that cannot be."""
    pending, failed = [], []
    for asset in assets:
        reason = asset.reason
        try:
            if reason is None and not rendered.is_finished(asset):
                pending.append(asset)
        except AssetError as error:
            reason = str(error)
        if reason is not None:
            rendered.note(asset, reason)
            failed.append((asset.name, reason))
    pending.sort(key=lambda asset: hashlib.sha256(asset.uid.encode("utf-8", "surrogateescape")).digest())
    return pending, failed


def render_asset(
    asset: Path | AssetFile, out: Path, *, settings: RenderSettings, engine: Engine | None = None, webp: Webp = "small"
) -> None:
    """Render one asset into `out`/<uid>.

    Args:
        engine: what draws, as the settings name it; None is the built-in one.
        webp: see `render_assets`.

    Raises:
        AssetError: the asset or its json cannot be used.
        OutputError: the result cannot be written.
    """
    engine = Builtin() if engine is None else engine
    asset = AssetFile.of(asset) if isinstance(asset, Path) else asset
    path, uid = asset.path, asset.uid
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            subject = Subject.of(path, frame=settings.frame, uid=uid)
    except InputError as error:
        raise AssetError(f"`{path}` cannot be rendered: {error}") from error
    cameras = settings.cameras(uid)
    pictures = engine.draw(subject, cameras, settings)
    if not bool(pictures.rgba[:, 3].any()):
        raise AssetError(f"`{path}` cannot be rendered: none of its faces is visible.")
    check_output(out / uid, holds=RENDER_FILES)
    with atomic_write(out / uid) as partial:
        partial.mkdir()
        files = write_pictures(pictures, partial, settings, webp=webp)
        light = settings.light_of(uid)
        drawing = {"engine": engine.version, "light": None if light is None else asdict(light), **pictures.notes}
        drawing |= (
            {"remarks": [str(remark.message).replace(str(path), path.name) for remark in remarks]} if remarks else {}
        )
        meta = {
            **asset.record,
            "uid": uid,
            "asset": asset_facts(path),
            "views": [{**view, **numbers} for view, numbers in zip(files, _describe(cameras), strict=True)],
            "render": settings.record(),
            "drawing": drawing,
            "mesh": subject.facts(),
        }
        write_json(partial / META, meta, indent=None)  # with line breaks Python writes it ten times as slowly


def write_pictures(
    pictures: Pictures,
    folder: Path,
    settings: RenderSettings,
    *,
    webp: Webp = "small",
    label: Label = UNLABELLED,
) -> list[dict[str, Any]]:
    """Write the files of each view; return their names and what is needed to read them."""
    views: list[dict[str, Any]] = []
    fields, png = label.picture_options(".webp"), label.picture_options(".png")
    for index, picture in enumerate(_bytes(pictures.rgba)):
        name = f"{index:03d}.webp"
        Image.fromarray(picture).save(folder / name, lossless=True, **_WEBP[webp], **fields)
        views.append({"file": name})
    if settings.depth:
        for index, depth in enumerate(pictures.depth[:, 0].cpu().numpy()):
            scale = float(depth.max()) / DEPTH_STEPS or 1.0
            name = f"{index:03d}.depth.png"
            Image.fromarray(np.rint(depth / scale).astype(np.uint16)).save(folder / name, **png)
            views[index] |= {"depth_file": name, "depth_scale": scale}
    if settings.normals:
        there = (pictures.normal != 0).any(dim=1, keepdim=True)
        for index, normal in enumerate(_bytes((pictures.normal + 1) / 2 * there)):
            name = f"{index:03d}.normal.png"
            Image.fromarray(normal).save(folder / name, **png)
            views[index] |= {"normal_file": name}
    return views


def _bytes(pictures: Float[Tensor, "v c h w"]) -> np.ndarray:
    """Return 8-bit pictures, the channels last."""
    return pictures.mul(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _describe(cameras: Cameras) -> list[dict[str, Any]]:
    rows = zip(
        cameras.world_from_camera.flatten(1).tolist(),
        cameras.fov_deg.tolist(),
        cameras.elevation_deg.tolist(),
        cameras.azimuth_deg.tolist(),
        strict=True,
    )
    return [
        {"world_from_camera": pose, "fov_deg": fov, "elevation_deg": elevation, "azimuth_deg": azimuth}
        for pose, fov, elevation, azimuth in rows
    ]


class _Station:
    """What a process does with one asset after the other, by one engine."""

    def __init__(self, out: Path, settings: RenderSettings, webp: Webp, *, retries: int, **program: Any) -> None:
        self.out, self.settings, self.retries = out, settings, retries
        self.webp: Webp = webp
        self.engine = open_engine(settings, **program)

    def __call__(self, asset: AssetFile) -> str | None:
        for left in range(self.retries, -1, -1):
            try:
                return _attempt(asset, self.out, self.settings, self.engine, self.webp)
            except EngineLost as error:
                if not left:
                    return str(error)
        raise AssertionError

    def close(self) -> None:
        self.engine.close()


def _attempt(asset: AssetFile, out: Path, settings: RenderSettings, engine: Engine, webp: Webp) -> str | None:
    """Render one asset; return the reason if the asset is to blame.

    Raises:
        EngineLost: the engine died.
    """
    try:
        render_asset(asset, out, settings=settings, engine=engine, webp=webp)
    except EngineLost:
        raise
    except (AssetError, MemoryError) as error:
        return str(error) or "not enough memory"
    return None


class _Queue:
    """The assets that nobody has finished: claimed as they are handed out, those of others kept for the next round."""

    def __init__(self, assets: Sequence[AssetFile], is_finished: Callable[[AssetFile], bool], claims: Claims) -> None:
        self.left, self.elsewhere = list(assets), 0
        self._is_finished, self._claims = is_finished, claims
        self._in_hand: set[str] = set()

    def __iter__(self) -> Iterator[AssetFile]:
        assets, self.left = self.left, []
        for asset in assets:
            if not self._claims.take(asset.uid):
                self.left.append(asset)
            elif self._is_finished(asset):
                self._claims.release(asset.uid)
                self.elsewhere += 1
            else:
                self._in_hand.add(asset.uid)
                yield asset

    def release(self, asset: AssetFile) -> None:
        """Let go of an asset that was dealt with."""
        self._in_hand.discard(asset.uid)
        self._claims.release(asset.uid)

    @contextlib.contextmanager
    def swept(self, out: Path) -> Iterator[None]:
        """Clear up, after a block that was ended early, what those were at that are still in hand.

        A process that is told to stop clears up after itself, but may be told while it does just that.
        """
        try:
            yield
        finally:
            for uid in self._in_hand:
                sweep(out / uid)
