"""From outcomes, one per subject, to the figures of a table, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from viewfold.evaluation.fidelity import Outcome
from viewfold.evaluation.interval import Figure, mean, paired_difference, ratio, share

CONSISTENT_QUANTILE = 0.05
"""Views count as consistent if they score above this share of true renders."""

WORST_GAP_PX = 5.0
"""Gaps count up to this in means: views without an object have none that means anything."""


def summarise(
    outcomes: Mapping[str, Sequence[Outcome]],
    reference: Sequence[Outcome],
    lifted: Sequence[Outcome] = (),
    n_failed: int = 0,
) -> dict[str, Figure]:
    """Return every figure; a lift that failed counts as wrong in all of its."""
    truth = [item.consistency for item in reference]
    floor = sorted(truth)[int(CONSISTENT_QUANTILE * len(truth))]
    figures: dict[str, Figure] = {}
    if toys := outcomes.get("held_out", []):
        figures |= {
            "right kind": share([o.right_kind for o in toys]),
            "right main colour": share([o.right_main for o in toys]),
            "right colour on the named part": share([o.right_accent for o in toys]),
            "all three right": share([o.right_kind and o.right_main and o.right_accent for o in toys]),
            "right kind, views seen alone": mean([o.right_sides / len(o.verdict.kind_of_each) for o in toys]),
            "consistency, share of true renders'": ratio([o.consistency for o in toys], truth),
            "look-alike views, share of true renders'": ratio(
                [o.verdict.agreement for o in toys], [o.verdict.agreement for o in reference]
            ),
            "consistent views (95 % of true renders are)": share([o.consistency >= floor for o in toys]),
        }
    if unnamed := outcomes.get("open", []):
        figures |= {
            "part not named: right kind": share([o.right_kind for o in unnamed]),
            "part not named: consistency, share of true renders'": ratio([o.consistency for o in unnamed], truth),
            "part not named: look-alike views, share of true renders'": ratio(
                [o.verdict.agreement for o in unnamed], [o.verdict.agreement for o in reference]
            ),
        }
    if words := outcomes.get("words", []):
        figures |= {
            "unseen words: right kind": share([o.right_kind for o in words]),
            "unseen words: right main colour": share([o.right_main for o in words]),
            "unseen words: both right": share([o.right_kind and o.right_main for o in words]),
        }
    if emoji := outcomes.get("emoji", []):
        figures |= {
            "emoji only: consistency, share of true renders'": ratio([o.consistency for o in emoji], truth),
            "emoji only: consistent views": share([o.consistency >= floor for o in emoji]),
        }
    if lifted or n_failed:
        missed, no_sides = [False] * n_failed, [0.0] * n_failed
        figures |= {
            "GLB: recognisable (5 of 8 new sides)": share([o.recognisable for o in lifted] + missed),
            "GLB: right kind, sides seen alone": mean(
                [o.right_sides / len(o.verdict.kind_of_each) for o in lifted] + no_sides
            ),
            "GLB: right kind": share([o.right_kind for o in lifted] + missed),
            "GLB: right main colour": share([o.right_main for o in lifted] + missed),
            "GLB: right kind and main colour": share([o.right_kind and o.right_main for o in lifted] + missed),
            "GLB: right colour on the named part": share([o.right_accent for o in lifted] + missed),
        }
        if two_sided := [o.two_sided for o in lifted if o.two_sided is not None]:
            figures["GLB: front and back differ where the true toy's do"] = share(two_sided)
    return figures


def compare(ours: Mapping[str, Sequence[Outcome]], theirs: Mapping[str, Sequence[Outcome]]) -> dict[str, Figure]:
    """Return paired differences over the same prompts and seeds, part by part."""
    measures: dict[str, Callable[[Outcome], float]] = {
        "consistency": lambda o: o.consistency,
        "outlines' gap in pixels": lambda o: min(o.gap_px, WORST_GAP_PX),
        "matched colours": lambda o: o.color,
        "look-alike views": lambda o: o.verdict.agreement,
        "right kind": lambda o: float(o.right_kind),
    }
    named = {"held_out": "", "open": "part not named: "}
    return {
        f"{prefix}{name}": paired_difference([f(o) for o in ours[part]], [f(o) for o in theirs[part]])
        for part, prefix in named.items()
        if ours.get(part)
        for name, f in measures.items()
    }


def measure_judge(reference: Sequence[Outcome]) -> dict[str, Figure]:
    """Return the judge's own shares of right answers, from true renders."""
    return {
        "kind": share([o.right_kind for o in reference]),
        "main colour": share([o.right_main for o in reference]),
        "colour on the named part": share([o.right_accent for o in reference]),
    }
