"""What `viewfold evaluate` does with one thing, in this process or in another: read it, measure it, say it in words."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from viewfold.cli.cluster import cluster_of
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars
from viewfold.cli.report import Thing
from viewfold.errors import FileError, FitError, InputError, MissingExtraError
from viewfold.formats import READ_MESHES

if TYPE_CHECKING:
    from viewfold.evaluation.colors import Corpus
    from viewfold.scene.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class SpreadFlags:
    """Many things, many workers."""

    workers: int = 1
    """Processes that measure; the figures and their order are the same."""
    cluster: Annotated[str | None, unset("auto|ADDRESS")] = None
    """Ray cluster that measures, in place of processes: the one that this machine belongs to, or HOST:PORT."""

    def pool(self, out: Path | None, paths: Iterable[Path]) -> Any:
        """Return whoever measures besides this process, to be used with `with`; a cluster must see `out` or `paths`."""
        if self.workers < 1:
            raise InputError(f"`workers` must be at least 1; got {self.workers}.")
        if self.cluster is not None:
            there = (path if path.is_dir() else path.parent for path in paths if path.exists())
            return cluster_of(self.cluster, out or next(there, Path()), workers=self.workers)
        if self.workers == 1:
            return contextlib.nullcontext()
        from viewfold.data.workers import Workers

        return Workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How things are measured; goes to another process with what it needs."""

    reference: Path | None = None
    fit: bool = False
    halves: bool = False
    left_out: bool = False
    matches: bool = False
    corpus: Corpus | None = None
    cwd: Path = Path()
    """Where relative paths begin: a worker may have a folder of its own."""
    shown: bool = True
    """Show how far a fit is: in one process alone."""

    def __call__(self, path: Path) -> dict[str, Any]:
        """Return what views or a mesh are worth; every number is finite.

        Raises:
            FileError, InputError, FitError, MissingExtraError: it cannot be measured so.
        """
        from viewfold.store import finite

        if path.suffix.lower() in READ_MESHES:
            return {"path": str(path), **finite(self._mesh(self.cwd / path))}
        if self.reference is not None:
            raise InputError("`reference` must go with meshes; views are measured by themselves. Leave them out.")
        return {"path": str(path), **finite(self._views(self.cwd / path))}

    def _mesh(self, path: Path) -> dict[str, Any]:
        from viewfold.evaluation.record import mesh_record

        for name in ("halves", "left_out", "matches", "corpus"):
            if getattr(self, name):
                raise InputError(f"`{name}` must go with views; a mesh has none. Leave it out.")
        reference = None if self.reference is None else read_reference(self.cwd / self.reference)
        return mesh_record(read_mesh(path), reference, fit=self.fit)

    def _views(self, path: Path) -> dict[str, Any]:
        from viewfold.evaluation.record import matches_record, views_record
        from viewfold.views import Views

        views = Views.load(path)
        record = views_record(views, corpus=self.corpus)
        if self.matches:
            record["matches"] = matches_record(views)
        if self.halves or self.left_out:
            from viewfold import refit

            with progress_bars() if self.shown else contextlib.nullcontext() as report:
                if self.halves:
                    record["halves"] = asdict(refit.measure_halves(views, progress=report))
                if self.left_out:
                    record["left_out"] = asdict(refit.measure_left_out(views, progress=report))
        return record


def measure_all(things: Iterable[Thing], how: Measuring, pool: Any) -> Iterator[tuple[Thing, dict[str, Any] | str]]:
    """Yield each thing with its record, or with why there is none, in their order.

    Args:
        pool: workers that measure (`data.pool.Pool`); None measures here.
    """
    if pool is None:
        for thing in things:
            future: Future[dict[str, Any]] = Future()
            try:
                future.set_result(how(thing.path))
            except (FileError, FitError, InputError, MissingExtraError) as error:
                future.set_exception(error)
            yield thing, _answer(future)
        return
    from viewfold.data.pool import answers_in_order

    for thing, future in answers_in_order(things, functools.partial(_measure, how), pool):
        yield thing, _answer(future)


def _measure(how: Measuring, thing: Thing) -> dict[str, Any]:
    return how(thing.path)


def _answer(future: Future[dict[str, Any]]) -> dict[str, Any] | str:
    from viewfold.data.pool import WorkerDied

    try:
        return future.result()
    except (FileError, FitError, InputError, MissingExtraError, WorkerDied) as error:
        return str(error)
    except BrokenExecutor as error:  # the others of the pool go with it
        raise FitError("`workers` must find room: a process that measured died. Give fewer, or free memory.") from error


@functools.lru_cache(maxsize=1)
def read_reference(path: Path) -> Mesh:
    """Return a true mesh, read once a process."""
    return read_mesh(path)


def read_mesh(path: Path) -> Mesh:
    """Return a mesh; what is noted of its file is said."""
    from viewfold.scene.meshfile import load_mesh

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = load_mesh(path)
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    return mesh


