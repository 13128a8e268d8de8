"""JSON in files: objects of a bounded size, and errors of the caller's kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from viewfold.errors import AssetError, OutputError, WeightsError
from viewfold.limits import JSON_BYTES
from viewfold.store import read_json, write_json


def test_an_object_comes_back_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "\u00e9"}', encoding="utf-8")
    size = path.stat().st_size
    assert read_json(str(path)) == read_json(path, max_bytes=size) == {"a": "\u00e9"}
    with pytest.raises(AssetError, match=rf"a\.json` must be at most {size - 1} bytes; it has {size}"):
        read_json(path, max_bytes=size - 1)
    write_json(path, {"a": ["\u00e9", "\udcff", None, 0.5]})
    assert read_json(path) == {"a": ["\u00e9", "\udcff", None, 0.5]}
    with pytest.raises(OutputError, match="at most"):
        write_json(path, {"a": "x" * JSON_BYTES})


@pytest.mark.parametrize("content", [b"[]", b"3", b"{", b"", b"\xff", b"[" * 100_000, None, "folder", "pipe"])
@pytest.mark.parametrize("kind", [AssetError, WeightsError])
def test_what_is_no_object_is_named_by_the_error_of_the_caller(
    kind: type[AssetError | WeightsError], content: object, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    with pytest.raises(kind, match=r"a\.json` must hold a JSON object"):
        read_json(path, error=kind)
