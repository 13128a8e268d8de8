"""report.html word by word: each section of small findings, read as a person reads it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_fakes import DOT, case, mesh_record, views_record

from viewfold.evaluation.case import Case, scores_of
from viewfold.evaluation.findings import Findings, find
from viewfold.evaluation.interval import Figure
from viewfold.evaluation.page import (
    _figure,
    _forest,
    _number,
    attribute,
    head,
    page_chunks,
    picture,
    text,
)
from viewfold.evaluation.thumbnail import Thumbnail


def written(findings: Findings, *, worst: int = 12) -> str:
    return "".join(page_chunks(findings, worst=worst, draw=lambda path: DOT))


def words(part: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", part))).strip()


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, name
    return found[1]


def runs(folder: Path, **scores: Sequence[float]) -> list[Case]:
    """For each run views of the prompts p0, p1, ... with these agreements."""
    return [
        case(folder, f"p{number}", views_record(score), run=run)
        for run, values in scores.items()
        for number, score in enumerate(values)
    ]


def test_words_are_cut_where_they_are_too_long_and_say_so() -> None:
    assert text("a" * 240) == f"<bdi>{'a' * 240}</bdi>" and text("a" * 241) == f"<bdi>{'a' * 240} …</bdi>"
    assert text(" <b>\x00\x1f & \n") == "<bdi>&lt;b&gt;  &amp;</bdi>" and text(7, most=1) == "<bdi>7</bdi>"
    assert text("abc", most=2) == "<bdi>ab …</bdi>"
    assert attribute('"' * 300) == "&quot;" * 240 and attribute("ab\ncd", most=4) == "ab c"
    assert "<title>a &lt;b&gt;</title>" in head("a <b>", "page.css")
    both, one = head("t", "page.css", "blind.css"), head("t", "page.css")
    assert len(both) > len(one) and one.count("<style>") == 1


def test_figures_have_their_digits_signs_and_intervals() -> None:
    figure = Figure(value=0.12345, low=-0.5, high=1.0, n=2)
    assert _figure(figure, 3) == "<b>0.123</b><small>−0.500 to 1.000</small>"
    assert _figure(figure, 1, sign="+") == "<b>+0.1</b><small>−0.5 to +1.0</small>"
    assert words(_figure(replace(figure, n=1), 0)) == "0 one subject: no interval"
    by_name = {score.name: score for kind in ("views", "mesh") for score in scores_of(kind)}
    for name, value, wanted in (
        ("agreement", 0.98765, "0.988"), ("halves", 21.26, "21.3"), ("pieces", 3.0, "3"), ("faces", 1234.0, "1234"),
        ("closed", 1.0, "1.00"), ("Chamfer", 0.01234, "0.0123"), ("faults", 5.256, "5.26"), ("left out", 9.96, "10.0"),
    ):  # fmt: skip
        assert _number(value, by_name[name]) == wanted
    assert _number(None, by_name["pieces"]) == "–"


def test_an_interval_is_drawn_beside_zero_in_its_own_scale() -> None:
    drawn = _forest(Figure(value=1.0, low=-1.0, high=2.0, n=2))
    assert 'd="M32.0 8H116.0"' in drawn and 'cx="88.0"' in drawn, "zero at 60, the farther end 56 from it"
    assert 'd="M4.0 8H32.0"' in _forest(Figure(value=-1.0, low=-2.0, high=-1.0, n=3))
    assert 'd="M60.0 8H60.0"' in _forest(Figure(value=0.0, low=0.0, high=0.0, n=2))
    assert _forest(Figure(value=1.0, low=1.0, high=1.0, n=1)) == ""


def test_the_page_begins_with_what_was_counted_and_where_it_is(tmp_path: Path) -> None:
    views, mesh = runs(tmp_path, old=[0.9, 0.8], new=[0.7]), case(tmp_path, "p0", mesh_record(closed=True), run="old")
    header = words(written(find([*views, mesh], [("x", "it is no mesh")])).partition("<main>")[0].partition("<h1>")[2])
    assert header == (
        "What was measured 3 sets of views and 1 meshes in 2 runs; 1 could not be used . "
        "Verdict new beside old Worst first All Left out"
    )
    alone = written(find(views[:2]))
    assert "2 sets of views; none was left out." in words(alone) and "Left out" not in words(alone)
    assert '<a href="#verdict">' in alone and "against-" not in alone and 'id="failed"' not in alone
    left_out = section(written(find(views, [("x", "it is no mesh"), ("y", "gone")])), "failed")
    assert words(left_out) == "Left out x : it is no mesh y : gone"


def test_the_verdict_sets_runs_side_by_side(tmp_path: Path) -> None:
    cases = runs(tmp_path, old=[0.8, 0.8], new=[0.6, 0.6])
    cases[-1] = replace(cases[-1], scores={k: v for k, v in cases[-1].scores.items() if k != "distinctness"})
    cases[-2] = replace(cases[-2], scores={k: v for k, v in cases[-2].scores.items() if k != "distinctness"})
    verdict = section(written(find(cases)), "verdict")
    table = words(verdict.partition("</table>")[0])
    assert table.startswith("Verdict Views: means over prompts with 95 % intervals Score old new score ↑ agreement ×")
    assert "agreement ↑ do the views show one object? 0.800 0.800 to 0.800 0.600 0.600 to 0.600 worst view ↑" in table
    assert "gap ↓ between outlines" in table and "saturation of the object 0.500" in table, "neither way is good"
    assert "distinctness ↑ 0: one picture on every side 1.000 1.000 to 1.000 – contrast" not in table
    assert "one picture on every side 1.000 1.000 to 1.000 –" in table and "epipolar" not in table
    assert table.endswith("rests on 2 2 subjects, 1 seed 2 2 subjects, 1 seed")
    assert "new beside old , views: worse in" in words(verdict)


def test_seeds_and_subjects_are_counted_each(tmp_path: Path) -> None:
    cases = [case(tmp_path, prompt, views_record(0.5), seed=seed) for prompt in "ab" for seed in (1, 2, 3)]
    cases += [case(tmp_path, "a", mesh_record(closed=False))]
    verdict = words(section(written(find(cases)), "verdict"))
    assert "rests on 6 2 subjects, 3 seeds" in verdict and "rests on 1 1 subject, 1 seed" in verdict
    assert "Score Views score" in verdict and "Score Meshes closed" in verdict, "a run without a name has its kind's"


@pytest.mark.parametrize(("count", "few"), [(9, True), (10, False)])
def test_of_few_prompts_it_says_that_they_are_few(tmp_path: Path, count: int, few: bool) -> None:
    page = words(written(find(runs(tmp_path, r=[n / 20 for n in range(count)]))))
    assert ("Of fewer than 10 prompts an interval is too narrow" in page) == few


def test_how_it_was_measured_and_made_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    maker = {
        "model": "m", "weights_sha256": "a" * 64, "lora": ["x 1", "y 2"], "steps": 30, "guidance": 5.0,
        "scheduler": "ddim", "suffix": ", 3d", "device": "cpu", "dtype": "float16",
        "versions": {"torch": "2", "q": "3"},
    }  # fmt: skip
    one, two, three = runs(tmp_path, r=[0.5, 0.6, 0.7])
    known = [replace(one, maker=maker), replace(two, maker=maker), replace(three, maker={})]
    found = find(known, command="viewfold evaluate r", machine={"Machine": "a laptop", "GPU": "none"})
    grounds = words(section(written(found), "verdict").partition("<h3>Measured")[2])
    assert grounds == (
        "Command viewfold evaluate r Machine a laptop GPU none Made by, as their files say "
        f"r : model m , weights {'a' * 64} , LoRA x 1 + y 2 , steps 30 , guidance 5.0 , scheduler ddim , suffix , 3d , "
        "on cpu , in float16 , torch 2, q 3 (2) r : no record of it (1)"
    )
    nothing = section(written(find([])), "verdict")
    assert "Made by" not in nothing and words(nothing) == "Verdict Measured"


def test_two_runs_side_by_side_are_told_in_words_and_pictures(tmp_path: Path) -> None:
    cases = runs(tmp_path, old=[0.9, 0.8, 0.7], new=[0.6, 0.6, 0.6])
    cases.append(case(tmp_path, "more", views_record(0.5), run="new"))
    page = written(find(cases), worst=2)
    beside = section(page, "against-0")
    told = words(beside)
    assert told.startswith(
        "new beside old 3 pairs with the same prompt and seed, 3 subjects. Not paired: 1 only in new . Views: the "
        "second minus the first, paired, with 95 % intervals"
    )
    assert "agreement ↑ do the views show one object? −0.200 −0.300 to −0.100 worse zero is outside worst view" in told
    assert "colours ↑ agreement of the colours +0.000 +0.000 to +0.000 none zero is in it" in told
    pairs = [words(each) for each in re.findall(r'<article class="pair">(.*?)</article>', beside, re.DOTALL)]
    scores = "agreement {0}, worst view {1}, outlines {0}, gap 0.100"
    assert pairs == [
        words(f"p0 seed 0 old : score 0.900 , {scores.format('0.900 ', '0.800 ')} "
              f"new : score 0.600 , {scores.format('0.600 ', '0.500 ')}"),
        words(f"p1 seed 0 old : score 0.800 , {scores.format('0.800 ', '0.700 ')} "
              f"new : score 0.600 , {scores.format('0.600 ', '0.500 ')}"),
    ]  # fmt: skip
    assert page.count(DOT.uri) == 2 * 2 + 2 * 2
    paired = written(find(cases[:-1]))
    assert "Not paired" not in words(paired) and paired.count('class="pair"') == 3


def test_what_a_comparison_shows_is_one_sentence(tmp_path: Path) -> None:
    def sentence(new: list[Case]) -> str:
        old = [case(tmp_path, str(n), views_record(0.5 + n / 50), run="old") for n in range(4)]
        return words(section(written(find([*old, *new])), "verdict")).partition("beside old , ")[2].split(".")[0]

    def made(step: float, saturation: float = 0.5) -> list[Case]:
        records = [views_record(0.5 + n / 50 + step, saturation=saturation) for n in range(4)]
        return [case(tmp_path, str(n), record, run="new") for n, record in enumerate(records)]

    assert sentence(made(0.0)) == "views: no difference shown in any of 9 scores"
    four = "score, agreement, worst view, outlines"
    assert sentence(made(0.1)) == f"views: better in {four}; no difference shown in 5 of 9 scores"
    assert sentence(made(-0.1, 0.25)) == (
        f"views: worse in {four}; lower in saturation; no difference shown in 4 of 9 scores"
    )


def test_the_worst_of_each_run_and_kind_have_pictures(tmp_path: Path) -> None:
    cases = runs(tmp_path, old=[0.9, 0.1, 0.5], new=[0.2])
    cases += [case(tmp_path, "box", mesh_record(closed=closed, open_edges=2), run="old") for closed in (True, False)]
    worst = section(written(find(cases), worst=2), "worst")
    assert words(worst).startswith("Worst first 2 sets or fewer of each run. old / Views p1 seed 0")
    titles = re.findall(r"<h3>(.*?)</h3>|<h4>(.*?)</h4>|(not closed|>closed)", worst)
    assert [words("".join(each)).lstrip(">") for each in titles] == [
        "old / Views", "p1 seed 0", "p2 seed 0", "old / Meshes", "box seed 0", "not closed", "box seed 0", "closed",
        "new / Views", "p0 seed 0",
    ]  # fmt: skip
    assert words(worst).count(cases[1].path) == 1 and cases[0].path not in worst
    assert "faults 2.00 , pieces 1 , faces 1000" in words(worst) and "closed 0.00" not in words(worst)
    assert worst.count('class="worse"') == worst.count('class="better"') == 1
    assert "1 set or fewer" in words(written(find(cases), worst=1))
    assert 'class="card"' not in written(find(cases), worst=0)


def test_the_table_holds_all_the_worst_of_any_run_first(tmp_path: Path) -> None:
    cases = runs(tmp_path, old=[0.9, 0.1], new=[0.5, 0.3])
    cases.append(replace(case(tmp_path, "no seed", views_record(0.2), run="new", seed=None)))
    cases.append(case(tmp_path, "box", mesh_record(closed=True), run="new"))
    table = section(written(find(cases)), "all")
    views, meshes = re.findall(r"<table.*?</table>", table, re.DOTALL)
    rows = [words(each) for each in re.findall(r"<tr>(.*?)</tr>", views, re.DOTALL)]
    assert rows[0] == (
        "subject seed run score agreement worst view outlines gap colours distinctness saturation contrast"
    )
    assert [row.split(" 0.")[0] for row in rows[1:]] == [
        "p1 0 old", "no seed – new", "p1 0 new", "p0 0 new", "p0 0 old",
    ]  # fmt: skip
    assert rows[1] == "p1 0 old 0.100 0.100 0.000 0.100 0.100 1.000 1.000 0.500 0.100"
    assert words(meshes) == (
        "Meshes, worst first; a heading sorts subject seed run closed faults pieces faces box 0 new 1.00 0.00 1 1000"
    )
    lacking = replace(cases[0], scores={"agreement": 0.5})
    assert "0.500 – – –" in words(section(written(find([lacking, *cases[1:]])), "all"))


def test_a_strip_lies_still_and_a_mesh_has_a_slider() -> None:
    still = picture(Thumbnail(uri="data:,x", width=30, height=20), alt='views: "a"')
    assert still == (
        '<img class="strip" src="data:,x" width="30" height="20" decoding="async" alt="views: &quot;a&quot;">'
    )
    turning = picture(Thumbnail(uri="data:,x", width=240, height=10, frames=24), alt="mesh")
    assert '<img src="data:,x" width="10" height="10" style="--frames:24" alt="mesh">' in turning
    assert '<input type="range" min="0" max="23" value="0" aria-label="turn: mesh">' in turning


def test_a_picture_is_named_by_what_it_shows(tmp_path: Path) -> None:
    cases = [*runs(tmp_path, r=[0.5]), case(tmp_path, "box", mesh_record(closed=True), run="r")]
    made = {cases[0].path: DOT, cases[1].path: replace(DOT, frames=3)}
    page = "".join(page_chunks(find(cases), worst=1, draw=made.__getitem__))
    assert 'alt="views: p0"' in page and 'alt="mesh, turning: box"' in page and 'max="2"' in page
