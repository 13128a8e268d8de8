"""Own pictures: folders as the ecosystem writes them, and tars as webdataset does, packed and read again."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_packing import uids_in

from viewfold.cli import main
from viewfold.data.gallery import find_pictures, square
from viewfold.data.packing import pack
from viewfold.data.shards import open_shards
from viewfold.errors import InputError


def save(path: Path, color: tuple[int, ...] = (200, 0, 0), size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(path)


def packed_captions(out: Path) -> dict[str, list[str]]:
    return {sample.uid: sample.meta["captions"] for sample in open_shards(out)}


def test_a_folder_with_texts_beside_and_broken_pictures(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.txt").write_text("a red sheet\n")
    save(tmp_path / "in" / "deep" / "b.c.png", (0, 0, 200, 128))
    (tmp_path / "in" / "deep" / "b.c.json").write_text('{"caption": "a blue pane", "license": "CC0"}')
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    (tmp_path / "in" / "broken.txt").write_text("x")
    save(tmp_path / "in" / "mute.png")
    report = pack(find_pictures(tmp_path / "in", size=6), tmp_path / "out")
    assert [uid for uid, _ in report.failed] == ["broken", "mute"] and report.samples == 2
    red, blue = open_shards(tmp_path / "out")
    assert packed_captions(tmp_path / "out") == {"a": ["a red sheet"], "deep%2Fb%2Ec": ["a blue pane"]}
    assert red.pictures().shape == (1, 3, 6, 6) and red.cameras is None and blue.meta["licence"] == "CC0"
    assert red.pictures()[0, :, 3, 3].tolist() == pytest.approx([200 / 255, 0, 0], abs=0.01)
    assert pack(find_pictures(tmp_path / "in", size=6), tmp_path / "out").kept == 2
    (tmp_path / "in" / "a.txt").write_text("a crimson sheet\n")
    assert pack(find_pictures(tmp_path / "in", size=6), tmp_path / "out").replaced == 1
    with pytest.raises(InputError, match="size is"):
        save(tmp_path / "more" / "z.png")
        pack(find_pictures(tmp_path / "more", size=8), tmp_path / "out")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_imagefolder(tmp_path: Path, kind: str) -> None:
    rows = [{"file_name": "train/0001.png", "text": "a red, square sheet"}, {"file_name": "0002.png", "text": "two"}]
    for row in rows:
        save(tmp_path / "in" / row["file_name"])
    if kind == "jsonl":
        (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        with (tmp_path / "in" / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    assert main(["pack", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "8"]) == 0
    assert packed_captions(tmp_path / "out") == {"0002": ["two"], "train%2F0001": ["a red, square sheet"]}


def picture_bytes(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_tars_that_webdataset_wrote(tmp_path: Path) -> None:
    from webdataset.writer import TarWriter

    (tmp_path / "in").mkdir()
    with TarWriter(str(tmp_path / "in" / "00000.tar")) as writer:
        for index in range(3):
            key = f"{index:09d}"
            about = {"caption": f"number {index}", "url": f"https://x/{index}", "key": key, "status": "success"}
            writer.write({"__key__": key, "png": picture_bytes(80 * index), "txt": f"number {index}", "json": about})
    report = pack(find_pictures(tmp_path / "in", size=8), tmp_path / "out")
    assert report.samples == 3 and report.failed == []
    samples = open_shards(tmp_path / "out")
    assert [sample.meta["captions"] for sample in samples] == [["number 0"], ["number 1"], ["number 2"]]
    assert samples[2].pictures().mean().item() == pytest.approx(160 / 255, abs=0.01)
    assert samples[1].meta["source"] == "https://x/1" and samples[1].uid == "00000%2F000000001"
    with pytest.raises(InputError, match="packed already"):
        find_pictures(tmp_path / "out")


def test_names_with_dots_and_leading_dots_in_a_tar_that_is_cut_or_hostile(tmp_path: Path) -> None:
    path = tmp_path / "in.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("./k1.png", picture_bytes(0)), ("./k1.txt", b"one"), ("key.with.dots.png", picture_bytes(9)),
            ("key.with.dots.txt", b"dots"), ("../../up.png", picture_bytes(5)), ("../../up.txt", b"up"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert pack(find_pictures(path, size=8), tmp_path / "out").samples == 3
    assert sorted(caption for (caption,) in packed_captions(tmp_path / "out").values()) == ["dots", "one", "up"]
    assert all("." not in uid and "/" not in uid for uid in uids_in(tmp_path / "out"))


def test_the_square_is_the_middle_and_hidden_pixels_lend_no_colour() -> None:
    wide = torch.zeros(3, 4, 8)
    wide[:, :, 2:6] = 1
    assert torch.equal(square(wide, 4), torch.ones(3, 4, 4))
    half = torch.zeros(4, 8, 8)
    half[0, :, :4], half[3, :, :4], half[1, :, 4:] = 1, 1, 1
    small = square(half, 2)
    assert float(small[1].max()) < 0.01 and float(small[0].max()) > 0.99
