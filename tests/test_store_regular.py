"""Every door opens files alone: a pipe, a socket, a device or a folder is refused at once, and so are names of none."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from viewfold.data.captions import read_table
from viewfold.data.gallery import find_pictures
from viewfold.data.shards import open_shards
from viewfold.errors import OutputError, ViewfoldError
from viewfold.evaluation.judge import load_judge
from viewfold.origin.record import read_provenance
from viewfold.picture import kept_fields, read_image
from viewfold.pipeline.batch import read_prompts
from viewfold.pipeline.generation import load
from viewfold.scene.meshfile import load_mesh
from viewfold.store import atomic_write, check_output, open_regular, read_json, read_regular
from viewfold.views import Views
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.lora import read_lora

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    signal.alarm(20)
    yield
    signal.alarm(0)


def lora(path: Path) -> object:
    import torch

    return read_lora(path, unet=torch.nn.Linear(1, 1), text_encoder=None)


DOORS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "picture": ("x.png", read_image),
    "provenance of a picture": ("x.png", read_provenance),
    "provenance of a GLB": ("x.glb", read_provenance),
    "provenance of an OBJ": ("x.obj", read_provenance),
    "GLB": ("x.glb", load_mesh),
    "OBJ": ("x.obj", load_mesh),
    "PLY": ("x.ply", load_mesh),
    "JSON": ("x.json", read_json),
    "prompts": ("x.txt", read_prompts),
    "captions": ("x.csv", lambda path: read_table(path, wanted={"a"})),
    "captions in JSON lines": ("x.jsonl", lambda path: read_table(path, wanted={"a"})),
    "shard": ("x.tar", lambda path: open_shards(path.parent)),
    "webdataset": ("x.tar", lambda path: find_pictures(path.parent)),
    "views": ("transforms.json", lambda path: Views.load(path.parent)),
    "checkpoint": ("x.pt", read_checkpoint),
    "safetensors": ("x.safetensors", read_checkpoint),
    "model": ("x.safetensors", load),
    "model's folder": ("model_index.json", lambda path: load(path.parent)),
    "LoRA": ("x.safetensors", lora),
    "judge": ("config.json", lambda path: load_judge(path.parent)),
}


def make(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            monkeypatch.chdir(path.parent)  # the path of a socket is bounded
            server = socket.socket(socket.AF_UNIX)
            server.bind(path.name)
            return server
        case "device":
            path.symlink_to("/dev/zero")
    return None


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("door", DOORS)
def test_no_door_waits_for_what_is_no_file(
    door: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read = DOORS[door]
    server = make(kind, tmp_path / name, monkeypatch)
    try:
        with pytest.raises(ViewfoldError) as refused:
            read(tmp_path / name)
    finally:
        if server is not None:
            server.close()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"webdataset"}))
def test_a_name_that_no_file_can_have_is_refused(door: str, name: str) -> None:
    with pytest.raises(ViewfoldError):
        DOORS[door][1](Path(f"{name}/{DOORS[door][0]}"))
    with pytest.raises(ViewfoldError):
        DOORS[door][1](Path(f"{name}{DOORS[door][0]}"))


def test_a_file_is_opened_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert read_regular(str(tmp_path / "x"), max_bytes=3) == b"abc"
    with pytest.raises(OSError, match="it has 3 bytes, more than 2") as refused:
        read_regular(tmp_path / "x", max_bytes=2)
    assert refused.value.errno == errno.EFBIG
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere")
    with pytest.raises(OSError, match="no file can have this name"):
        open_regular("a\0b")


def test_a_file_that_is_exchanged_for_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    status = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: status)
    with pytest.raises(OSError, match="a pipe"):
        open_regular(tmp_path / "pipe")
    assert kept_fields(tmp_path / "pipe", suffix=".png") == {}


@pytest.mark.parametrize(
    ("place", "says"),
    [("/", "root of a disk"), ("/proc", "root of a disk"), ("/dev/null", "a device"), ("a\0b", "NUL"), ("~", "home")],
)
def test_what_must_not_be_replaced_is_not(
    place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for holds in (".*", None):
        if (place, holds) != ("~", None):
            with pytest.raises(OutputError, match=says):
                check_output(os.path.expanduser(place), holds=holds)
    if place != "~":
        with pytest.raises(OutputError, match=says), atomic_write(place) as temporary:
            temporary.write_text("x")
