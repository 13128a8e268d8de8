"""Bounds of files from strangers, each at its limit and one beyond it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.weights import folder
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.folder import check_folder


def config(at: Path, **values: object) -> Path:
    at.mkdir(exist_ok=True)
    (at / "config.json").write_text(json.dumps(values))
    return at


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers"])
def test_sizes_and_layers_at_their_limits(tmp_path: Path, name: str) -> None:
    limit = 256 if "layer" in name else 2**20
    for good in (limit, -(2**20), [limit, 0], {"deep": limit}):
        check_folder(config(tmp_path / "a", **{name: good}))
    for bad in (limit + 1, -(2**20) - 1, [1, limit + 1], limit + 0.5):
        with pytest.raises(WeightsError, match=f"sizes of at most {limit}; `{name}`"):
            check_folder(config(tmp_path / "a", **{name: bad}))


def test_lists_and_depth_at_their_limits(tmp_path: Path) -> None:
    check_folder(config(tmp_path / "a", sizes=[1] * 64))
    with pytest.raises(WeightsError, match="lists of at most 64"):
        check_folder(config(tmp_path / "a", sizes=[1] * 65))
    schedule = tmp_path / "b"
    schedule.mkdir()
    (schedule / "scheduler_config.json").write_text(json.dumps({"trained_betas": [0.1] * 1000}))
    check_folder(schedule)
    (schedule / "scheduler_config.json").write_text(json.dumps({"trained_betas": [0.1] * 1001}))
    with pytest.raises(WeightsError, match="lists of at most 1000"):
        check_folder(schedule)

    def nested(depth: int) -> object:
        return [nested(depth - 1)] if depth else 1

    check_folder(config(tmp_path / "a", x=nested(8)))
    with pytest.raises(WeightsError, match="8 deep"):
        check_folder(config(tmp_path / "a", x=nested(9)))


@pytest.mark.parametrize("key", folder.FOREIGN)
def test_names_of_other_code_may_be_empty_and_no_more(tmp_path: Path, key: str) -> None:
    for empty in (None, False):
        check_folder(config(tmp_path / "a", **{key: empty}))
    for named in (True, "x", {}, []):
        with pytest.raises(WeightsError, match=f"it has `{key}`"):
            check_folder(config(tmp_path / "a", **{key: named}))


def test_numbers_of_files_and_bytes_at_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOLDER_FILES", 2)
    monkeypatch.setattr(limits, "CONFIG_BYTES", 10)
    monkeypatch.setattr(limits, "FOLDER_TEXT_BYTES", 20)
    (tmp_path / "config.json").write_text('{"a": 345}')
    (tmp_path / "words.txt").write_text("x" * 20)
    check_folder(tmp_path)
    (tmp_path / "words.txt").write_text("x" * 21)
    with pytest.raises(WeightsError, match=r"words\.txt` must be at most 20 bytes; it has 21"):
        check_folder(tmp_path)
    (tmp_path / "words.txt").rename(tmp_path / "model.bin")  # weights are bounded by the disk alone
    check_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 3456}')
    with pytest.raises(WeightsError, match=r"config\.json` must be at most 10 bytes"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "third").write_text("")
    with pytest.raises(WeightsError, match="at most 2 files; it holds 3"):
        check_folder(tmp_path)


def test_a_file_of_weights_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100)}, path)
    size = path.stat().st_size
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES", size)
    assert read_checkpoint(str(path))["a"].sum() == 100
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES", size - 1)
    with pytest.raises(WeightsError, match=f"1 to {size - 1} bytes; a.safetensors has {size}"):
        read_checkpoint(path)


def test_tied_weights_count_twice_and_no_more(tmp_path: Path) -> None:
    """A file of 40,000 numbers may claim 80,000."""
    one = torch.ones(40_000)
    torch.save({"a": one, "b": one}, tmp_path / "tied.pt")
    assert set(read_checkpoint(tmp_path / "tied.pt")) == {"a", "b"}
    torch.save({"a": one, "b": one, "c": one}, tmp_path / "thrice.pt")
    with pytest.raises(WeightsError, match="claims 480000 bytes"):
        read_checkpoint(tmp_path / "thrice.pt")


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4])
def test_weights_are_found_up_to_three_levels_down(tmp_path: Path, depth: int) -> None:
    content: object = {"a": torch.ones(2), "step": 3, 4: torch.ones(1)}
    for _ in range(depth):
        content = {"state_dict": content, "epoch": 1}
    torch.save(content, tmp_path / "a.pt")
    if depth <= 3:
        assert list(read_checkpoint(tmp_path / "a.pt")) == ["a"]
    else:
        with pytest.raises(WeightsError, match="holds none"):
            read_checkpoint(tmp_path / "a.pt")
