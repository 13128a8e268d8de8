"""Checkpoints: whole or absent, of this run or refused by name, hostile ones harmless."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loop import FAST, line, run, stored
from torch import nn

from viewfold.errors import InputError, OutputError, WeightsError

SHORT = replace(FAST, steps=4, weight_decay=0.1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    run(tmp_path, SHORT, record={"batch": 2, "data": {"uids": "a"}})
    return tmp_path


def resume(out: Path, settings: Any = SHORT, record: dict[str, Any] | None = None, **options: Any) -> nn.Module:
    return run(out, replace(settings, steps=6), record=record or {"batch": 2, "data": {"uids": "a"}}, **options)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "seed was 0, is 1"), ({"weight_decay": 0.0}, "weight_decay was 0.1, is 0.0"),
        ({"beta2": 0.9}, "beta2 was 0.99, is 0.9"), ({"optimizer": "adamw"}, "optimizer was muon, is adamw"),
        ({"lr": 0.01}, "lr was 0.05, is 0.01"), ({"ema": 0.5}, "ema was 0.9, is 0.5"), ({"clip": 2.0}, "clip was 1.0"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"), ({"accumulate": 2}, "parts was 1, is 2"),
        ({"cooldown": 2}, "cooldown was 0, is 2"), ({"schedule": "linear"}, "schedule was constant, is linear"),
        ({"warmup": 1}, "warmup was 5, is 1"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name_and_can_be_insisted_on(changed: Any, said: str, out: Path) -> None:
    with pytest.raises(InputError, match=f"{said}.*--override"):
        resume(out, replace(SHORT, **changed))
    if "optimizer" not in changed:
        resume(out, replace(SHORT, **changed), override=True)
        assert (out / "checkpoint-00000006").is_dir()


@pytest.mark.parametrize("record", [{"batch": 3, "data": {"uids": "a"}}, {"batch": 2, "data": {"uids": "b"}}, {"x": 1}])
def test_other_data_is_refused_by_name(record: dict[str, Any], out: Path) -> None:
    with pytest.raises(InputError, match=r"batch was 2, is (3|unset)|data\.uids was a, is b"):
        resume(out, record=record)


def test_another_start_is_refused(out: Path) -> None:
    other = line()
    nn.init.constant_(other.bias, 3.0)
    with pytest.raises(InputError, match="start was"):
        resume(out, network=other)


@pytest.mark.parametrize("free", [{"minutes": 5.0}, {"keep": 5}, {"checkpoint_minutes": 1.0}, {"check_steps": 3}])
def test_what_does_not_change_the_steps_may_differ(free: dict[str, Any], out: Path) -> None:
    resume(out, replace(SHORT, **free))
    report = json.loads((out / "run.json").read_text())
    assert (report["step"], report["steps_made"]) == (6, 2)


def test_more_steps_are_refused_only_where_they_change_the_rates_of_steps_made(tmp_path: Path) -> None:
    falling = replace(FAST, steps=4, schedule="linear")
    run(tmp_path / "falling", falling)
    with pytest.raises(InputError, match="steps was 4, is 8, which changes the rates"):
        run(tmp_path / "falling", replace(falling, steps=8))
    cooling = replace(FAST, steps=6, cooldown=2)
    run(tmp_path / "cooling", replace(cooling, minutes=1e-9))  # stops after the first step, before the fall
    run(tmp_path / "cooling", replace(cooling, steps=8))


def test_an_override_uses_the_new_decay_and_not_the_stored_one(out: Path, tmp_path: Path) -> None:
    without = resume(out, replace(SHORT, weight_decay=0.0), override=True)
    shutil.rmtree(out / "checkpoint-00000006")
    pulled = resume(out, replace(SHORT, weight_decay=9.0), override=True)
    assert pulled.weight.norm() < 0.9 * without.weight.norm()  # type: ignore[union-attr,operator]


def test_a_finished_run_is_not_trained_again(out: Path) -> None:
    before, report = stored(out, 4), (out / "run.json").read_text()
    again = run(out, SHORT, record={"batch": 2, "data": {"uids": "a"}})
    assert torch.equal(again.weight, before["ema.weight"])  # type: ignore[arg-type]
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-00000004"]
    assert (out / "run.json").read_text() == report, "what it cost is not forgotten"


def test_a_checkpoint_of_another_network_is_refused_with_its_names(out: Path) -> None:
    other = nn.Linear(3, 1, bias=False)
    with pytest.raises(WeightsError, match=r"does not fit this network: unexpected: 5 \(ema\.bias"):
        resume(out, network=other, override=True)
    with pytest.raises(WeightsError, match=r"of another shape: \d+ \(ema\.weight \(1, 3\) instead of \(1, 4\)"):
        resume(out, network=nn.Linear(4, 1), override=True)


@pytest.mark.parametrize("damage", ["short", "header", "empty", "nan", "record", "gone", "list"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_trained(damage: str, out: Path) -> None:
    folder = out / "checkpoint-00000004"
    (file,) = folder.glob("*.safetensors")
    match damage:
        case "short":
            file.write_bytes(file.read_bytes()[:-4])
        case "header":
            file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
        case "empty":
            file.write_bytes(b"")
        case "nan":
            tensors = load_file(file)
            tensors["ema.bias"].fill_(torch.nan)
            save_file(tensors, file)
        case "record":
            (folder / "record.json").write_text("{")
        case "gone":
            (folder / "record.json").unlink()
        case "list":
            (folder / "record.json").write_text('{"step": [4]}')
    with pytest.raises(WeightsError, match="checkpoint-00000004"):
        resume(out)
    assert not (out / "checkpoint-00000006").exists()


def test_nothing_in_a_checkpoint_is_a_pickle(out: Path) -> None:
    names = sorted(path.suffix for path in (out / "checkpoint-00000004").iterdir())
    assert names == [".json", ".json", ".safetensors"]
    record = json.loads((out / "checkpoint-00000004" / "record.json").read_text())
    assert record["decides"]["seed"] == 0 and record["processes"] == 1 and record["decides"]["batch"] == 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.training import checkpoint

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(OutputError, match="no space left"):
        resume(out)
    assert [path.name for path in out.glob("*checkpoint-*")] == ["checkpoint-00000004"]


def test_a_full_disk_ends_the_run_with_the_checkpoint_before_and_nothing_half_written(out: Path) -> None:
    """A real limit on the size of files, which safetensors and DCP meet in their own way."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            resume(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.name for path in out.glob("*checkpoint-*")] == ["checkpoint-00000004"]
    resume(out)


def test_a_checkpoint_under_another_steps_name_is_refused(out: Path) -> None:
    (out / "checkpoint-00000004").rename(out / "checkpoint-00000005")
    with pytest.raises(WeightsError, match="checkpoint-00000005.*it says step 4"):
        resume(out)


def test_a_copy_without_storage_keeps_what_is_frozen_and_leaves_the_network() -> None:
    from viewfold.training.parallel import _without_storage

    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0].bias.requires_grad_(False)
    copy = _without_storage(network)
    flags = [parameter.requires_grad for parameter in copy.parameters()]
    assert flags == [parameter.requires_grad for parameter in network.parameters()] == [True, False, True, True]
    assert {t.device.type for t in copy.state_dict().values()} == {"meta"}
    assert {t.device.type for t in network.state_dict().values()} == {"cpu"}
