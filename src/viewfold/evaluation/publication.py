"""The report in two files: report.html for people, report.json for programs, both of the same findings."""

from __future__ import annotations

from pathlib import Path

from viewfold.errors import InputError
from viewfold.evaluation.findings import Findings, json_chunks
from viewfold.evaluation.page import page_chunks
from viewfold.evaluation.thumbnail import Draw, draw_thumbnail
from viewfold.store import atomic_write

WORST = 12
"""Of each run, shown with pictures."""

PAGE, DOCUMENT = "report.html", "report.json"


def write_findings(
    findings: Findings, folder: str | Path, *, worst: int = WORST, draw: Draw = draw_thumbnail
) -> tuple[Path, Path]:
    """Write report.html and report.json into a folder, each whole or not at all; return their paths.

    The page is written as it is made: of its pictures one is held at a time.

    Args:
        findings: what `find` returned.
        folder: is made if it is not there; what else it holds stays.
        worst: of each run, and of each comparison, that are shown with pictures.
        draw: gives the picture of a path.

    Raises:
        InputError: `worst` is negative.
        OutputError: the folder cannot be written.
    """
    if worst < 0:
        raise InputError(f"`worst` must be 0 or more; got {worst}.")
    page, document = Path(folder) / PAGE, Path(folder) / DOCUMENT
    with atomic_write(document) as temporary, temporary.open("w", encoding="ascii") as file:
        file.writelines(json_chunks(findings))
    with atomic_write(page) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(page_chunks(findings, worst=worst, draw=draw))
    return page, document