def in_words(record: dict[str, Any]) -> str:
    """Return a record as a few lines."""
    return "\n  ".join([record["path"], *(_views_in_words(record) if "views" in record else _mesh_in_words(record))])


def _views_in_words(record: dict[str, Any]) -> list[str]:
    agreement, colors = record["agreement"], record["colors"]
    lines = [
        f"{record['views']} views of {record['size']} px",
        f"agreement     {agreement['score']:.3f}  (worst view {agreement['worst_view']:.3f}; outlines "
        f"{agreement['outline']:.3f}, {agreement['gap_px']:.2f} px apart; colours {agreement['color']:.3f})",
    ]
    if record["distinctness"] is not None:
        lines.append(f"distinctness  {record['distinctness']:.3f}  (0: the same picture from every side)")
    if (repetition := record["repetition"]) is not None:
        lines.append(
            f"repetition    {repetition['mean']:.3f}  (1: the same front on every side, Janus; most alike: views "
            f"{repetition['views'][0]} and {repetition['views'][1]}, {repetition['most']:.3f})"
        )
    if (epipolar := record["epipolar"]) is not None:
        lines.append(
            f"epipolar      {epipolar['ratio']:.3f} of chance  (0: perfect; view {epipolar['worst_view']} fits its "
            f"neighbour least, {epipolar['worst_cost']:.3f})"
        )
    if colors is None:
        lines.append("nothing is seen on the ground")
    else:
        lines.append(
            f"saturation    {colors['saturation']:.3f}, contrast {colors['contrast']:.3f}, "
            f"{colors['clipped']:.1%} clipped"
        )
        if (place := colors.get("place")) is not None:
            lines.append(
                f"of the corpus {place['saturation']:.0%} are less saturated, {place['contrast']:.0%} have less "
                f"contrast, {place['clipped']:.0%} are less clipped"
            )
    if (found := record.get("matches")) is not None:
        off = "" if found["median_px"] is None else f", {found['median_px']:.2f} px off the lines at the median"
        lines.append(
            f"key points    {round(found['agreeing'] * found['pairs'])} of {found['pairs']} pairs agree; "
            f"{found['with_matches']} have 10 matches or more{off}"
        )
    if (halves := record.get("halves")) is not None:
        lines.append(
            f"halves        {halves['psnr_db']:.1f} dB, outlines IoU {halves['outline_iou']:.3f}, depth "
            f"{halves['depth_gap']:.4f}, Chamfer {halves['chamfer']:.4f} between what either half makes"
        )
    if (left := record.get("left_out")) is not None:
        lines.append(
            f"left out      {left['psnr_db']:.1f} dB, outlines IoU {left['outline_iou']:.3f} of {left['n']} views to "
            f"what the others make (view {left['worst_view']} least: {left['worst_psnr_db']:.1f} dB)"
        )
    return lines


def _mesh_in_words(record: dict[str, Any]) -> list[str]:
    health = record["health"]
    faults = {
        "open edges": health["n_open_edges"],
        "edges of more than two faces": health["n_crowded_edges"],
        "edges whose faces disagree on the outside": health["n_flipped_edges"],
        "faces without area": health["n_degenerate"],
        "repeated faces": health["n_repeated"],
        "pairs of faces that pass through each other": health["n_crossings"],
    }
    pieces = f"{health['n_pieces']} piece" + ("s" if health["n_pieces"] != 1 else "")
    shape = "closed" if health["closed"] else "not closed"
    inside_out = ", inside out" if health["volume"] is not None and health["volume"] < 0 else ""
    lines = [f"{health['n_faces']} faces, {health['n_vertices']} vertices, {pieces}, {shape}{inside_out}"]
    lines += [f"{count} {what}" for what, count in faults.items() if count]
    if health["n_crossings"] is None:
        lines.append("faces that pass through each other were not counted: there are too many to look at")
    if (atlas := health["atlas"]) is not None:
        lines.append(
            f"texture       {atlas['coverage']:.0%} of the atlas, {atlas['overlap']:.1%} of it twice, "
            f"{atlas['outside']:.1%} of the surface outside; {atlas['texels_per_unit']:.0f} texels a unit, uneven by "
            f"{atlas['uneven']:.2f}; {atlas['seams']:.1%} of the edges are seams"
        )
    if (like := record.get("reference")) is not None:
        iou = "" if like["volume_iou"] is None else f", volume IoU {like['volume_iou']:.3f}"
        lines += [
            f"surface       Chamfer {like['chamfer']:.4f}, F-score {like['f_score']:.3f}, normals "
            f"{like['normal_consistency']:.3f}{iou}",
            f"pictures      {like['psnr_db']:.1f} dB, outlines IoU {like['outline_iou']:.3f}, "
            f"{like['both_psnr_db']:.1f} dB where both are",
        ]
    return lines
