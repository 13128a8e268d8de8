"""`viewfold evaluate`: what views and meshes are worth, by themselves and beside true ones."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from viewfold.cli.failures import fail_if_any
from viewfold.cli.fidelity import print_fidelity
from viewfold.cli.model import Device
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars
from viewfold.errors import FileError, FitError, InputError, MissingExtraError
from viewfold.formats import READ_MESHES, VIEW_RECORDS

if TYPE_CHECKING:
    from viewfold.evaluation.colors import Corpus
    from viewfold.scene.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure views (do they show one object?), meshes (are they sound, and like a true one?), and sets of pictures."""

    paths: Positional[Annotated[tuple[Path, ...], unset("PATHS")]]
    """Folders of views, folders that hold many of those, and meshes: .glb, .gltf, .obj or .ply; see also --encoder."""
    reference: Annotated[Path | None, unset("FILE")] = None
    """A true mesh, that the meshes are compared with, in place."""
    fit: bool = False
    """Move and scale meshes and reference into the same sphere before they are compared."""
    halves: bool = False
    """Also fit an object to each half of the views, 8 or more, and compare the two (some 10 seconds)."""
    left_out: bool = False
    """Also leave each of up to 8 views out in turn, and compare it with what is fitted to the others (a minute)."""
    corpus: Annotated[Path | None, unset("FOLDER")] = None
    """Folders of views of true things, among which the saturation and contrast of the views are placed."""
    encoder: Annotated[str | None, unset("SPEC")] = None
    """Measure all pictures as one set, by efficientnet-lite0, or KIND=FILE as docs/evaluation.md lists them."""
    real: Annotated[tuple[Path, ...], UseAppendAction, unset("PATH")] = ()
    """True pictures, that those are compared with (FID, KID): folders or shards; may be given again."""
    device: Device = "auto"
    """Where the encoder computes; auto takes the first GPU."""
    json: bool = False
    """Print one JSON object a line, with every figure."""

    def run(self) -> None:
        """Print what each is worth; one that cannot be read is named, and the others are measured all the same."""
        if not self.paths:
            raise InputError("`paths` must name at least one folder of views or mesh.")
        if self.encoder is not None:
            return print_fidelity(self, self.encoder)
        if self.real or self.device != "auto":
            raise InputError(f"`{'real' if self.real else 'device'}` must go with `encoder`, which looks at pictures.")
        if self.reference is None and self.fit:
            raise InputError("`fit` must go with `reference`, which meshes are compared with.")
        reference = None if self.reference is None else _mesh(self.reference)
        failed: list[tuple[str, str]] = []
        corpus = self._corpus(failed)
        for path in _folders(self.paths):
            try:
                record = self._measure(path, reference, corpus)
            except (FileError, FitError, InputError, MissingExtraError) as error:
                failed.append((str(path), str(error)))
                continue
            print(json.dumps(record) if self.json else in_words(record), flush=True)
        fail_if_any(failed)

    def _corpus(self, failed: list[tuple[str, str]]) -> Corpus | None:
        """Return the colours of the corpus; folders of it that cannot be read are added to `failed`."""
        if self.corpus is None:
            return None
        from viewfold.evaluation.colors import Corpus
        from viewfold.evaluation.record import views_colors
        from viewfold.views import Views

        found = []
        for folder in _folders((self.corpus,)):
            try:
                found.append(views_colors(Views.load(folder)))
            except (FileError, InputError) as error:
                failed.append((str(folder), str(error)))
        return Corpus(colors for colors in found if colors is not None)

    def _measure(self, path: Path, reference: Mesh | None, corpus: Corpus | None) -> dict[str, Any]:
        from viewfold.evaluation.record import mesh_record, views_record
        from viewfold.store import finite
        from viewfold.views import Views

        if path.suffix.lower() in READ_MESHES:
            for name in ("halves", "left_out", "corpus"):
                if getattr(self, name):
                    raise InputError(f"`{name}` must go with views; a mesh has none. Leave it out.")
            record = mesh_record(_mesh(path), reference, fit=self.fit)
        elif reference is not None:
            raise InputError("`reference` must go with meshes; views are measured by themselves. Leave them out.")
        else:
            views = Views.load(path)
            record = views_record(views, corpus=corpus)
            if self.halves or self.left_out:
                from viewfold import refit

                with progress_bars() as report:
                    if self.halves:
                        record["halves"] = asdict(refit.measure_halves(views, progress=report))
                    if self.left_out:
                        record["left_out"] = asdict(refit.measure_left_out(views, progress=report))
        return {"path": str(path), **finite(record)}


def _folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the things to be measured: of a folder without cameras, the folders of views within it."""
    for path in paths:
        if path.is_dir() and not _has_cameras(path):
            within = sorted(folder for folder in path.rglob("*") if folder.is_dir() and _has_cameras(folder))
            yield from within or [path]
        else:
            yield path


def _has_cameras(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VIEW_RECORDS)


def _mesh(path: Path) -> Mesh:
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
