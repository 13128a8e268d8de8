"""`viewfold evaluate`: what views and meshes are worth, by themselves and beside a true one."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from viewfold.cli.blind import BlindFlags, VoteFlags, write_pairs
from viewfold.cli.failures import fail_if_any
from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars
from viewfold.cli.report import ReportFlags, SurveyFlags, Thing, check_flags, find_things, write_report
from viewfold.errors import FileError, FitError, InputError, MissingExtraError
from viewfold.formats import READ_MESHES

if TYPE_CHECKING:
    from viewfold.evaluation.case import Case
    from viewfold.scene.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure views (do they show one object?) and meshes (are they sound, and like a true one?), without a network."""

    paths: Positional[Annotated[tuple[Path, ...], unset("PATHS")]]
    """Folders of views, meshes (.glb, .gltf, .obj or .ply), and folders that hold many of either."""
    reference: Annotated[Path | None, unset("FILE")] = None
    """A true mesh, that the meshes are compared with, in place."""
    fit: bool = False
    """Move and scale meshes and reference into the same sphere before they are compared."""
    halves: bool = False
    """Also fit an object to each half of the views, 8 or more, and compare the two (some 10 seconds)."""
    json: bool = False
    """Print one JSON object a line, with every figure."""
    page: ReportFlags = ReportFlags()
    survey: SurveyFlags = SurveyFlags()
    blind: BlindFlags = BlindFlags()
    ballot: VoteFlags = VoteFlags()

    def run(self) -> None:
        """Print what each is worth; one that cannot be read is named, and the others are measured all the same."""
        if self.ballot.is_asked(self.paths):
            self.ballot.count(as_json=self.json)
            return
        if self.reference is None and self.fit:
            raise InputError("`fit` must go with `reference`, which meshes are compared with.")
        check_flags(self)
        reference = None if self.reference is None else _mesh(self.reference)
        failed: list[tuple[str, str]] = []
        things = find_things(self.paths) if self.survey.prompts is None else self.survey.draw(failed)
        if self.blind.ab is not None:
            things = write_pairs(self, list(things), failed)
        cases = []
        for thing in things:
            try:
                record = self._measure(thing.path, reference)
            except (FileError, FitError, InputError, MissingExtraError) as error:
                failed.append((str(thing.path), str(error)))
                continue
            print(json.dumps(record) if self.json else in_words(record), flush=True)
            cases += [self._case(thing, record)] if self.page.folder(self.survey) else []
        write_report(self, cases, failed)
        fail_if_any(failed)

    def _case(self, thing: Thing, record: dict[str, Any]) -> Case:
        from viewfold.evaluation.case import make_case

        return make_case(thing.path, record, run=thing.run, name=thing.name)

    def _measure(self, path: Path, reference: Mesh | None) -> dict[str, Any]:
        from viewfold.evaluation.record import mesh_record, views_record
        from viewfold.store import finite
        from viewfold.views import Views

        if path.suffix.lower() in READ_MESHES:
            if self.halves:
                raise InputError("`halves` must go with views; a mesh has none. Leave it out.")
            record = mesh_record(_mesh(path), reference, fit=self.fit)
        elif reference is not None:
            raise InputError("`reference` must go with meshes; views are measured by themselves. Leave them out.")
        else:
            views = Views.load(path)
            record = views_record(views)
            if self.halves:
                from viewfold.halves import measure_halves

                with progress_bars() as report:
                    record["halves"] = asdict(measure_halves(views, progress=report))
        return {"path": str(path), **finite(record)}


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
    if colors is None:
        lines.append("nothing is seen on the ground")
    else:
        lines.append(f"saturation    {colors['saturation']:.3f}, contrast {colors['contrast']:.3f}")
    if (halves := record.get("halves")) is not None:
        lines.append(
            f"halves        {halves['psnr_db']:.1f} dB, outlines IoU {halves['outline_iou']:.3f}, depth "
            f"{halves['depth_gap']:.4f}, Chamfer {halves['chamfer']:.4f} between what either half makes"
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
