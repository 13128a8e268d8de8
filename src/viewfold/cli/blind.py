"""`viewfold evaluate --ab` and `--votes`: two runs compared by people who do not know which is which."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from viewfold.cli.failures import fail_if_any
from viewfold.cli.option import unset
from viewfold.cli.report import Thing
from viewfold.errors import InputError

if TYPE_CHECKING:
    from viewfold.cli.evaluate import Evaluate


@dataclass(frozen=True, kw_only=True)
class BlindFlags:
    """Ask people which of two runs they prefer, without telling them which is which."""

    ab: Annotated[Path | None, unset("FOLDER")] = None
    """Write ab.html there, pairs of two PATHS or models to vote on, and ab-key.json, which is for you alone."""
    pairs: int = 50
    """With --ab: how many are shown, chosen at random."""
    order: int = 0
    """With --ab: seed of the order of the pairs and of their sides."""


@dataclass(frozen=True, kw_only=True)
class VoteFlags:
    """Count what they chose."""

    votes: Annotated[tuple[Path, ...], unset("FILE ...")] = ()
    """Files that the page of --ab saved, one of each voter: print how often the second run won."""
    key: Annotated[Path | None, unset("FILE")] = None
    """With --votes: the ab-key.json that was written beside the page."""

    def is_asked(self, paths: Sequence[Path]) -> bool:
        """Return whether votes are to be counted, and nothing else.

        Raises:
            InputError: one of the two flags is missing, or there is something to measure beside it.
        """
        if not self.votes and self.key is None:
            return False
        if not self.votes or self.key is None:
            missing, there = ("key", "votes") if self.votes else ("votes", "key")
            raise InputError(f"`{missing}` must be given with `{there}`.")
        if paths:
            raise InputError("`paths` must be left out with `votes`, which are counted by themselves.")
        return True

    def count(self, *, as_json: bool) -> None:
        """Print the win rate; files that cannot be counted are named, and the others are."""
        from viewfold.evaluation.votes import as_json as told
        from viewfold.evaluation.votes import count_votes, in_words, read_ballots, read_key

        assert self.key is not None
        key = read_key(self.key)
        ballots, failed = read_ballots(self.votes, key)
        if ballots:
            tally = count_votes(ballots, key)
            print(json.dumps(told(tally), allow_nan=False) if as_json else in_words(tally), flush=True)
        fail_if_any(failed)


def write_pairs(verb: Evaluate, things: list[Thing], failed: list[tuple[str, str]]) -> list[Thing]:
    """Write the page and its key, and say where they are; return what is still to be measured: all for a report.

    Raises:
        InputError: not two runs, or nothing that both hold.
    """
    from viewfold.evaluation.blind import Side, write_blind

    folder = verb.blind.ab
    assert folder is not None
    runs = list(dict.fromkeys(thing.run for thing in things))
    if len(runs) != 2:
        raise InputError(f"`ab` must go with two runs, folders of many views or meshes each; got {len(runs)}.")
    first, second = (
        Side(name=name, places=[(thing.path, thing.name) for thing in things if thing.run == name]) for name in runs
    )
    made = write_blind(first, second, folder, most=verb.blind.pairs, seed=verb.blind.order)
    failed += made.failed
    left_out = "".join(f"; {count} {why}" for why, count in made.left_out.items())
    out = sys.stderr if verb.json else None
    print(
        f"{made.page}: {made.n_pairs} pair{'s' * (made.n_pairs != 1)}{left_out}; the key, for you alone: {made.key}",
        file=out,
        flush=True,
    )
    return things if verb.page.folder(verb.survey) is not None else []
