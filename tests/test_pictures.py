"""Captioned 2D pictures: what is imported, under which name, and how it is shrunk."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch

from viewfold.data.pictures import CAPTION_FORMS, emoji_name, import_emoji
from viewfold.errors import InputError
from viewfold.picture import read_image, to_pil

TRAM, COFFEE = "1f68b", "2615"


def save(folder: Path, stem: str, picture: torch.Tensor, suffix: str = ".png") -> None:
    folder.mkdir(exist_ok=True)
    to_pil(picture).save(folder / f"{stem}{suffix}", lossless=True)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Two pixels beside each other, twice: a red one, and a green one that nobody sees."""
    picture = torch.zeros(4, 2, 2)
    picture[0, :, 0], picture[3, :, 0], picture[1, :, 1] = 1, 1, 1
    save(tmp_path / "emoji", TRAM, picture)
    return tmp_path / "emoji"


def test_a_picture_is_shrunk_by_what_is_seen_of_it(half: Path, tmp_path: Path) -> None:
    """The red pixel and the invisible green one make half a red one."""
    import_emoji(half, tmp_path / "out", size=1)
    small = read_image(tmp_path / "out" / f"emoji-{TRAM}" / "000.webp")
    torch.testing.assert_close(small[:, 0, 0], torch.tensor([1.0, 0, 0, 0.5]), atol=0.003, rtol=0)


def test_a_picture_of_its_own_size_is_kept(tmp_path: Path) -> None:
    picture = (torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    picture[3] = picture[3].clamp(min=0.1)
    save(tmp_path / "emoji", TRAM, picture, ".webp")
    import_emoji(tmp_path / "emoji", tmp_path / "out", size=8)
    torch.testing.assert_close(read_image(tmp_path / "out" / f"emoji-{TRAM}" / "000.webp"), picture, atol=0.003, rtol=0)


def test_a_picture_without_alpha_is_opaque_and_64_px_by_default(tmp_path: Path) -> None:
    save(tmp_path / "emoji", TRAM, torch.full((3, 4, 4), 0.2))
    import_emoji(tmp_path / "emoji", tmp_path / "out")
    picture = read_image(tmp_path / "out" / f"emoji-{TRAM}" / "000.webp")
    assert picture.shape[1:] == (64, 64)
    torch.testing.assert_close(picture[:3], torch.full((3, 64, 64), 0.2))
    assert picture.shape[0] == 3 or bool((picture[3] == 1).all())


def test_the_record_has_every_caption_the_licence_and_no_cameras(half: Path, tmp_path: Path) -> None:
    import_emoji(half, tmp_path / "out", size=8)
    meta = json.loads((tmp_path / "out" / f"emoji-{TRAM}" / "meta.json").read_text())
    assert meta["captions"] == ["tram car", "a tram car", "an emoji of a tram car", "a picture of a tram car"]
    assert len(CAPTION_FORMS) == 4
    assert meta["views"] is None and (meta["licence"], meta["author"]) == ("MIT", "Microsoft Fluent Emoji")


def test_what_is_there_or_unwanted_or_unnamed_is_skipped_and_damage_is_reported(half: Path, tmp_path: Path) -> None:
    deep = half / "deep"
    save(deep, COFFEE, torch.rand(3, 4, 4))
    save(deep, "1f468-200d-1f373", torch.rand(3, 4, 4))
    (deep / "1f697.webp").write_bytes(b"broken")
    (deep / "readme.txt").write_text("")
    seen: list[tuple[int, int]] = []
    without = frozenset({"beverage", "car"})
    report = import_emoji(half, tmp_path / "none", size=4, without=without, progress=lambda *at: seen.append(at))
    assert (report.done, report.skipped, report.failed) == (0, 3, [("1f697.webp", ANY)]) and seen == [
        (i, 4) for i in range(1, 5)
    ]
    report = import_emoji(half, tmp_path / "out", size=4)
    assert (report.done, report.skipped) == (2, 1) and [name for name, _ in report.failed] == ["1f697.webp"]
    again = import_emoji(half, tmp_path / "out", size=4)
    assert (again.done, again.skipped, len(again.failed)) == (0, 3, 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"emoji-{TRAM}", f"emoji-{COFFEE}"]
    with pytest.raises(InputError, match=r"must hold \.webp or \.png"):
        import_emoji(tmp_path / "out" / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("1f68b", "tram car"),
        ("2615-fe0f", "hot beverage"),
        ("fe0f-2615", "hot beverage"),
        ("1f60a", "smiling face with smiling eyes"),
        ("1f9dd", "elf"),
        ("1f3fa", "amphora"),
        ("1f400", "rat"),
        ("1f3fb", None),
        ("1f3ff", None),
        ("1f468-200d-1f373", None),
        ("fe0f", None),
        ("0", None),
        ("110000", None),
        ("ffffffff", None),
        ("e000", None),
        ("readme", None),
        ("", None),
    ],
)
def test_only_single_code_points_with_a_name_are_named(stem: str, name: str | None) -> None:
    assert emoji_name(stem) == name
    assert emoji_name("1f575") == "sleuth or spy" and emoji_name("2b50") == "white medium star"


def test_a_hyphen_in_a_name_becomes_a_space() -> None:
    assert emoji_name("1f52b") == "pistol" and emoji_name("23f0") == "alarm clock"
    assert emoji_name("1f644") == "face with rolling eyes" and emoji_name("1f6b4") == "bicyclist"
    assert emoji_name("2b05") == "leftwards black arrow" and emoji_name("1f3ab") == "ticket"
    assert (
        emoji_name("1f5fa") == "world map" and emoji_name("1f92a") == "grinning face with one large and one small eye"
    )
    assert emoji_name("1f51b") == "on with exclamation mark with left right arrow above"
