"""One measured thing of a report: what it is called, who made it, and its scores by name.

Records of how things were made (run.json, the report beside a mesh) are strangers' files: what is not of the kind that
it should be is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viewfold import limits
from viewfold.errors import ViewfoldError
from viewfold.evaluation.summary import WORST_GAP_PX
from viewfold.formats import READ_MESHES
from viewfold.store import finite, read_json

Kind = Literal["views", "mesh"]

TEXT = 200
"""Letters of a name in a record that are kept."""

MAKER = ("model", "weights_sha256", "lora", "dtype", "scheduler", "device", "steps", "guidance", "suffix", "versions")
"""What is kept of how a thing was made."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a record: where it stands there, and which way is good."""

    name: str
    says: str
    get: Callable[[Mapping[str, Any]], float | None]
    better: Literal["high", "low"] | None = None
    """None: neither way is good by itself."""
    digits: int = 3
    is_share: bool = False
    """Each is 0 or 1."""
    is_count: bool = False
    """Each is a whole number."""


def _at(*names: str) -> Callable[[Mapping[str, Any]], float | None]:
    def get(record: Mapping[str, Any]) -> float | None:
        value: Any = record
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    return get


def _all_in_all(record: Mapping[str, Any]) -> float | None:
    agreement, distinct = _at("agreement", "score")(record), _at("distinctness")(record)
    return None if agreement is None else agreement * (1.0 if distinct is None else distinct)


def _gap(record: Mapping[str, Any]) -> float | None:
    gap = _at("agreement", "gap_px")(record)
    return None if gap is None else min(gap, WORST_GAP_PX)


FAULTS = ("n_open_edges", "n_crowded_edges", "n_flipped_edges", "n_degenerate", "n_repeated", "n_crossings")


def _faults(record: Mapping[str, Any]) -> float | None:
    counts, faces = [_at("health", name)(record) for name in FAULTS], _at("health", "n_faces")(record)
    known = [count for count in counts if count is not None]
    return 1000 * sum(known) / faces if known and faces else None


VIEW_SCORES = (
    Score(name="score", says="agreement × distinctness; the order of this page", get=_all_in_all, better="high"),
    Score(name="agreement", says="do the views show one object?", get=_at("agreement", "score"), better="high"),
    Score(name="worst view", says="of the agreement", get=_at("agreement", "worst_view"), better="high"),
    Score(name="outlines", says="agreement of the outlines", get=_at("agreement", "outline"), better="high"),
    Score(name="gap", says=f"between outlines, 64ths of a picture, up to {WORST_GAP_PX:g}", get=_gap, better="low"),
    Score(name="colours", says="agreement of the colours", get=_at("agreement", "color"), better="high"),
    Score(name="distinctness", says="0: one picture on every side", get=_at("distinctness"), better="high"),
    Score(name="repetition", says="1: one face on every side (Janus)", get=_at("repetition", "mean"), better="low"),
    Score(name="epipolar", says="cost as a share of chance", get=_at("epipolar", "ratio"), better="low"),
    Score(name="saturation", says="of the object", get=_at("colors", "saturation")),
    Score(name="contrast", says="of the object", get=_at("colors", "contrast")),
    Score(
        name="halves", says="dB between what either half makes", get=_at("halves", "psnr_db"), better="high", digits=1
    ),
    Score(
        name="left out",
        says="dB of a view beside what the others make",
        get=_at("left_out", "psnr_db"),
        better="high",
        digits=1,
    ),
)
"""Of views, in the order in which they are shown; the first orders them."""

