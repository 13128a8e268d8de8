"""The report of an evaluation: its figures, its order, what it escapes, and what it holds in memory."""

from __future__ import annotations

import base64
import json
import re
import weakref
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from report_fakes import DOT, HOSTILE, case, mesh_record, views_record

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.data.toybox import sample_asset
from viewfold.errors import AssetError, InputError
from viewfold.evaluation.case import make_case, read_maker
from viewfold.evaluation.findings import Findings, find, json_chunks
from viewfold.evaluation.interval import mean, paired_difference, share
from viewfold.evaluation.page import page_chunks
from viewfold.evaluation.publication import write_findings
from viewfold.evaluation.thumbnail import FRAME_PX, FRAMES, VIEW_PX, Thumbnail, draw_thumbnail, spread, strip
from viewfold.evaluation.verdict import holds_zero, judge, make_run
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)


@pytest.fixture(scope="module")
def toy() -> Mesh:
    return sample_asset(11).mesh()


@pytest.fixture(scope="module")
def true(toy: Mesh) -> Views:
    run = {"settings": {"seed": 3}, "weights_sha256": "b" * 64, "provenance": {"model": "tiny"}}
    return Views(rgb=rasterize(toy, CAMERAS, size=64).over(0.5), cameras=CAMERAS, prompt="a toy", run=run)


