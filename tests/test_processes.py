"""Two real processes: the same weights on both at every step, those of one process, and an end that both notice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TOGETHER = "ddp,adamw,four_parts,resumed,fsdp,fsdp_whole,fsdp_checked,fsdp_bf16,uneven,unet,unet_fsdp,subject"


def start(scenario: str, out: Path, *, world: int) -> list[subprocess.CompletedProcess[str]]:
    """Run a scenario in `world` processes that nobody but themselves looks after; return how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    source = os.pathsep.join([str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    common = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    started = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port} if world > 1 else {}  # fmt: skip
        command = [sys.executable, str(HERE / "processes.py"), scenario, str(out)]
        started.append(subprocess.Popen(command, env=common | own, stderr=subprocess.PIPE, text=True))
    ended = []
    try:
        for process in started:
            _, errors = process.communicate(timeout=240)
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, "", errors))
    finally:
        for process in started:
            process.kill()
    return ended


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes did, and then one."""
    folder = tmp_path_factory.mktemp("processes")
    for ended in start(TOGETHER, folder, world=2):
        assert ended.returncode == 0, ended.stderr[-3000:]
    for ended in start("ddp,adamw,four_parts,unet,resharded,subject", folder, world=1):
        assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


def seen(out: Path, name: str, *, world: int = 2, rank: int = 0) -> dict[str, Any]:
    return torch.load(out / f"{name}-{world}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize("name", ["ddp", "adamw", "fsdp", "resumed"])
def test_all_processes_have_the_same_weights_at_every_step(name: str, out: Path) -> None:
    first, second = seen(out, name), seen(out, name, rank=1)
    assert len(first["steps"]) == len(second["steps"]) > 2
    for one, other in zip(first["steps"], second["steps"], strict=True):
        assert all(torch.equal(one[n], other[n]) for n in one)
    assert all(torch.equal(first["result"][n], second["result"][n]) for n in first["result"])


@pytest.mark.parametrize(
    ("name", "single"), [("ddp", "ddp"), ("adamw", "adamw"), ("fsdp", "adamw"), ("four_parts", "four_parts")]
)
def test_two_processes_make_the_steps_of_one_on_the_same_batches(name: str, single: str, out: Path) -> None:
    two, one = seen(out, name), seen(out, single, world=1)
    tolerance = 2e-3 if name == "ddp" else 1e-5  # Muon computes in bfloat16
    for key, value in one["result"].items():
        assert torch.allclose(two["result"][key], value, atol=tolerance), key
    moved = [step["leave.weight"] for step in one["steps"]]
    assert (moved[-1] - moved[0]).abs().max() > 5 * tolerance, "far more than what is tolerated"


@pytest.mark.parametrize("name", ["ddp", "four_parts"])
def test_the_log_holds_the_mean_over_all_parts(name: str, out: Path) -> None:
    two, one = (
        [json.loads(line) for line in (out / f"{name}-{world}" / "log.jsonl").read_text().splitlines()]
        for world in (2, 1)
    )
    assert len(two) == len(one) == 6
    for key in ("loss", "norm", "lr"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=0.02), key
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["unet", "unet_fsdp"])
def test_the_gradients_of_the_network_are_those_of_one_process_with_both_batches(name: str, out: Path) -> None:
    two, one = seen(out, name)["gradients"], seen(out, "unet", world=1)["gradients"]
    assert two.keys() == one.keys()
    for key, gradient in one.items():
        assert torch.allclose(two[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7), key


@pytest.mark.parametrize("name", ["unet", "unet_fsdp"])
def test_the_result_is_an_ordinary_network_the_same_on_all_processes(name: str, out: Path) -> None:
    from viewfold.weights.network import load_unet

    first, second = seen(out, name), seen(out, name, rank=1)
    assert all(torch.equal(first["result"][key], second["result"][key]) for key in first["result"])
    saved = load_unet(out / f"{name.replace('_', '-')}-2" / "saved")
    again = saved(torch.ones(1, 2, 4, 4, 4), 500, torch.ones(1, 3, 32), torch.ones(1, 2, 16))
    assert torch.allclose(again, first["drawn"], atol=1e-6)


@pytest.mark.parametrize("name", ["resumed", "fsdp"])
def test_a_run_of_two_processes_is_resumed_exactly(name: str, out: Path) -> None:
    whole, again = seen(out, "ddp" if name == "resumed" else "fsdp_whole"), seen(out, name)
    assert all(torch.equal(again["result"][key], value) for key, value in whole["result"].items())


def test_each_process_writes_its_part_of_a_sharded_checkpoint_and_one_can_read_both(out: Path) -> None:
    assert [name[:11] for name in seen(out, "fsdp")["files"]] == ["record.json", "shard-00001", "shard-00002"]
    alone, sharded = seen(out, "resharded", world=1), seen(out, "fsdp")
    assert len(alone["steps"]) == 2 and alone["report"]["parts"] == 2
    gap = (alone["steps"][0]["leave.weight"] - sharded["steps"][-1]["leave.weight"]).abs().max()
    assert 0 < gap < 0.05, "a step away from where the two left off"


def test_the_processes_end_together_when_the_time_of_one_is_over(out: Path) -> None:
    assert len(seen(out, "uneven")["steps"]) == len(seen(out, "uneven", rank=1)["steps"]) < 1000
    (newest,) = sorted((out / "uneven").glob("checkpoint-*"))[-1:]
    assert int(newest.name[-8:]) == len(seen(out, "uneven")["steps"])


def test_sharded_in_bfloat16_it_still_learns(out: Path) -> None:
    assert all(bool(value.isfinite().all()) for value in seen(out, "fsdp_bf16")["result"].values())
    exact, half = seen(out, "adamw")["result"], seen(out, "fsdp_bf16")["result"]
    assert torch.allclose(exact["leave.weight"], half["leave.weight"], atol=0.02)


def test_a_killed_process_ends_the_other_with_a_clear_line_and_a_checkpoint(tmp_path: Path) -> None:
    first, second = start("killed", tmp_path, world=2)
    assert second.returncode == -9 and first.returncode == 5
    lines = [line for line in first.stderr.splitlines() if line.startswith("viewfold:")]
    assert len(lines) == 1 and "another one has ended" in lines[0] and "Traceback" not in first.stderr
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-00000004"]


def test_looking_at_the_averages_of_a_sharded_network_changes_nothing(out: Path) -> None:
    checked, plain = seen(out, "fsdp_checked"), seen(out, "fsdp_whole")
    assert checked["looks"] == 3
    assert all(torch.equal(checked["result"][key], value) for key, value in plain["result"].items())
    assert torch.allclose(checked["last_look"], checked["final"], atol=1e-6), "what was looked at is the result"


def test_processes_that_see_different_folders_end_with_a_line_each(tmp_path: Path) -> None:
    first, second = start("apart", tmp_path, world=2)
    lines = [line for ended in (first, second) for line in ended.stderr.splitlines() if line.startswith("viewfold:")]
    assert first.returncode == 5 and second.returncode != 0, [first.stderr[-500:], second.stderr[-500:]]
    assert "another one could not" in lines[0] and "one folder that all processes share" in lines[1]


def test_a_subject_is_learned_by_two_processes_as_by_one(out: Path) -> None:
    one, two, other = seen(out, "subject", world=1), seen(out, "subject"), seen(out, "subject", rank=1)
    for name, weight in one["result"].items():
        assert torch.equal(two["result"][name], other["result"][name])
        assert torch.allclose(two["result"][name], weight, atol=1e-5) and bool((weight != 0).any())
