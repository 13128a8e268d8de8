"""Captions, licences and authors from what people have: sidecars, tables, Objaverse's and LVIS's indices, names."""

from __future__ import annotations

import builtins
import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from viewfold import limits
from viewfold.data.captions import caption_from_name, lvis_caption, read_sidecar, read_table
from viewfold.data.source import captioned_assets, list_assets, path_of, uid_of, unread_files
from viewfold.errors import AssetError, InputError, MissingExtraError


def captions_of(folder: Path, **options: Any) -> dict[str, list[str] | None]:
    return {asset.uid: asset.record.get("captions") for asset in captioned_assets(folder, **options)}


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ('{"captions": ["a mug", " a  red\\nmug "]}', ["a mug", "a red mug"]),
        ('{"caption": "a mug"}', ["a mug"]),
        ('"a mug"', ["a mug"]),
        ('["a mug", "a mug", ""]', ["a mug"]),
    ],
)
def test_a_sidecar_is_json_of_any_kind(tmp_path: Path, content: str, captions: list[str]) -> None:
    (tmp_path / "x.json").write_text(content)
    assert read_sidecar(tmp_path / "x.glb")["captions"] == captions


def test_a_text_has_a_caption_a_line_and_json_brings_the_licence(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a mug\n\na red mug\n")
    (tmp_path / "x.json").write_text('{"license": "CC0", "creator": "Ann"}')
    record = read_sidecar(tmp_path / "x.glb")
    assert record["captions"] == ["a mug", "a red mug"] and (record["licence"], record["author"]) == ("CC0", "Ann")


@pytest.mark.parametrize(
    "content", [b"{", b"5", b'{"captions": [1]}', b"\xff\xfe", b'"' + b"x" * 20_000 + b'"', b"[" * 9999]
)
def test_a_damaged_sidecar_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(AssetError, match="x.json"):
        read_sidecar(tmp_path / "x.glb")
    (tmp_path / "x.json").unlink()
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(AssetError, match="pipe"):
        read_sidecar(tmp_path / "x.glb")


def test_tables_with_and_without_a_header(tmp_path: Path) -> None:
    with (tmp_path / "cap3d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["aa", 'a "red" mug, small'], ["bb", "a car\nof tin"], ["zz", "unwanted"]])
    assert read_table(tmp_path / "cap3d.csv", wanted={"aa", "bb"}) == {
        "aa": {"captions": ['a "red" mug, small']},
        "bb": {"captions": ["a car of tin"]},
    }
    (tmp_path / "own.csv").write_text("\ufefflicense,uid,Caption,artist\nCC0,aa,a mug,Ann\nCC0,aa,a cup,Ann\n")
    assert read_table(tmp_path / "own.csv", wanted={"aa"})["aa"] == {
        "captions": ["a mug", "a cup"], "licence": "CC0", "author": "Ann",
    }  # fmt: skip
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(AssetError, match="must have a header"):
        read_table(tmp_path / "odd.csv", wanted={"a"})


def test_parquet_by_pyarrow_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"uid": ["aa", "bb"], "caption": ["a mug", None], "license": ["by", "cc0"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", wanted={"aa", "bb"})
    assert found == {"aa": {"captions": ["a mug"], "licence": "by"}, "bb": {"licence": "cc0"}}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(AssetError, match="bad.parquet"):
        read_table(tmp_path / "bad.parquet", wanted={"aa"})
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"viewfold\[parquet\]"):
        read_table(tmp_path / "t.parquet", wanted={"aa"})


def test_objaverse_and_lvis_from_a_local_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"uid": "aa", "name": "Red_Mug 03", "tags": [{"name": "cup"}], "license": "by", "viewerUrl": "https://x/aa",
           "user": {"username": "ann1", "displayName": "Ann"}}  # fmt: skip
    two = {"uid": "bb", "name": "0042", "tags": [{"name": "car"}, {"name": "toy"}], "license": "cc0", "user": {}}
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "000-000.json.gz").write_bytes(gzip.compress(json.dumps({"aa": one, "bb": two}).encode()))
    lvis = {"bow_(decorative_ribbons)": ["aa"], "Band_Aid": ["bb"]}
    (mirror / "lvis-annotations.json.gz").write_bytes(gzip.compress(json.dumps(lvis).encode()))
    found = read_table(mirror, wanted={"aa", "bb"})
    assert found["aa"] == {
        "captions": ["red mug", "bow"], "licence": "CC-BY-4.0", "author": "Ann", "source": "https://x/aa",
    }  # fmt: skip
    assert found["bb"]["captions"] == ["car, toy", "band aid"] and found["bb"]["licence"] == "CC0-1.0"
    assert lvis_caption("baseball_bat") == "baseball bat"
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 10_000))
    monkeypatch.setattr(limits, "INDEX_BYTES", 9_999)
    with pytest.raises(AssetError, match="at most 9999 bytes"):
        read_table(bomb, wanted={"aa"})


@pytest.mark.parametrize(
    ("stem", "caption"),
    [("Red_Mug-03", "red mug"), ("redMug", "red mug"), ("chair.v2", "chair"), ("0042", None),
     ("Stuhl_grün", "stuhl grün"), ("8476c4170df24cf5bbe6967222d1a42d", None)],
)  # fmt: skip
def test_a_name_becomes_a_caption_if_it_says_anything(stem: str, caption: str | None) -> None:
    assert caption_from_name(stem) == caption


def test_nested_folders_have_uids_that_lead_back(tmp_path: Path) -> None:
    for name in ("a.glb", "chairs/a.glb", "chairs/red.v2.obj", "chairs/50%.ply", ".hidden/x.glb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    uids = [asset.uid for asset in list_assets(tmp_path)]
    assert uids == ["a", "chairs%2F50%25", "chairs%2Fa", "chairs%2Fred%2Ev2"]
    assert [path_of(uid) for uid in uids] == ["a", "chairs/50%", "chairs/a", "chairs/red.v2"]
    assert uid_of("a/b") != uid_of("a%2Fb")
    (tmp_path / "table.csv").write_text("uid,caption\na,on top\nchairs/a.glb,a chair\nred.v2,a red one\n")
    assert captions_of(tmp_path, captions=tmp_path / "table.csv") == {
        "a": ["on top"], "chairs%2F50%25": None, "chairs%2Fa": ["a chair"], "chairs%2Fred%2Ev2": ["a red one"],
    }  # fmt: skip


def test_an_asset_without_caption_has_a_reason_and_files_that_nobody_reads_are_counted(tmp_path: Path) -> None:
    for name in ("Red_Mug-03.glb", "0042.obj", "a.fbx", "b.FBX", "0042.mtl"):
        (tmp_path / name).write_text("x")
    assert ["captions" in asset.record for asset in captioned_assets(tmp_path)] == [False, False]
    named = captioned_assets(tmp_path, from_name=True)
    assert named[1].record["captions"] == ["red mug"] and "name says nothing" in str(named[0].reason)
    assert unread_files(tmp_path) == ["2 .fbx files are not read; convert them to GLB"]
    for name in ("Red_Mug-03.glb", "0042.obj"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="2 .fbx files"):
        list_assets(tmp_path)
