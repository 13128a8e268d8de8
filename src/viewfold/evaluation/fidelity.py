"""Do the pictures show what was asked for?  One record per subject, from the judge and the consistency of the views."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.evaluation.consistency import find_coverage, measure_consistency
from viewfold.evaluation.judge import Judge, Verdict

RECOGNISED_SHARE = 5 / 8
"""An asset is recognisable if this share of its sides is taken for the right kind, each seen alone."""

TWO_SIDED = 0.1
"""Opposite sides of a true toy that differ by less are alike: a round lamp's differ by 0.05, by the light alone."""

KEPT_SHARE = 0.5
"""A lifted asset has two sides if they differ by this share of what the true toy's do."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a prompt asks for; None where it does not say."""

    prompt: str
    kind: str | None = None
    main: str | None = None
    accent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was asked for, what is seen, and how well the views agree."""

    expected: Expected
    verdict: Verdict
    consistency: float
    """See `Consistency.score`."""

    gap_px: float
    color: float
    two_sided: bool | None = None
    """Of a lifted asset: see `shows_two_sides`."""

    @property
    def right_kind(self) -> bool:
        return self.verdict.kind == self.expected.kind

    @property
    def right_main(self) -> bool:
        return self.verdict.main == self.expected.main

    @property
    def right_accent(self) -> bool:
        return self.verdict.accent == self.expected.accent

    @property
    def right_sides(self) -> int:
        """Views that, seen alone, are taken for the right kind."""
        return sum(kind == self.expected.kind for kind in self.verdict.kind_of_each)

    @property
    def recognisable(self) -> bool:
        return self.right_sides >= RECOGNISED_SHARE * len(self.verdict.kind_of_each)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Outcome:
        verdict: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document["verdict"].items()}
        numbers = {k: float(document[k]) for k in ("consistency", "gap_px", "color")}
        return cls(
            expected=Expected(**document["expected"]), verdict=Verdict(**verdict), two_sided=document.get("two_sided"),
            **numbers,
        )  # fmt: skip


def assess(judge: Judge, rgb: Float[Tensor, "v 3 h w"], cameras: Cameras, *, expected: Expected) -> Outcome:
    """Look at the views of one subject; sRGB in [0, 1] on a mid-grey ground."""
    consistency = measure_consistency(rgb, cameras)
    return Outcome(
        expected=expected,
        verdict=judge.read(rgb),
        consistency=consistency.score,
        gap_px=consistency.gap_px,
        color=consistency.color,
    )


def measure_opposites(rgb: Float[Tensor, "v 3 h w"]) -> float:
    """Return by how much opposite sides differ, 0 to 1: the mean difference of a view and its opposite's mirror image.

    Args:
        rgb: an even number of views, evenly spaced around the object, on a mid-grey ground.
    """
    half = len(rgb) // 2
    covered = find_coverage(rgb)
    front, back = rgb[:half], rgb[half:].flip(-1)
    either = covered[:half].maximum(covered[half:].flip(-1))
    return float(((front - back).abs().mean(dim=1, keepdim=True) * either).sum() / either.sum().clamp(min=1))


def shows_two_sides(rgb: Float[Tensor, "v 3 h w"], true: Float[Tensor, "v 3 h w"]) -> bool | None:
    """Return whether front and back differ where those of the true toy do; None where they do not."""
    wanted = measure_opposites(true)
    return None if wanted < TWO_SIDED else measure_opposites(rgb) >= KEPT_SHARE * wanted
