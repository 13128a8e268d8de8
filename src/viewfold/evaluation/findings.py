"""All that a report says, as figures made from the cases, and as one JSON object; `page` says it to people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viewfold.evaluation.case import Case
from viewfold.evaluation.verdict import Comparison, Run, as_json, compare_runs, holds_zero, make_run, split_runs
from viewfold.store import finite


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found, by whom it was asked, and what could not be used."""

    runs: Sequence[Run]
    comparisons: Sequence[Comparison]
    """Of the first run with each other one."""
    failed: Sequence[tuple[str, str]]
    """Names of things that could not be used, and why."""
    command: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    """Where it was measured; where things were drawn is told by their makers."""


def find(
    cases: Sequence[Case],
    failed: Sequence[tuple[str, str]] = (),
    *,
    command: str = "",
    machine: Mapping[str, str] | None = None,
) -> Findings:
    """Return the figures of what was measured.

    Args:
        cases: in any order; those of the first run that is named are what the others are compared with.
        failed: names of what could not be used, and why.
        command, machine: what a reader needs to do it again.
    """
    cases = split_runs(cases)
    runs = [make_run(name, [c for c in cases if c.run == name]) for name in dict.fromkeys(c.run for c in cases)]
    comparisons = [found for other in runs[1:] for found in compare_runs(runs[0], other)]
    return Findings(
        runs=runs, comparisons=comparisons, failed=list(failed), command=command, machine=dict(machine or {})
    )


def json_chunks(findings: Findings) -> Iterator[str]:
    """Yield one JSON object piece by piece, without NaN: what the page says, and every record whole."""
    head = {
        "command": findings.command,
        "machine": dict(findings.machine),
        "n_failed": len(findings.failed),
        "runs": [_run_json(run) for run in findings.runs],
        "comparisons": [_comparison_json(each) for each in findings.comparisons],
        "failed": [{"name": name, "reason": reason} for name, reason in findings.failed],
    }
    yield json.dumps(finite(head), indent=1, allow_nan=False)[:-2] + ',\n "cases": ['
    separator = "\n  "
    for run in findings.runs:
        for case in run.cases:
            yield separator + json.dumps(finite(case_json(case)), allow_nan=False)
            separator = ",\n  "
    yield "\n ]\n}\n"


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "n": {kind: sum(case.kind == kind for case in run.cases) for kind in run.figures},
        "figures": {kind: {name: as_json(f) for name, f in each.items()} for kind, each in run.figures.items()},
        "makers": [{**maker, "n": count} for maker, count in run.makers],
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    figures = comparison.figures.items()
    return {
        "first": comparison.first,
        "second": comparison.second,
        "kind": comparison.kind,
        "n_pairs": len(comparison.pairs),
        "left_out": comparison.left_out,
        "second_minus_first": {name: {**as_json(f), "holds_zero": holds_zero(f)} for name, f in figures},
        "greatest_loss_first": [[first.path, second.path] for first, second in comparison.pairs],
    }


def case_json(case: Case) -> dict[str, Any]:
    """Return a case as report.json has it."""
    return {
        "run": case.run,
        "kind": case.kind,
        "path": case.path,
        "prompt": case.prompt,
        "seed": case.seed,
        "scores": dict(case.scores),
        "maker": dict(case.maker),
        "record": {name: value for name, value in case.record.items() if name != "prompt"},
    }
