"""Cases and pictures of a report, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from viewfold.evaluation.case import Case, make_case
from viewfold.evaluation.thumbnail import Thumbnail

DOT = Thumbnail(uri="data:image/webp;base64,AAAA", width=8, height=4)

HOSTILE = "a mug\"'><script>alert(1)</script><img src=//x.test/y onerror=alert(2)> \u202eevil\x00 & \ud800"


def views_record(score: float, *, distinctness: float | None = 1.0, saturation: float = 0.5) -> dict[str, Any]:
    """What `evaluation.record.views_record` gives, with these numbers."""
    agreement = {"score": score, "worst_view": score - 0.1, "outline": score, "gap_px": 0.1, "color": 1.0}
    colors = {"saturation": saturation, "contrast": 0.1}
    return {
        "views": 4,
        "size": 64,
        "prompt": "",
        "agreement": agreement,
        "distinctness": distinctness,
        "colors": colors,
    }


def mesh_record(*, closed: bool, open_edges: int = 0, faces: int = 1000) -> dict[str, Any]:
    """What `evaluation.record.mesh_record` gives, with these numbers."""
    counts = {"n_crowded_edges": 0, "n_flipped_edges": 0, "n_degenerate": 0, "n_repeated": 0, "n_crossings": None}
    return {"health": {"n_faces": faces, "n_pieces": 1, "n_open_edges": open_edges, "closed": closed, **counts}}


def case(
    folder: Path,
    prompt: str,
    record: dict[str, Any],
    *,
    run: str = "",
    seed: int | None = 0,
    model: str = "toybox",
    weights: str = "a" * 64,
) -> Case:
    """A case whose run.json lies under a name of its own in `folder`."""
    place = folder / f"{run or 'run'}-{len(list(folder.iterdir())):04d}"
    place.mkdir()
    made = {"weights_sha256": weights, "device": "cpu", "dtype": "float32"}
    told = {"prompt": prompt, "settings": {"seed": seed}, "provenance": {"model": model}, **made}
    (place / "run.json").write_text(json.dumps(told))
    return make_case(place, record, run=run)
