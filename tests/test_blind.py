"""The blind comparison: what the page gives away (nothing), and how votes are counted and which are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from report_fakes import DOT, HOSTILE
from test_report import Page

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import AssetError, InputError
from viewfold.evaluation.blind import Pair, Side, blind_chunks, draw_pair, make_pairs, write_blind
from viewfold.evaluation.interval import mean, share
from viewfold.evaluation.thumbnail import Thumbnail
from viewfold.evaluation.votes import Key, count_votes, in_words, read_ballots, read_key, read_votes
from viewfold.views import Views

LEFT = Thumbnail(uri="data:,first", width=2, height=2)
RIGHT = Thumbnail(uri="data:,second", width=2, height=2)


def side(folder: Path, name: str, prompts: list[str], *, seeds: tuple[int, ...] = (0,)) -> Side:
    """A run of folders that hold nothing but a record."""
    places = []
    for prompt in prompts:
        for seed in seeds:
            place = folder / name / f"{len(places):03d}"
            place.mkdir(parents=True)
            (place / "run.json").write_text(json.dumps({"prompt": prompt, "settings": {"seed": seed}}))
            places.append((place, place.name))
    return Side(name=str(folder / name), places=places)


def two(folder: Path, count: int = 20) -> tuple[Side, Side]:
    prompts = [f"prompt {n}" for n in range(count)]
    return side(folder, "ours", prompts), side(folder, "theirs", prompts)


def views(size: int, count: int, value: float) -> Views:
    run = {"settings": {"seed": 0}, "provenance": {"model": "secret-model"}}
    return Views(rgb=torch.full((count, 3, size, size), value), cameras=Cameras.orbit(count), prompt="a mug", run=run)


def saved(folder: Path, name: str, page: str, votes: dict[str, Any], voter: str = "v") -> Path:
    (folder / name).write_text(json.dumps({"page": page, "voter": voter, "votes": votes}))
    return folder / name


# The page -------------------------------------------------------------------------------------------------------------


def test_each_run_is_on_the_left_half_of_the_time_in_an_order_that_is_the_same_for_a_seed(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    pairs, left_out = make_pairs(first, second)
    assert sum(pair.left_is_first for pair in pairs) == 10 and not left_out
    assert make_pairs(first, second)[0] == pairs
    other = make_pairs(first, second, seed=1)[0]
    assert [p.subject for p in other] != [p.subject for p in pairs] != sorted(p.subject for p in pairs)
    assert [p.left_is_first for p in other] != [p.left_is_first for p in pairs]
    assert all(pair.first.name == pair.second.name and pair.first != pair.second for pair in pairs)
    some, left_out = make_pairs(first, second, most=3)
    assert len({pair.id for pair in some}) == 3 and left_out == {"more than are shown": 17}


def test_what_is_in_no_pair_is_counted(tmp_path: Path) -> None:
    first = side(tmp_path, "a", ["x", "y", "y", "z"])
    second = side(tmp_path, "b", ["x", "y", "w"])
    pairs, left_out = make_pairs(first, second)
    assert [pair.subject for pair in pairs] == ["x"]
    assert left_out == {f"only in {first.name}": 1, f"only in {second.name}": 1, "there more than once": 3}
    with pytest.raises(InputError, match="none in common"):
        make_pairs(first, side(tmp_path, "c", ["v"]))
    seeds = side(tmp_path, "d", ["x"], seeds=(1,))
    with pytest.raises(InputError, match="none in common"):
        make_pairs(first, seeds)
    for wrong in (0, limits.VOTES_PAIRS + 1):
        with pytest.raises(InputError, match="`pairs` must lie between"):
            make_pairs(first, second, most=wrong)


def test_the_page_gives_nothing_away_and_the_key_says_it(tmp_path: Path) -> None:
    first, second = two(tmp_path, 6)
    made = write_blind(first, second, tmp_path / "out", draw=lambda a, b: (LEFT, RIGHT))
    written, key = made.page.read_text(), json.loads(made.key.read_text())
    for word in ("ours", "theirs", str(tmp_path), "run.json", "http://", "https://"):
        assert word not in written
    parsed = Page(written)
    sections = [a for tag, a in parsed.tags if tag == "section" and a.get("class") == "pair"]
    shown = [a["src"] for tag, a in parsed.tags if tag == "img"]
    for number, section in enumerate(sections):
        told = key["pairs"][section["data-id"]]
        assert set(section) == {"class", "data-id", "hidden"}
        assert shown[2 * number] == (LEFT if told["left"] == "first" else RIGHT).uri
        assert shown[2 * number + 1] == (RIGHT if told["left"] == "first" else LEFT).uri
    assert [a["alt"] for tag, a in parsed.tags if tag == "img"] == ["the left one", "the right one"] * 6
    assert (key["first"], key["second"]) == (first.name, second.name) and key["page"] in written


def test_prompts_on_the_page_are_words(tmp_path: Path) -> None:
    first, second = (side(tmp_path, name, [HOSTILE]) for name in "ab")
    write_blind(first, second, tmp_path / "out", draw=lambda a, b: (DOT, DOT))
    parsed = Page((tmp_path / "out" / "ab.html").read_text("utf-8"))
    assert parsed.count("script") == 1 and parsed.count("img") == 2


def test_both_sides_have_one_size_as_many_views_and_no_fields(tmp_path: Path) -> None:
    views(64, 8, 0.2).save(tmp_path / "a")
    views(200, 4, 0.8).save(tmp_path / "b")
    one, other = draw_pair(tmp_path / "a", tmp_path / "b")
    assert (one.width, one.height) == (other.width, other.height) == (2 * 192 + 2, 2 * 192 + 2)


def test_a_pair_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    def draw(first: Path, second: Path) -> tuple[Thumbnail, Thumbnail]:
        if first.name == "002":
            raise AssetError("it is damaged")
        return LEFT, RIGHT

    first, second = two(tmp_path, 4)
    made = write_blind(first, second, tmp_path / "out", draw=draw)
    assert made.n_pairs == 3 and len(made.failed) == 1 and "002" in made.failed[0][0]
    assert len(read_key(made.key).left) == 3

    def never(first: Path, second: Path) -> tuple[Thumbnail, Thumbnail]:
        raise AssetError("it is damaged")

    with pytest.raises(InputError, match="of 4 pairs none can be shown"):
        write_blind(first, second, tmp_path / "other", draw=never)
    assert not any((tmp_path / "other").iterdir())


def test_pictures_are_held_a_pair_at_a_time(tmp_path: Path) -> None:
    drawn: list[Path] = []

    def draw(first: Path, second: Path) -> tuple[Thumbnail, Thumbnail]:
        drawn.append(first)
        return LEFT, RIGHT

    pairs: list[Pair] = make_pairs(*two(tmp_path, 5))[0]
    chunks = blind_chunks(pairs, "0", draw=draw, shown=[], failed=[])
    next(chunks), next(chunks), next(chunks)
    assert len(drawn) == 1


# The votes ------------------------------------------------------------------------------------------------------------

KEY = Key(page="p", first="A", second="B", left={"1": "first", "2": "second", "3": "first", "4": "second"})


def test_votes_for_sides_become_votes_for_runs(tmp_path: Path) -> None:
    ballot = read_votes(saved(tmp_path, "v", "p", {"1": "left", "2": "left", "3": "right", "4": "none"}), KEY)
    assert ballot.choices == {"1": "first", "2": "second", "3": "second", "4": "none"} and ballot.n_left == 2


def test_the_win_rate_is_wilsons_and_ties_are_told(tmp_path: Path) -> None:
    files = [
        saved(tmp_path, "one", "p", {"1": "left", "2": "left", "3": "right", "4": "none"}, "one"),
        saved(tmp_path, "two", "p", {"1": "right", "2": "left", "3": "none"}, "two"),
    ]
    ballots, failed = read_ballots(files, KEY)
    tally = count_votes(ballots, KEY)
    assert not failed and (tally.wins, tally.losses, tally.ties) == (4, 1, 2)
    assert tally.win_rate == share([True, True, True, True, False])
    assert tally.half_ties == mean([0.5, 1.0, 0.75, 0.5])
    assert (tally.n_voters, tally.n_pairs, tally.n_judged) == (2, 4, 4)
    assert tally.left == share([True, True, True, False, False])
    words = in_words(tally)
    assert "7 votes of 2 voters on 4 of 4 pairs: 4 won, 1 lost, 2 without a difference" in words
    assert "win rate      80.0 %" in words


def test_ties_alone_have_no_win_rate(tmp_path: Path) -> None:
    tally = count_votes([read_votes(saved(tmp_path, "v", "p", {"1": "none"}), KEY)], KEY)
    assert tally.win_rate is None and tally.left is None and "no vote was for either side" in in_words(tally)
    with pytest.raises(InputError, match="at least one"):
        count_votes([], KEY)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"page": "q", "voter": "v", "votes": {"1": "left"}}, "page that the key belongs to"),
        ({"page": "p", "voter": "v", "votes": {"9": "left"}}, "pairs of its page"),
        ({"page": "p", "voter": "v", "votes": {"1": "up"}}, "left, right or none"),
        ({"page": "p", "voter": "v", "votes": {"1": ["left"]}}, "left, right or none"),
        ({"page": "p", "voter": "v", "votes": {}}, "at least one vote"),
        ({"page": "p", "voter": "", "votes": {"1": "left"}}, "name its voter"),
        ({"page": "p", "voter": "v" * 65, "votes": {"1": "left"}}, "name its voter"),
        ({"page": "p", "voter": "v", "votes": ["left"]}, "something else"),
        ({"page": 1, "voter": "v", "votes": {"1": "left"}}, "something else"),
        ([], "JSON object"),
    ],
)
def test_votes_of_strangers_are_refused_by_what_is_wrong(tmp_path: Path, told: Any, message: str) -> None:
    (tmp_path / "votes.json").write_text(json.dumps(told))
    with pytest.raises(AssetError, match=message):
        read_votes(tmp_path / "votes.json", KEY)


def test_a_file_of_votes_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "votes.json", "p", {"1": "left"}, "v" * 60)
    monkeypatch.setattr(limits, "VOTES_BYTES", os.stat(path).st_size)
    assert read_votes(path, KEY).voter == "v" * 60
    monkeypatch.setattr(limits, "VOTES_BYTES", os.stat(path).st_size - 1)
    with pytest.raises(AssetError, match="at most"):
        read_votes(path, KEY)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    good = {"page": "p", "first": "A", "second": "B", "pairs": {"1": {"left": "first"}}}
    for wrong in ({"pairs": {}}, {"pairs": {"1": {"left": "up"}}}, {"pairs": {"1": 2}}, {"page": 3}, {"pairs": [1]}):
        (tmp_path / "key.json").write_text(json.dumps(good | wrong))
        with pytest.raises(AssetError, match="must be the key"):
            read_key(tmp_path / "key.json")


# The command ----------------------------------------------------------------------------------------------------------


def test_from_two_folders_to_a_win_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, value in (("a", 0.2), ("b", 0.8)):
        views(32, 4, value).save(tmp_path / run / "mug")
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "a"), str(tmp_path / "b"), "--ab", str(out)]) == 0
    assert "ab.html: 1 pair; the key" in capsys.readouterr().out
    key = json.loads((out / "ab-key.json").read_text())
    ((pair, told),) = key["pairs"].items()
    vote = {pair: "left" if told["left"] == "second" else "right"}
    votes = [saved(tmp_path, f"{voter}.json", key["page"], vote, voter) for voter in "xyx"]
    stray = saved(tmp_path, "stray.json", "0" * 16, vote)
    words = ["evaluate", "--votes", *map(str, votes), "--key", str(out / "ab-key.json")]
    assert main(words[:-3] + words[-2:]) == 0
    assert f"{tmp_path / 'b'} against {tmp_path / 'a'}\n  2 votes of 2 voters" in capsys.readouterr().out
    assert main([*words[:4], str(stray), *words[5:], "--json"]) == 3
    said = capsys.readouterr()
    tally = json.loads(said.out, parse_constant=pytest.fail)
    assert (tally["wins"], tally["n_voters"]) == (2, 2) and tally["half_ties"]["low"] is None
    assert "stray.json" in said.err and "page that the key belongs to" in said.err
    assert main(words) == 3
    assert "has voted in a file before it" in capsys.readouterr().err


def test_what_cannot_be_asked_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views(32, 4, 0.2).save(tmp_path / "a" / "mug")
    for words, message in (
        (["--votes", "v.json"], "`--key` must be given with `--votes`"),
        (["--key", "k.json"], "`--votes` must be given with `--key`"),
        ([str(tmp_path / "a"), "--votes", "v.json", "--key", "k.json"], "`PATHS` must be left out with `--votes`"),
        ([str(tmp_path / "a"), "--ab", str(tmp_path / "out")], "`--ab` must go with two runs"),
    ):
        assert main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--votes", "v.json", "--key", "k.json", "--report", "out"], "`--report` must go without `--votes`"),
        (["--votes", "v.json", "--key", "k.json", "--halves"], "`--halves` must go without `--votes`"),
        (["a", "b", "--ab", "out", "--left-out"], "`--left-out` must go without `--ab`"),
        (["a", "b", "--ab", "out", "--workers", "2"], "`--workers` must go without `--ab`"),
    ],
)
def test_what_a_comparison_would_not_heed_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing is written"
