"""Fetching a released model: checked, converted, recorded; or nothing installed and a message that says why."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from server import Mirror, serve

from viewfold.cli import main
from viewfold.errors import FileError, InputError, WeightsError
from viewfold.weights import original, release
from viewfold.weights.network import load_unet
from viewfold.weights.release import RELEASES, fetch, installed, record

NAME = "mvdream-sd21"


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    """The small network of the parity data as a released file."""
    stored = load_file(Path(__file__).parent / "parity" / "unet_small.safetensors")
    tensors = {
        k.replace("weights.", "model.diffusion_model."): v for k, v in stored.items() if k.startswith("weights.")
    }
    file = io.BytesIO()
    torch.save({"state_dict": tensors}, file)
    return file.getvalue()


@pytest.fixture
def hub(checkpoint: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A hub on this machine that offers it, and an empty home to install in."""
    monkeypatch.setitem(RELEASES, NAME, release.Release(file="small.pt", repository="MVDream/MVDream"))
    layout = original.read_unet_layout
    monkeypatch.setattr(original, "read_unet_layout", lambda shapes, **_: layout(shapes, heads=None, head_channels=8))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("VIEWFOLD_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("VIEWFOLD_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve(Mirror(checkpoint)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/file.pt"))
        yield server


def names(home: Path) -> set[str]:
    """What lies where models are installed."""
    folder = home / "models"
    return {path.name for path in folder.iterdir()} - {"small.pt.lock"} if folder.is_dir() else set()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_release_is_downloaded_converted_and_recorded(hub: Mirror, tmp_path: Path) -> None:
    assert fetch(NAME) == installed(NAME) == tmp_path / "models" / NAME
    load_unet(installed(NAME))
    assert names(tmp_path) == {NAME, f"{NAME}.json"}
    known = record(NAME)
    assert known is not None and known["sha256"] == sha256(hub.content) and known["size"] == len(hub.content)
    assert known["url"].endswith("/MVDream/MVDream/resolve/main/small.pt")
    assert fetch(NAME, sha256=known["sha256"].upper()) == installed(NAME)
    assert len(hub.asked) == 1


@pytest.mark.slow
def test_the_file_is_kept_if_asked_and_used_again(hub: Mirror, tmp_path: Path) -> None:
    fetch(NAME, keep=True)
    assert names(tmp_path) == {NAME, f"{NAME}.json", "small.pt"}
    installed(NAME).rename(tmp_path / "elsewhere")
    fetch(NAME, offline=True)
    load_unet(installed(NAME))
    assert (tmp_path / "models" / "small.pt").is_file() and len(hub.asked) == 1


def test_a_mirror_of_ones_own_comes_first(hub: Mirror, tmp_path: Path) -> None:
    for address, file in (("", "/MVDream/MVDream/resolve/main/small.pt"), ("/lab/small.pt", "/lab/small.pt")):
        with serve(Mirror(hub.content)) as own:
            base = own.url.removesuffix("/file.pt")
            fetch(NAME, mirrors=[base + address])
        assert (own.asked, hub.asked) == ([""], [])
        assert (record(NAME) or {})["url"] == base + file
        shutil.rmtree(tmp_path / "models")


@pytest.mark.parametrize("pin", ["", "g" * 64, "0" * 63])
def test_a_malformed_pin_is_refused(hub: Mirror, pin: str) -> None:
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        fetch(NAME, sha256=pin)
    assert hub.asked == []


def test_another_hash_than_the_pinned_one_installs_nothing(hub: Mirror, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"SHA-256 {'0' * 64}; got {sha256(hub.content)}"):
        fetch(NAME, sha256="0" * 64)
    assert names(tmp_path) == set()


def test_the_first_hash_holds_ever_after(hub: Mirror, tmp_path: Path) -> None:
    fetch(NAME)
    with pytest.raises(WeightsError, match="that of the first download"):
        fetch(NAME, sha256="0" * 64)
    installed(NAME).rename(tmp_path / "elsewhere")
    hub.content, hub.etag = hub.content + b"changed", '"second"'
    with pytest.raises(WeightsError, match="damaged or another file"):
        fetch(NAME)
    assert names(tmp_path) == {f"{NAME}.json"}


@pytest.mark.parametrize("record_of_ours", ["[", "{}", '{"sha256": 3}', '{"sha256": "x"}', "[1]"])
def test_a_damaged_record_is_not_taken_for_none(hub: Mirror, tmp_path: Path, record_of_ours: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{NAME}.json").write_text(record_of_ours)
    with pytest.raises(WeightsError, match="Remove it"):
        fetch(NAME)
    assert hub.asked == []


def test_a_file_that_is_cut_short_on_its_hub_installs_nothing(hub: Mirror, tmp_path: Path) -> None:
    whole, hub.content = hub.content, hub.content[: len(hub.content) // 2]
    with pytest.raises(WeightsError, match=r"cut short.*kept as .*small\.pt; if you remove it"):
        fetch(NAME)
    assert not installed(NAME).exists() and record(NAME) is None
    (tmp_path / "models" / "small.pt").unlink()
    hub.content = whole
    fetch(NAME)
    load_unet(installed(NAME))


def test_a_file_that_is_not_what_its_hub_says_installs_nothing(hub: Mirror, tmp_path: Path) -> None:
    """A hub gives the SHA-256 of large files; a mark that is no hash promises nothing."""
    hub.etag = f'"{sha256(b"another")}"'
    with pytest.raises(WeightsError, match=f"SHA-256 {sha256(b'another')}; got {sha256(hub.content)}.*was removed"):
        fetch(NAME)
    assert names(tmp_path) == set()
    hub.etag = '"first"'
    fetch(NAME)
    load_unet(installed(NAME))


@pytest.mark.parametrize("switch", ["argument", "VIEWFOLD_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_touches_the_network(hub: Mirror, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    if switch != "argument":
        monkeypatch.setenv(switch, "1")
    with pytest.raises(FileError, match="offline"):
        fetch(NAME, offline=switch == "argument")
    assert hub.asked == []


def test_a_file_that_was_put_there_by_hand_is_used_and_kept(hub: Mirror, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.pt").write_bytes(hub.content)
    fetch(NAME, offline=True)
    load_unet(installed(NAME))
    assert names(tmp_path) == {NAME, f"{NAME}.json", "small.pt"}


def test_where_models_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIEWFOLD_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert installed(NAME) == Path("/some/cache/viewfold/models") / NAME
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(release.sys, "platform", "linux")
    assert installed(NAME) == Path.home() / ".cache" / "viewfold" / "models" / NAME
    with pytest.raises(InputError, match="mvdream-sd21 or mvdream-sd15; got 'sd'"):
        installed("sd")


def test_the_known_addresses_are_those_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    urls = [release._urls(RELEASES[name], []) for name in RELEASES]
    start = "https://huggingface.co/MVDream/MVDream/resolve/main/"
    assert urls == [[start + "sd-v2.1-base-4view.pt"], [start + "sd-v1.5-4view.pt"]]


def test_the_command_fetches_and_lists(hub: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    assert f"{NAME}: not installed; viewfold weights fetch {NAME}" in capsys.readouterr().out
    assert main(["weights", "fetch", NAME]) == 0
    said = capsys.readouterr().out
    assert str(installed(NAME)) in said and sha256(hub.content) in said
    assert main(["weights", "list"]) == 0
    assert sha256(hub.content) in capsys.readouterr().out
    assert main(["weights", "fetch", "sd"]) == 2
    assert "`NAME` must be mvdream-sd21 or" in capsys.readouterr().err


def test_a_stopped_command_says_that_it_can_go_on(
    hub: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "_digest", stop)
    with pytest.raises(SystemExit) as left:
        main(["weights", "fetch", NAME])
    assert left.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert names(tmp_path) == {"small.pt", "small.pt.part.json"}
    assert json.loads((tmp_path / "models" / "small.pt.part.json").read_text())["size"] == len(hub.content)