class Page(HTMLParser):
    """The tags, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page(findings: Findings, *, worst: int = 12) -> str:
    return "".join(page_chunks(findings, worst=worst, draw=lambda path: DOT))


def document(findings: Findings) -> dict[str, Any]:
    return json.loads("".join(json_chunks(findings)), parse_constant=pytest.fail)


# Figures --------------------------------------------------------------------------------------------------------------


def test_means_are_over_prompts_and_have_the_intervals_of_interval(tmp_path: Path) -> None:
    scores = {"a": [0.9, 0.7], "b": [0.5, 0.6], "c": [0.95, 0.85]}
    cases = [
        case(tmp_path, prompt, views_record(score), seed=seed)
        for prompt, both in scores.items()
        for seed, score in enumerate(both)
    ]
    found = document(find(cases))["runs"][0]["figures"]["views"]["agreement"]
    told = mean([0.8, 0.55, 0.9])
    assert found == pytest.approx({"value": 0.75, "low": told.low, "high": told.high, "n": 3})


def test_the_share_of_closed_meshes_has_wilsons_interval_and_a_score_that_is_one_has_not(tmp_path: Path) -> None:
    meshes = [case(tmp_path, f"{n}", mesh_record(closed=n > 0)) for n in range(5)]
    run = make_run("", [*meshes, *(case(tmp_path, f"{n}", views_record(0.9)) for n in range(5))])
    assert run.figures["mesh"]["closed"] == share([False, True, True, True, True])
    assert run.figures["views"]["distinctness"] == mean([1.0] * 5)
    assert "F-score" not in run.figures["mesh"] and run.figures["mesh"]["faults"].value == 0.0


def test_of_one_prompt_there_is_no_interval(tmp_path: Path) -> None:
    findings = find([case(tmp_path, "a", views_record(0.9), seed=seed) for seed in (0, 1)])
    figure = document(findings)["runs"][0]["figures"]["views"]["agreement"]
    assert (figure["value"], figure["low"], figure["high"], figure["n"]) == (0.9, None, None, 1)
    assert "no interval" in page(findings)


def test_two_runs_are_compared_pair_by_pair_the_greatest_loss_first(tmp_path: Path) -> None:
    before = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.9, ("c", 0): 0.6, ("only here", 0): 0.1}
    after = {("a", 0): 0.7, ("a", 1): 0.8, ("b", 0): 0.4, ("c", 0): 0.7, ("only there", 0): 0.9}
    cases = [
        case(tmp_path, prompt, views_record(score), run=run, seed=seed)
        for run, scores in (("first", before), ("second", after))
        for (prompt, seed), score in scores.items()
    ]
    cases += [case(tmp_path, "twice", views_record(0.5), run="second") for _ in range(2)]
    told = document(find(cases))
    assert [(run["n"], [maker["n"] for maker in run["makers"]]) for run in told["runs"]] == [
        ({"views": 5}, [5]),
        ({"views": 7}, [7]),
    ]
    (found,) = told["comparisons"]
    assert (found["first"], found["second"], found["kind"]) == ("first", "second", "views")
    paired = paired_difference([0.75, 0.4, 0.7], [0.85, 0.9, 0.6])
    figure = found["second_minus_first"]["agreement"]
    assert found["n_pairs"] == 4 and figure["n"] == 3
    assert [figure[name] for name in ("value", "low", "high")] == pytest.approx([paired.value, paired.low, paired.high])
    assert found["left_out"] == {"only in first": 1, "only in second": 1, "there more than once": 2}
    prompts = [next(c.prompt for c in cases if c.path == a) for a, _ in found["greatest_loss_first"]]
    assert prompts == ["b", "a", "a", "c"]
    assert figure["holds_zero"] == (paired.low <= 0 <= paired.high)


def test_a_difference_is_called_what_it_is(tmp_path: Path) -> None:
    def compared(step: float, saturation: float = 0.5) -> Findings:
        cases = [case(tmp_path, str(n), views_record(0.5 + n / 50), run="old") for n in range(6)]
        new = [views_record(0.5 + n / 50 + step, saturation=saturation) for n in range(6)]
        return find([*cases, *(case(tmp_path, str(n), record, run="new") for n, record in enumerate(new))])

    for step, word in ((0.1, "better"), (-0.1, "worse"), (0.0, "none")):
        (comparison,) = compared(step).comparisons
        score = next(s for s in _scores() if s.name == "agreement")
        assert judge(score, comparison.figures["agreement"]) == word
        assert holds_zero(comparison.figures["agreement"]) == (step == 0.0)
        assert f">{word}<small>zero is " in page(compared(step))
    assert "<b>higher</b> in saturation" in page(compared(0.0, saturation=0.9)), "neither good nor bad"


def _scores() -> Any:
    from viewfold.evaluation.case import VIEW_SCORES

    return VIEW_SCORES


def test_a_folder_of_several_models_is_several_runs(tmp_path: Path) -> None:
    cases = [case(tmp_path, "a", views_record(0.9), run="out", model=model) for model in ("one", "two")]
    assert [run.name for run in find(cases).runs] == ["out / one", "out / two"]
    alike = [case(tmp_path, "a", views_record(0.9), run="out", weights=letter * 64) for letter in "ab"]
    assert [run.name for run in find(alike).runs] == ["out / toybox / aaaaaaaa", "out / toybox / bbbbbbbb"]
    unknown = make_case(tmp_path, views_record(0.9), run="out")
    assert [run.name for run in find([cases[0], unknown]).runs] == ["out"]


# The page and the file ------------------------------------------------------------------------------------------------


def test_the_worst_come_first_everywhere(tmp_path: Path) -> None:
    scores = {"good": 0.9, "bad": 0.1, "middling": 0.5}
    findings = find([case(tmp_path, prompt, views_record(score)) for prompt, score in scores.items()])
    assert [each["prompt"] for each in document(findings)["cases"]] == ["bad", "middling", "good"]
    written = page(findings, worst=2)
    cards, table = written.split('id="all"')
    assert cards.index(">bad<") < cards.index(">middling<") and ">good<" not in cards
    assert table.index(">bad<") < table.index(">middling<") < table.index(">good<")
    meshes = [
        mesh_record(closed=True),
        mesh_record(closed=False, open_edges=9),
        mesh_record(closed=False, open_edges=3),
    ]
    found = find([case(tmp_path, f"{n}", record) for n, record in enumerate(meshes)])
    assert [each["prompt"] for each in document(found)["cases"]] == ["1", "2", "0"]


def test_copies_of_a_view_are_worse_than_their_agreement(tmp_path: Path) -> None:
    copies = case(tmp_path, "copies", views_record(0.99, distinctness=0.0))
    assert find([case(tmp_path, "true", views_record(0.5)), copies]).runs[0].cases[0].prompt == "copies"


def test_prompts_names_and_reasons_are_words_and_nothing_else(tmp_path: Path) -> None:
    cases = [case(tmp_path, HOSTILE, views_record(0.5), run=run, model=HOSTILE) for run in ("x", "y")]
    findings = find(cases, [(HOSTILE, HOSTILE)], command=HOSTILE, machine={"Machine": HOSTILE})
    write_findings(findings, tmp_path / "out", draw=lambda path: DOT)
    written = (tmp_path / "out" / "report.html").read_text("utf-8")
    plain = Page(page(find([case(tmp_path, "a mug", views_record(0.5), run=run) for run in ("x", "y")], [("a", "b")])))
    parsed = Page(written)
    assert parsed.count("script") == 1 and "alert(1)" in "".join(parsed.words)
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in plain.tags} | {"code", "dt", "dd", "dl"}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in re.sub(r'<bdi>.*?</bdi>|alt="[^"]*"', "", written, flags=re.DOTALL)
    told = json.loads((tmp_path / "out" / "report.json").read_text("ascii"))
    assert told["cases"][0]["prompt"] == HOSTILE and told["command"] == HOSTILE


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    written = page(find([case(tmp_path, "a", views_record(0.5), run=run) for run in "xy"]))
    parsed = Page(written)
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "content" in a and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    assert "http://" not in written and "https://" not in written and "@import" not in written and "url(" not in written
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name)
        assert tag != "img" or attributes.get("alt")


def test_nothing_is_nan_in_the_file_and_what_is_not_known_is_null(tmp_path: Path) -> None:
    record = views_record(float("nan"), distinctness=float("inf"))
    found = document(find([case(tmp_path, "a", record), case(tmp_path, "b", views_record(0.5), seed=None)]))
    assert found["cases"][0]["record"]["agreement"]["score"] is None
    assert found["runs"][0]["figures"]["views"]["agreement"]["n"] == 1
    assert not re.search(r"(?i)[>(−+ -](nan|inf)\b", page(find([case(tmp_path, "c", record)])))


def test_pictures_are_drawn_as_they_are_written_and_only_of_the_worst(tmp_path: Path) -> None:
    cases = [case(tmp_path, f"{n}", views_record(n / 100), run=run) for n in range(30) for run in ("x", "y")]
    alive: list[weakref.ref[Thumbnail]] = []
    most = 0

    def draw(path: str) -> Thumbnail:
        nonlocal most
        made = Thumbnail(uri="data:,", width=1, height=1)
        alive.append(weakref.ref(made))
        most = max(most, sum(ref() is not None for ref in alive))
        return made

    for chunk in page_chunks(find(cases), worst=5, draw=draw):
        assert len(chunk) < 40_000
        del chunk
    assert len(alive) == 5 * 2 + 2 * 5 and most <= 2


def test_a_picture_that_cannot_be_drawn_is_said_in_its_place(tmp_path: Path) -> None:
    def draw(path: str) -> Thumbnail:
        raise AssetError("`000.png` is gone")

    findings = find([case(tmp_path, "a", views_record(0.5))])
    write_findings(findings, tmp_path / "out", draw=draw)
    assert "no picture: <bdi>`000.png` is gone" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match="`worst` must be 0 or more"):
        write_findings(findings, tmp_path / "out", worst=-1)


def test_of_nothing_at_all_there_is_a_page_that_says_so() -> None:
    findings = find([], [("a.glb", "it is no mesh")])
    assert "nothing; " in page(findings) and "1 could not be used" in page(findings)
    assert document(findings)["n_failed"] == 1 and document(findings)["cases"] == []


@pytest.mark.parametrize(
    "told",
    [
        {"prompt": 3, "settings": 4, "provenance": [1]},
        {"settings": {"seed": True, "steps": "x", "guidance": float("nan")}, "weights_sha256": "zz", "lora": {}},
        {
            "prompt": None,
            "settings": {"seed": 10**40},
            "versions": {"torch": 1},
            "lora": [1, {"file": 2}],
            "device": [],
        },
    ],
)
def test_records_of_strangers_are_left_out_where_they_are_not_what_they_should_be(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert read_maker(tmp_path) == ("", None, {})


# Pictures -------------------------------------------------------------------------------------------------------------


def test_strips_are_small_whatever_the_views_are_and_say_nothing_of_their_maker(tmp_path: Path, true: Views) -> None:
    true.save(tmp_path / "views")
    made = draw_thumbnail(tmp_path / "views")
    assert (made.width, made.height, made.frames) == (4 * 64 + 6, 64, 1) and len(made.uri) < 20_000
    large = Views(rgb=torch.rand(20, 3, 400, 400), cameras=Cameras.orbit(20))
    assert (strip(large).width, strip(large).height) == (8 * (VIEW_PX + 2) - 2, VIEW_PX)
    assert spread(20, 8) == [0, 2, 5, 7, 10, 12, 15, 17] and spread(3, 8) == [0, 1, 2]
    assert strip(large, columns=2, most=4, side=32).width == 66
    assert b"tiny" not in base64.b64decode(made.uri.partition(",")[2])


def test_a_mesh_turns(tmp_path: Path, toy: Mesh) -> None:
    save_mesh(toy, tmp_path / "toy.glb")
    made = draw_thumbnail(tmp_path / "toy.glb")
    assert (made.width, made.height, made.frames) == (FRAMES * FRAME_PX, FRAME_PX, FRAMES)
    assert len(made.uri) < 150_000


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_both_and_names_what_it_leaves_out(
    tmp_path: Path, true: Views, toy: Mesh, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        true.save(tmp_path / "many" / name)
    true.save(tmp_path / "other" / "a")
    (tmp_path / "many" / "b" / "001.png").write_bytes(b"no picture")
    save_mesh(toy, tmp_path / "many" / "toy.glb")
    (tmp_path / "many" / "cloud.splats.ply").write_bytes(b"not a mesh, and not asked about")
    assert main(["evaluate", "many", "other", "--report", "out", "--json", "--worst", "3"]) == 3
    said = capsys.readouterr()
    assert [json.loads(line)["path"] for line in said.out.splitlines()] == ["many/a", "many/toy.glb", "other/a"]
    assert "out/report.html: 3 measured, 1 left out" in said.err and "many/b: " in said.err
    told = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert told["command"] == "viewfold evaluate many other --json --report out --worst 3"
    assert told["runs"][0]["n"] == {"views": 1, "mesh": 1} and told["n_failed"] == 1
    assert told["comparisons"][0]["n_pairs"] == 1 and told["failed"][0]["name"] == "many/b"
    assert told["cases"][0]["seed"] == 3 and told["runs"][0]["makers"][0]["weights_sha256"] == "b" * 64
    written = (tmp_path / "out" / "report.html").read_text()
    assert written.count('class="turn"') == 1 and written.count('class="strip"') == 4 and "many/b" in written
    assert "b" * 64 in written and "viewfold evaluate many other" in written and " thread" in written


def test_flags_that_do_not_go_together_are_refused_before_anything_is_measured(
    tmp_path: Path, true: Views, capsys: pytest.CaptureFixture[str]
) -> None:
    true.save(tmp_path / "a")
    (tmp_path / "file").write_text("")
    for words, code, message in (
        (["--report", tmp_path / "out"], 2, "`PATHS` must name at least one"),
        ([tmp_path / "a", tmp_path / "a", "--report", tmp_path / "out"], 2, "`PATHS` must each be there once"),
        ([tmp_path / "a", "--report", tmp_path / "out", "--worst", "-1"], 2, "`--worst` must be 0 or more"),
        ([tmp_path / "a", "--report", tmp_path / "file"], 4, "is a file"),
        ([tmp_path / "a", "--seed", "1"], 2, "`--seed` must go with `--prompts`"),
        ([tmp_path / "a", "--prompts", tmp_path / "file"], 2, "`PATHS` must be left out with `--prompts`"),
        (
            ["--prompts", tmp_path / "file", "--reference", "a.glb"],
            2,
            "`--reference` must be left out with `--prompts`",
        ),
        (["--prompts", tmp_path / "file", "--views", "1"], 2, "`--views` must be 2 or more"),
        (["--prompts", tmp_path / "file", "--halves"], 2, "`--views` must be 8 or more"),
    ):
        assert main(["evaluate", *map(str, words)]) == code, words
        said = capsys.readouterr()
        assert message in said.err and not said.out, said.err
    assert not (tmp_path / "out").exists()
