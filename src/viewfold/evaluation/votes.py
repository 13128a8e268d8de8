"""Votes of a blind comparison, counted: how often the second run was preferred, with its interval.

Files of votes come from strangers: they are bounded, and one that does not belong to the key is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.evaluation.interval import Figure, mean, share
from viewfold.store import read_json

CHOICES = ("left", "right", "none")
WORTH = {"second": 1.0, "none": 0.5, "first": 0.0}
"""Of a vote to the second run, where ties count half."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Which side was which."""

    page: str
    first: str
    second: str
    left: Mapping[str, str]
    """From a pair's id to the run on its left: "first" or "second"."""


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """What one person chose."""

    voter: str
    choices: Mapping[str, str]
    """From a pair's id to "first", "second" or "none"."""
    n_left: int
    """Votes to the left side."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """All votes together."""

    first: str
    second: str
    n_voters: int
    n_pairs: int
    """On the page."""
    n_judged: int
    """Of these, that anyone voted on."""
    wins: int
    """Votes for the second run."""
    losses: int
    ties: int
    win_rate: Figure | None
    """Of the second run among votes that are no ties, with Wilson's interval; None without any."""
    half_ties: Figure
    """The same with ties as half a win, each pair's mean over its voters, with a bootstrap over pairs."""
    left: Figure | None
    """Share of the left side among votes that are no ties: far from a half, somebody did not look."""


def read_key(path: str | Path) -> Key:
    """Read the key of a page.

    Raises:
        AssetError: it is missing, too large, or no key.
    """
    told = read_json(path)
    pairs = told.get("pairs")
    names = [told.get(name) for name in ("page", "first", "second")]
    pairs = pairs if isinstance(pairs, dict) else {}
    left = {id: pair.get("left") if isinstance(pair, dict) else None for id, pair in pairs.items()}
    known = all(side in ("first", "second") for side in left.values())
    if not (0 < len(left) <= limits.VOTES_PAIRS and known and all(isinstance(name, str) for name in names)):
        raise AssetError(f"`{path}` must be the key that was written beside a page of pairs; it is something else.")
    page, first, second = map(str, names)
    return Key(page=page, first=first, second=second, left={id: str(side) for id, side in left.items()})


def read_votes(path: str | Path, key: Key) -> Ballot:
    """Read what a page saved, and turn sides into runs.

    Raises:
        AssetError: it is missing, too large, no file of votes, or of another page than the key.
    """
    told = read_json(path, max_bytes=limits.VOTES_BYTES)
    page, voter, votes = told.get("page"), told.get("voter"), told.get("votes")
    if not isinstance(page, str) or not isinstance(votes, dict) or not isinstance(voter, str):
        raise AssetError(f"`{path}` must hold the votes that the page saved; it holds something else.")
    if page != key.page:
        raise AssetError(f"`{path}` must be of the page that the key belongs to, {key.page:.32}; it is of {page:.32}.")
    if not 0 < len(voter) <= limits.VOTER_CHARACTERS:
        raise AssetError(f"`{path}` must name its voter in 1 to {limits.VOTER_CHARACTERS} letters; got {len(voter)}.")
    if not votes:
        raise AssetError(f"`{path}` must hold at least one vote; it holds none.")
    for id, choice in votes.items():
        if id not in key.left or not isinstance(choice, str) or choice not in CHOICES:
            raise AssetError(
                f"`{path}` must hold left, right or none for pairs of its page; got {id!r:.32}: {choice!r:.32}."
            )
    other = {"first": "second", "second": "first"}
    runs = {id: {"left": key.left[id], "right": other[key.left[id]], "none": "none"}[c] for id, c in votes.items()}
    return Ballot(voter=voter, choices=runs, n_left=sum(choice == "left" for choice in votes.values()))


def read_ballots(paths: Sequence[str | Path], key: Key) -> tuple[list[Ballot], list[tuple[str, str]]]:
    """Read files of votes; return what can be counted, and the names of the others with the reason.

    A voter counts once: of a second file nobody knows whether it is a later one or the same.
    """
    ballots: dict[str, Ballot] = {}
    failed = []
    for path in paths:
        try:
            ballot = read_votes(path, key)
        except AssetError as error:
            failed.append((str(path), str(error)))
            continue
        if ballot.voter in ballots:
            failed.append((str(path), "its voter has voted in a file before it. Give the later one alone."))
        else:
            ballots[ballot.voter] = ballot
    return list(ballots.values()), failed


def count_votes(ballots: Sequence[Ballot], key: Key) -> Tally:
    """Count votes of different voters.

    Raises:
        InputError: there is none.
    """
    every = [(id, choice) for ballot in ballots for id, choice in ballot.choices.items()]
    decided = [choice == "second" for _, choice in every if choice != "none"]
    by_pair: dict[str, list[float]] = defaultdict(list)
    for id, choice in every:
        by_pair[id].append(WORTH[choice])
    n_left = sum(ballot.n_left for ballot in ballots)
    return Tally(
        first=key.first,
        second=key.second,
        n_voters=len(ballots),
        n_pairs=len(key.left),
        n_judged=len(by_pair),
        wins=sum(decided),
        losses=len(decided) - sum(decided),
        ties=len(every) - len(decided),
        win_rate=share(decided) if decided else None,
        half_ties=mean([sum(by_pair[id]) / len(by_pair[id]) for id in sorted(by_pair)]),
        left=share([number < n_left for number in range(len(decided))]) if decided else None,
    )


def in_words(tally: Tally) -> str:
    """Return a tally as a few lines."""
    n = tally.wins + tally.losses + tally.ties
    lines = [
        f"{tally.second} against {tally.first}",
        f"{n} votes of {_many(tally.n_voters, 'voter')} on {tally.n_judged} of {_many(tally.n_pairs, 'pair')}: "
        f"{tally.wins} won, {tally.losses} lost, {tally.ties} without a difference",
    ]
    if tally.win_rate is None:
        lines.append("win rate      none: no vote was for either side")
    else:
        lines.append(f"win rate      {tally.win_rate.percent()} of the {tally.win_rate.n} votes that are no ties")
    interval = tally.half_ties.percent() if tally.n_judged > 1 else f"{100 * tally.half_ties.value:.1f} %"
    lines.append(f"ties as half  {interval}, each pair once")
    if tally.left is not None:
        lines.append(f"left side     {tally.left.percent()} of them")
    return "\n  ".join(lines)


def as_json(tally: Tally) -> dict[str, Any]:
    """Return a tally for JSON; of a single pair there is no interval."""
    told = asdict(tally)
    if tally.n_judged < 2:
        told["half_ties"] |= {"low": None, "high": None}
    return told


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)
