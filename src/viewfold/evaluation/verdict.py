"""From cases to the figures of a report: means of each run, and paired differences of two, with 95 % intervals.

Seeds of one prompt are averaged before anything is resampled: a prompt that is hard is hard for every seed, and to
count each drawing as independent would make intervals too narrow.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from viewfold.evaluation.case import Case, Kind, Score, scores_of
from viewfold.evaluation.interval import Figure, mean, paired_difference, share

KINDS: tuple[Kind, ...] = ("views", "mesh")

MAKERS = 8
"""Of one run, that are listed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was measured of one thing that is compared, worst first."""

    name: str
    cases: Sequence[Case]
    figures: dict[Kind, dict[str, Figure]]
    makers: Sequence[tuple[dict[str, Any], int]]
    """How its things were made, as far as their files say, and how many each."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second run minus the first, over the same prompts and seeds."""

    first: str
    second: str
    kind: Kind
    pairs: Sequence[tuple[Case, Case]]
    """The greatest loss of the second first."""
    figures: dict[str, Figure]
    left_out: dict[str, int] = field(default_factory=dict)
    """Why things were not paired, and how many."""


def split_runs(cases: Iterable[Case]) -> list[Case]:
    """Return the cases with a run for each model, where what was given as one holds the work of several."""
    cases = list(cases)
    makers: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for case in cases:
        makers[case.run] |= {_model(case)} - {("", "")}
    return [replace(case, run=_label(case, makers[case.run])) for case in cases]


def _model(case: Case) -> tuple[str, str]:
    return str(case.maker.get("model", "")), str(case.maker.get("weights_sha256", ""))[:8]


def _label(case: Case, makers: set[tuple[str, str]]) -> str:
    if len(makers) < 2:
        return case.run
    model, weights = _model(case)
    alike = sum(name == model for name, _ in makers) > 1
    words = [case.run, model or "unknown model", *[weights or "unknown weights"] * alike]
    return " / ".join(word for word in words if word)


def make_run(name: str, cases: Iterable[Case]) -> Run:
    """Return a run with its figures."""
    cases = sorted(cases, key=lambda case: (KINDS.index(case.kind), case.goodness, case.path))
    figures: dict[Kind, dict[str, Figure]] = {}
    for kind in KINDS:
        some = [case for case in cases if case.kind == kind]
        found = [(score, by_subject(some, score)) for score in scores_of(kind)]
        if some:
            figures[kind] = {score.name: figure_of(score, values) for score, values in found if values}
    told: dict[str, tuple[dict[str, Any], int]] = {}
    for case in cases:
        maker = dict(case.maker)
        told[repr(maker)] = (maker, told.get(repr(maker), (maker, 0))[1] + 1)
    makers = sorted(told.values(), key=lambda each: -each[1])[:MAKERS]
    return Run(name=name, cases=cases, figures=figures, makers=makers)


def by_subject(cases: Iterable[Case], score: Score) -> list[float]:
    """Return a score's mean over the seeds of each subject, in the order of the subjects' names."""
    values: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        if score.name in case.scores:
            values[case.subject].append(case.scores[score.name])
    return [statistics.fmean(values[subject]) for subject in sorted(values)]


def figure_of(score: Score, values: Sequence[float]) -> Figure:
    """Return a mean with its interval: Wilson's of a share (closed or not, one seed each), else a bootstrap."""
    is_share = score.is_share and set(values) <= {0.0, 1.0}
    return share([value == 1.0 for value in values]) if is_share else mean(values)


def compare_runs(first: Run, second: Run) -> list[Comparison]:
    """Return what differs between two runs in what both have, a comparison for each kind; none where nothing pairs.

    A prompt with a seed that a run holds more than once is left out, for nobody knows which is meant, and counted.
    """
    found = []
    for kind in KINDS:
        sides = [[case for case in run.cases if case.kind == kind] for run in (first, second)]
        counts = [Counter(case.key for case in side) for side in sides]
        repeated = {key for count in counts for key, n in count.items() if n > 1}
        ours, theirs = ({case.key: case for case in side if case.key not in repeated} for side in sides)
        pairs = [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
        if not pairs:
            continue
        figures = {}
        for score in scores_of(kind):
            both = [(a, b) for a, b in pairs if score.name in a.scores and score.name in b.scores]
            if both:
                before = by_subject([a for a, _ in both], score)
                figures[score.name] = paired_difference(by_subject([b for _, b in both], score), before)
        alone = {f"only in {run.name}": len(a.keys() - b.keys()) for run, a, b in _both(first, second, ours, theirs)}
        said = {**alone, "there more than once": sum(count[key] for count in counts for key in repeated)}
        found.append(
            Comparison(
                first=first.name,
                second=second.name,
                kind=kind,
                pairs=sorted(pairs, key=lambda pair: (*_loss(*pair), pair[0].path)),
                figures=figures,
                left_out={why: n for why, n in said.items() if n},
            )
        )
    return found


def _both(first: Run, second: Run, ours: dict[Any, Case], theirs: dict[Any, Case]) -> list[tuple[Run, Any, Any]]:
    return [(first, ours, theirs), (second, theirs, ours)]


def _loss(first: Case, second: Case) -> tuple[float, ...]:
    return tuple(b - a for a, b in zip(first.goodness, second.goodness, strict=False))


def holds_zero(figure: Figure) -> bool:
    """Return whether a difference may be none at all; of one pair nobody can tell."""
    return figure.n < 2 or figure.low <= 0.0 <= figure.high


def judge(score: Score, figure: Figure) -> str:
    """Return what a difference says: better, worse, higher, lower, or none where none is shown."""
    if holds_zero(figure):
        return "none"
    if score.better is None:
        return "higher" if figure.value > 0 else "lower"
    return "better" if (figure.value > 0) == (score.better == "high") else "worse"


def as_json(figure: Figure) -> dict[str, Any]:
    """Return a figure for JSON; of a single subject there is no interval."""
    return asdict(figure) | ({"low": None, "high": None} if figure.n < 2 else {})
