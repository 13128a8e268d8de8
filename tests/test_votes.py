"""Votes in words and in JSON, letter by letter, and the bounds of what is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.evaluation.interval import Figure, mean, share
from viewfold.evaluation.votes import (
    Ballot,
    Key,
    Tally,
    as_json,
    count_votes,
    in_words,
    read_ballots,
    read_key,
    read_votes,
)

KEY = Key(page="p", first="A", second="B", left={"1": "first", "2": "second", "3": "first"})
TALLY = Tally(
    first="old",
    second="new",
    n_voters=2,
    n_pairs=30,
    n_judged=4,
    wins=4,
    losses=1,
    ties=2,
    win_rate=Figure(value=0.8, low=0.376, high=0.964, n=5),
    half_ties=Figure(value=0.6875, low=0.5, high=0.9375, n=4),
    left=Figure(value=0.6, low=0.231, high=0.882, n=5),
)


def ballot(voter: str, n_left: int = 0, **choices: str) -> Ballot:
    return Ballot(voter=voter, choices={id.strip("_"): choice for id, choice in choices.items()}, n_left=n_left)


def test_a_tally_in_words() -> None:
    assert in_words(TALLY).splitlines() == [
        "new against old",
        "  7 votes of 2 voters on 4 of 30 pairs: 4 won, 1 lost, 2 without a difference",
        "  win rate      80.0 % (37.6 to 96.4) of the 5 votes that are no ties",
        "  ties as half  68.8 % (50.0 to 93.8), each pair once",
        "  left side     60.0 % (23.1 to 88.2) of them",
    ]


def test_of_one_pair_there_is_no_interval_and_of_ties_alone_no_rate() -> None:
    one = replace(TALLY, n_voters=1, n_pairs=1, n_judged=1, wins=0, losses=0, ties=1, win_rate=None, left=None)
    assert in_words(one).splitlines() == [
        "new against old",
        "  1 votes of 1 voter on 1 of 1 pair: 0 won, 0 lost, 1 without a difference",
        "  win rate      none: no vote was for either side",
        "  ties as half  68.8 %, each pair once",
    ]
    told = as_json(one)
    assert told["half_ties"] == {"value": 0.6875, "low": None, "high": None, "n": 4} and told["win_rate"] is None
    both = as_json(replace(TALLY, n_judged=2))
    assert both["half_ties"] == {"value": 0.6875, "low": 0.5, "high": 0.9375, "n": 4}
    assert both["win_rate"] == {"value": 0.8, "low": 0.376, "high": 0.964, "n": 5}
    assert "(50.0 to 93.8)" in in_words(replace(TALLY, n_judged=2))


def test_votes_are_counted_by_hand() -> None:
    ballots = [
        ballot("x", 2, _1="first", _2="second", _3="none"),
        ballot("y", 1, _1="second", _2="second"),
        ballot("z", 0, _1="none", _2="first"),
    ]
    tally = count_votes(ballots, KEY)
    assert (tally.first, tally.second, tally.n_voters, tally.n_pairs, tally.n_judged) == ("A", "B", 3, 3, 3)
    assert (tally.wins, tally.losses, tally.ties) == (3, 2, 2)
    assert tally.win_rate == share([True] * 3 + [False] * 2) and tally.left == share([True] * 3 + [False] * 2)
    assert tally.half_ties == mean([(0 + 1 + 0.5) / 3, (1 + 1 + 0) / 3, 0.5])
    lost = count_votes([ballot("x", 0, _1="first")], KEY)
    assert (lost.wins, lost.losses, lost.ties, lost.n_judged, lost.half_ties.value) == (0, 1, 0, 1, 0.0)
    assert lost.left == share([False])


def saved(path: Path, **told: Any) -> Path:
    path.write_text(json.dumps({"page": "p", "voter": "v", "votes": {"1": "left"}} | told))
    return path


def test_both_sides_of_both_kinds_of_pairs_are_turned_into_runs(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    for choice, wanted, n_left in (("left", ("first", "second"), 2), ("right", ("second", "first"), 0)):
        found = read_votes(saved(path, votes={"1": choice, "2": choice}), KEY)
        assert (found.choices["1"], found.choices["2"], found.n_left) == (*wanted, n_left)
    assert read_votes(saved(path, votes={"1": "none"}), KEY) == ballot("v", 0, _1="none")


def test_a_name_of_a_voter_has_its_length(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    longest = "v" * limits.VOTER_CHARACTERS
    assert read_votes(saved(path, voter=longest), KEY).voter == longest
    assert read_votes(saved(path, voter="v"), KEY).voter == "v"
    with pytest.raises(AssetError, match="1 to 64 letters; got 65"):
        read_votes(saved(path, voter=longest + "v"), KEY)
    with pytest.raises(AssetError, match="something else"):
        read_votes(saved(path, voter=3), KEY)


def test_the_first_file_of_a_voter_counts_and_every_other_is_named(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.json", voter="x", votes={"1": "left"})
    again = saved(tmp_path / "b.json", voter="x", votes={"1": "right"})
    other = saved(tmp_path / "c.json", voter="y", votes={"2": "left"})
    gone = tmp_path / "gone.json"
    ballots, failed = read_ballots([gone, first, again, other], KEY)
    assert ballots == [ballot("x", 1, _1="first"), ballot("y", 1, _2="second")]
    assert [name for name, _ in failed] == [str(gone), str(again)] and "voted in a file before it" in failed[1][1]


def test_a_key_holds_as_many_pairs_as_a_page_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pairs = tmp_path / "key.json", {"1": {"left": "first", "subject": "a mug"}, "2": {"left": "second"}}
    told = {"page": "p", "first": "A", "second": "B", "pairs": pairs}
    path.write_text(json.dumps(told))
    monkeypatch.setattr(limits, "VOTES_PAIRS", 2)
    assert read_key(path) == Key(page="p", first="A", second="B", left={"1": "first", "2": "second"})
    monkeypatch.setattr(limits, "VOTES_PAIRS", 1)
    with pytest.raises(AssetError, match="must be the key"):
        read_key(path)
    for name in ("page", "first", "second", "pairs"):
        path.write_text(json.dumps({k: v for k, v in (told | {"pairs": {"1": pairs["1"]}}).items() if k != name}))
        with pytest.raises(AssetError, match="must be the key"):
            read_key(path)
    path.write_text(json.dumps(told | {"pairs": {"1": {"left": "first"}, "2": {}}}))
    monkeypatch.setattr(limits, "VOTES_PAIRS", 2)
    with pytest.raises(AssetError, match="must be the key"):
        read_key(path)
