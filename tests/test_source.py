"""Pictures of a folder: which, in which order, called what, made from what, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.evaluation.source import list_names, list_prompts, opaque, read_pictures
from viewfold.picture import to_pil
from viewfold.views import Views


def paint(path: Path, grey: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(torch.full((3, 4, 4), grey)).save(path)
    return path


def views(folder: Path, prompt: str = "", count: int = 2) -> Path:
    rgb = torch.full((count, 3, 4, 4), 0.5)
    return Views(rgb=rgb, cameras=Cameras.orbit(count), prompt=prompt).save(folder)


def names(path: Path) -> list[str]:
    return [each.name for each in read_pictures(path, skip=lambda *said: pytest.fail(str(said)))]


def test_what_is_transparent_is_mixed_with_grey_by_hand() -> None:
    picture = torch.tensor([0.8, 0.4, 0.0, 0.25])[:, None, None].expand(4, 2, 2)
    assert torch.allclose(opaque(picture)[:, 0, 0], torch.tensor([0.575, 0.475, 0.375]))
    assert torch.equal(opaque(picture[:3]), picture[:3])


def test_folders_come_after_the_pictures_beside_them_all_sorted(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/deep/1.png", "z.png", "c.webp", "a/x.jpeg", "b/.hidden.png", "b/n.txt"):
        paint(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    wanted = ["c.webp", "z.png", "a/x.jpeg", "a/deep/1.png", "b/10.png", "b/2.png"]
    assert names(tmp_path) == list(list_names(tmp_path)) == wanted
    found = next(each for each in read_pictures(tmp_path, skip=pytest.fail) if each.name == "b/2.png")
    assert found.subject == str(tmp_path / "b") and found.prompt == "" and found.rgb.shape == (3, 4, 4)


def test_of_views_the_pictures_that_cameras_name_and_nothing_below(tmp_path: Path) -> None:
    folder = views(tmp_path / "set" / "mug", "a mug")
    paint(folder / "below" / "more.png")
    paint(folder / "stray.png")
    paint(tmp_path / "set" / "plain" / "contact.png")
    wanted = ["mug/000.png", "mug/001.png", "plain/contact.png"]
    assert names(tmp_path / "set") == list(list_names(str(tmp_path / "set"))) == wanted
    assert names(folder) == ["000.png", "001.png"]
    (tmp_path / "link").symlink_to(tmp_path / "set", target_is_directory=True)
    assert names(tmp_path / "link") == wanted, "the link that was named is followed"
    (tmp_path / "set" / "plain" / "again").symlink_to(folder, target_is_directory=True)
    assert names(tmp_path / "set") == wanted, "those within are not"
    found = list(read_pictures(tmp_path / "set", skip=pytest.fail))
    assert [each.prompt for each in found] == ["a mug", "a mug", ""]
    assert [Path(each.subject).name for each in found] == ["mug", "mug", "plain"]


def test_a_prompt_that_is_no_text_or_cannot_be_read_is_none(tmp_path: Path) -> None:
    folder = views(tmp_path / "mug", "a mug")
    for run in ("{", "{}", '{"prompt": null}', '{"prompt": 3}', '{"prompt": ["a mug"]}', None):
        (folder / "run.json").unlink() if run is None else (folder / "run.json").write_text(run)
        assert [each.prompt for each in read_pictures(folder, skip=pytest.fail)] == ["", ""]
        assert list_prompts(tmp_path) == []


def test_different_prompts_are_listed_once_of_views_alone(tmp_path: Path) -> None:
    for name, prompt in (("a", "a mug"), ("b", "a cat"), ("c", "a mug"), ("d", ""), ("e/f", "a dog")):
        views(tmp_path / name, prompt)
    (tmp_path / "a" / "transforms.json").rename(tmp_path / "a" / "transforms_train.json")
    (tmp_path / "b" / "000.png").write_bytes(b"damaged")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "run.json").write_text(json.dumps({"prompt": "no views"}))
    assert sorted(list_prompts(tmp_path)) == ["a cat", "a dog", "a mug"]
    assert list_prompts(str(tmp_path / "e")) == ["a dog"] and list_prompts(tmp_path / "nowhere") == []


def test_one_picture_is_a_source_and_a_file_that_is_none_is_named_once(tmp_path: Path) -> None:
    picture = paint(tmp_path / "set" / "one.png", 0.2)
    (found,) = read_pictures(picture, skip=pytest.fail)
    assert (found.name, found.subject, found.prompt) == ("one.png", str(tmp_path / "set"), "")
    assert float(found.rgb.mean()) == pytest.approx(0.2, abs=0.002)
    (tmp_path / "set" / "note.txt").write_text("no picture")
    said: list[tuple[str, str]] = []
    assert not list(read_pictures(str(tmp_path / "set" / "note.txt"), skip=lambda *each: said.append(each)))
    assert [name for name, _ in said] == [str(tmp_path / "set" / "note.txt")] and "holds no picture" not in said[0][1]


def test_each_thing_that_cannot_be_used_is_named_and_the_others_come(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "good.png")
    (tmp_path / "a" / "bad.png").write_bytes(b"no picture")
    folder = views(tmp_path / "b")
    (folder / "transforms.json").write_text("[]")
    views(tmp_path / "c")
    said: list[str] = []
    found = [each.name for each in read_pictures(tmp_path, skip=lambda name, why: said.append(name))]
    assert found == ["a/good.png", "c/000.png", "c/001.png"]
    assert said == [str(tmp_path / "a" / "bad.png"), str(folder)]
    said.clear()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.png").write_bytes(b"no picture")
    assert not list(read_pictures(tmp_path / "only", skip=lambda name, why: said.append(name)))
    assert said == [str(tmp_path / "only" / "bad.png")], "a folder of damaged ones is not called empty"
