"""The phases of a distillation: small pictures of several objects first, large ones of one object later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viewfold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How large the pictures are, and how many are taken, from one step on."""

    from_step: int = 0
    """First step of the phase; it lasts until another one begins."""

    size: int | None = None
    """Pixels along each side that are rendered; the prior sees them stretched to its own size.  None: its own size."""

    objects: int = 1
    """Sets of views in a batch: each is one object to the prior, with cameras of its own; all show the same scene."""

    def __post_init__(self) -> None:
        if self.from_step < 0:
            raise InputError(f"`from_step` must not be negative; got {self.from_step}.")
        if self.size is not None and not 1 <= self.size <= 4096:
            raise InputError(f"`size` must lie between 1 and 4096; got {self.size}.")
        if not 1 <= self.objects <= 64:
            raise InputError(f"`objects` must lie between 1 and 64; got {self.objects}.")


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse phases that do not begin at step 0, or whose first steps do not rise.

    Raises:
        InputError: see above.
    """
    first = [phase.from_step for phase in phases]
    if not first or first[0] != 0 or first != sorted(set(first)):
        raise InputError(f"`phases` must begin at step 0 and rise; they begin at {first}.")


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the last phase that has begun."""
    return [phase for phase in phases if phase.from_step <= step][-1]