MESH_SCORES = (
    Score(name="F-score", says="surface beside the true one's", get=_at("reference", "f_score"), better="high"),
    Score(name="Chamfer", says="distance to the true surface", get=_at("reference", "chamfer"), better="low", digits=4),
    Score(
        name="PSNR", says="dB, pictures beside the true one's", get=_at("reference", "psnr_db"), better="high", digits=1
    ),
    Score(name="IoU", says="outlines beside the true one's", get=_at("reference", "outline_iou"), better="high"),
    Score(
        name="closed", says="share of the meshes", get=_at("health", "closed"), better="high", digits=2, is_share=True
    ),
    Score(name="faults", says="edges and faces at fault, per 1000 faces", get=_faults, better="low", digits=2),
    Score(name="pieces", says="that do not hang together", get=_at("health", "n_pieces"), digits=1, is_count=True),
    Score(name="faces", says="", get=_at("health", "n_faces"), digits=0, is_count=True),
)
"""Of meshes; the first two that a mesh has order them: likeness where there is a true one, else closed and faults."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A set of views or a mesh with all that was measured of it."""

    kind: Kind
    path: str
    record: Mapping[str, Any]
    """As `views_record` or `mesh_record` give it, every number finite."""
    run: str = ""
    """Which of the things that are compared it belongs to."""
    name: str = ""
    """What it is called where it has no prompt: its place in the run."""
    prompt: str = ""
    seed: int | None = None
    maker: Mapping[str, Any] = field(default_factory=dict)
    """Names of `MAKER`, as far as they are known."""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What intervals are drawn over: seeds of one prompt are not independent of each other."""
        return self.prompt or self.name

    @property
    def key(self) -> tuple[str, str, int | None]:
        """The same in two runs for what can be compared."""
        return self.kind, self.subject, self.seed

    @property
    def goodness(self) -> tuple[float, ...]:
        """Sorts the worst first."""
        found = [(s, self.scores[s.name]) for s in scores_of(self.kind) if s.better and s.name in self.scores]
        return tuple(value if score.better == "high" else -value for score, value in found[:2])


def scores_of(kind: str) -> tuple[Score, ...]:
    """Return the scores of "views" or of a "mesh"."""
    return VIEW_SCORES if kind == "views" else MESH_SCORES


def make_case(path: str | Path, record: Mapping[str, Any], *, run: str = "", name: str = "") -> Case:
    """Return a measured thing with what its own files say of how it was made.

    Args:
        path: a folder of views or a mesh.
        record: what `views_record` or `mesh_record` returned.
        run: which of the things that are compared it belongs to.
        name: what it is called where it has no prompt; by default the path's last part.
    """
    path, record = Path(path), finite({k: v for k, v in record.items() if k != "path"})
    kind: Kind = "mesh" if "health" in record else "views"
    prompt, seed, maker = read_maker(path)
    found = {score.name: value for score in scores_of(kind) if (value := score.get(record)) is not None}
    return Case(
        kind=kind,
        path=str(path),
        record=record,
        run=run,
        name=name or path.name,
        prompt=prompt,
        seed=seed,
        maker=maker,
        scores=found,
    )


def read_maker(path: Path) -> tuple[str, int | None, dict[str, Any]]:
    """Return prompt, seed and maker, as the record beside a thing tells them; empty where there is none."""
    place = path.with_suffix(".json") if path.suffix.lower() in READ_MESHES else path / "run.json"
    try:
        told = read_json(place)
    except ViewfoldError:  # photographs, others' meshes: no record is no fault
        return "", None, {}
    groups = [told, told.get("settings"), told.get("provenance")]
    flat: dict[str, Any] = {}
    for group in groups:
        flat = {**(group if isinstance(group, dict) else {}), **flat}
    prompt = told.get("prompt") if isinstance(told.get("prompt"), str) else ""
    seed = flat.get("seed") if type(flat.get("seed")) is int and abs(flat["seed"]) < 2**63 else None
    maker = {name: kept for name in MAKER if (kept := _kept(name, flat.get(name))) not in (None, "", [], {})}
    return str(prompt)[: limits.PROMPT_CHARACTERS], seed, maker


def _kept(name: str, value: Any) -> Any:
    """Return a value of a record if it is of its kind, cut to a reasonable length."""
    match name:
        case "weights_sha256":
            return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None
        case "steps" | "guidance":
            return finite(value) if type(value) in (int, float) and abs(value) < 1e9 else None
        case "versions":
            return _texts(value)
        case "lora":
            parts = [_texts(each) for each in value[:8]] if isinstance(value, list) else []
            return [f"{part['file']} {part.get('sha256', '')[:8]}".strip() for part in parts if "file" in part]
    return value[:TEXT] if isinstance(value, str) else None


def _texts(value: Any) -> dict[str, str]:
    items = list(value.items())[:16] if isinstance(value, dict) else []
    return {str(name)[:TEXT]: text[:TEXT] for name, text in items if isinstance(text, str)}
