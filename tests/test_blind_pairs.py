"""Which things are paired, how each pair is drawn, and what the key and the caller are told: by hand."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from test_blind import LEFT, RIGHT, side, two

from viewfold import limits
from viewfold.camera import Cameras
from viewfold.errors import AssetError, InputError
from viewfold.evaluation import blind
from viewfold.evaluation.blind import PAIRS, Side, draw_pair, make_pairs, write_blind
from viewfold.evaluation.thumbnail import Thumbnail
from viewfold.views import Views


def saved(folder: Path, greys: list[float], size: int = 16) -> Path:
    rgb = torch.tensor(greys)[:, None, None, None].expand(-1, 3, size, size).clone()
    return Views(rgb=rgb, cameras=Cameras.orbit(len(greys))).save(folder, turntable=False)


def test_both_sides_show_as_many_views_as_the_smaller_has_four_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[float], int | None, int, int | None]] = []

    def strip(views: Views, *, columns: int | None, most: int, side: int | None) -> Thumbnail:
        asked.append(([round(float(x), 1) for x in views.rgb[:, 0, 0, 0]], columns, most, side))
        return (LEFT, RIGHT)[len(asked) % 2 == 0]

    monkeypatch.setattr(blind, "strip", strip)
    greys = [n / 10 for n in range(8)]
    for n_first, n_second, columns, most in ((8, 8, 2, 4), (3, 8, 2, 3), (8, 2, 2, 2), (1, 8, 1, 1)):
        asked.clear()
        first = saved(tmp_path / f"a{n_first}{n_second}", greys[:n_first])
        second = saved(tmp_path / f"b{n_first}{n_second}", greys[:n_second])
        assert draw_pair(first, second) == (LEFT, RIGHT)
        assert asked == [(greys[:n_first], columns, most, 192), (greys[:n_second], columns, most, 192)]


def test_meshes_turn_both_of_them_and_nobody_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"a.GLB": LEFT, "b.obj": RIGHT}

    def load(path: Path) -> str:
        warnings.warn("a mesh of a stranger", UserWarning, stacklevel=1)
        return path.name

    monkeypatch.setattr(blind, "load_mesh", load)
    monkeypatch.setattr(blind, "turning", drawn.__getitem__)
    assert draw_pair(tmp_path / "a.GLB", tmp_path / "b.obj") == (LEFT, RIGHT)


def test_of_an_odd_number_of_pairs_the_first_run_is_on_the_left_once_more(tmp_path: Path) -> None:
    first, second = two(tmp_path, 7)
    for seed in range(4):
        pairs, left_out = make_pairs(first, second, seed=seed, most=limits.VOTES_PAIRS)
        assert sum(pair.left_is_first for pair in pairs) == 4 and not left_out
    assert make_pairs(first, second, most=7)[1] == {} and make_pairs(first, second, most=6)[1] == {
        "more than are shown": 1
    }
    assert len(make_pairs(first, second, most=1)[0]) == 1


def test_a_page_has_fifty_pairs_by_default(tmp_path: Path) -> None:
    first, second = two(tmp_path, 52)
    pairs, left_out = make_pairs(first, second)
    assert len(pairs) == PAIRS == 50 and left_out == {"more than are shown": 2}
    assert len({pair.subject for pair in pairs}) == len({pair.id for pair in pairs}) == 50
    assert all(len(pair.id) == 12 for pair in pairs)


def test_things_are_paired_by_kind_and_by_prompt_or_else_by_name(tmp_path: Path) -> None:
    first, second = side(tmp_path, "a", ["mug"]), side(tmp_path, "b", ["mug"])
    for folder in ("a", "b"):
        (tmp_path / folder / "mug.json").write_text(json.dumps({"prompt": "mug", "seed": 0}))
    mesh = Side(name="mesh", places=[(tmp_path / "b" / "mug.GLB", "mug.GLB")])
    with pytest.raises(InputError, match="none in common"):
        make_pairs(first, mesh)
    both = Side(name="both", places=[*mesh.places, *second.places, (tmp_path / "b" / "no", "cup")])
    ours = Side(name="ours", places=[*first.places, (tmp_path / "a" / "mug.glb", ""), (tmp_path / "a" / "none", "cup")])
    pairs, left_out = make_pairs(ours, both)
    assert left_out == {} and {(p.subject, p.seed, p.first.name, p.second.name) for p in pairs} == {
        ("mug", 0, "000", "000"), ("mug", 0, "mug.glb", "mug.GLB"), ("cup", None, "none", "no"),
    }  # fmt: skip


def test_the_key_says_of_each_pair_what_it_was(tmp_path: Path) -> None:
    long = "x" * 400
    first, second = side(tmp_path, "a", [long, "b"], seeds=(7,)), side(tmp_path, "b", [long, "b", "c"], seeds=(7,))
    made = write_blind(first, second, tmp_path / "out", draw=lambda a, b: (LEFT, RIGHT), seed=2)
    key = json.loads(made.key.read_text())
    pairs, left_out = make_pairs(first, second, seed=2)
    assert made.left_out == left_out == {f"only in {second.name}": 1} and (made.n_pairs, made.failed) == (2, [])
    assert key["pairs"] == {
        pair.id: {
            "left": "first" if pair.left_is_first else "second",
            "subject": pair.subject[: limits.RECORD_TEXT],
            "seed": 7,
        }
        for pair in pairs
    }
    assert len(key["page"]) == 16 and key["page"] != json.loads(
        write_blind(first, second, tmp_path / "again", draw=lambda a, b: (LEFT, RIGHT), seed=3).key.read_text()
    )["page"], "votes of one page are not counted for another"  # fmt: skip
    written = made.page.read_text()
    assert [written.index(pair.id) for pair in pairs] == sorted(written.index(pair.id) for pair in pairs)
    assert f'data-page="{key["page"]}"' in written and long[:240] in written


def test_each_side_shows_what_its_run_made(tmp_path: Path) -> None:
    """The address of a picture is the folder that it was drawn of."""

    def draw(*sides: Path) -> tuple[Thumbnail, Thumbnail]:
        one, other = (Thumbnail(uri=f"data:,{path.parent.name}-{path.name}", width=1, height=1) for path in sides)
        return one, other

    first, second = two(tmp_path, 6)
    written = write_blind(first, second, tmp_path / "out", draw=draw).page.read_text()
    wanted = []
    for pair in make_pairs(first, second)[0]:
        runs = ("ours", "theirs") if pair.left_is_first else ("theirs", "ours")
        wanted += [f"data:,{run}-{pair.first.name}" for run in runs]
    assert re.findall(r'<img[^>]* src="([^"]*)"', written) == wanted, "and the seed is that of `make_pairs`"


def test_a_page_shows_as_many_pairs_as_it_is_asked_for(tmp_path: Path) -> None:
    made = write_blind(*two(tmp_path, 4), tmp_path / "out", draw=lambda a, b: (LEFT, RIGHT), most=3)
    assert made.n_pairs == len(json.loads(made.key.read_text())["pairs"]) == 3
    assert made.left_out == {"more than are shown": 1}


def test_a_pair_is_named_by_both_of_its_things_where_one_cannot_be_read(tmp_path: Path) -> None:
    def draw(first: Path, second: Path) -> tuple[Thumbnail, Thumbnail]:
        if first.name == "001":
            raise OSError("it is gone")
        if first.name == "002":
            raise AssetError("it is damaged")
        return LEFT, RIGHT

    first, second = two(tmp_path, 4)
    made = write_blind(first, second, tmp_path / "out", draw=draw)
    named = {f"{tmp_path}/ours/{n} beside {tmp_path}/theirs/{n}" for n in ("001", "002")}
    assert {name for name, _ in made.failed} == named and {why for _, why in made.failed} == {
        "it is gone", "it is damaged",
    }  # fmt: skip
    assert len(json.loads(made.key.read_text())["pairs"]) == made.n_pairs == 2
