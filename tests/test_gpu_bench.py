"""The benchmark for a GPU runs from end to end on a CPU; cut off, it leaves what it measured; it says what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
STAGES = ["tests", "generate", "step", "personalize", "distillation", "train"]
TINY = "--tiny", "--device", "cpu", "--repeats", "1"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the benchmark, by name."""
    from importlib import import_module

    for folder in ("benchmarks", "recipes"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    names = "gpu", "gpu_row", "gpu_stage", "gpu_train", "gpu_pack"
    yield SimpleNamespace(**{name: import_module(name) for name in names})


def start(script: str, *arguments: str, out: Path) -> subprocess.Popen[str]:
    """Start the benchmark in one thread; what it says comes back as one text."""
    command = ["bash", script] if script.endswith(".sh") else [sys.executable, script]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OUT": str(out)}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def numbers(value: Any) -> list[float]:
    return [float(v) for v in value.values() if isinstance(v, int | float) and not isinstance(v, bool)]


@pytest.mark.slow
def test_the_tiny_form_measures_everything(tmp_path: Path, bench: Any) -> None:
    process = start("benchmarks/gpu.sh", *TINY, out=tmp_path)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said[-4000:]
    rows = bench.gpu_row.read(tmp_path / "rows.jsonl")
    assert list(dict.fromkeys(row["stage"] for row in rows)) == STAGES
    for row in rows:
        assert tuple(row) == bench.gpu_row.FIELDS
        assert row["ok"] and not row["error"] and row["seconds"] > 0 and row["tiny"] and row["device"] == "cpu"
        assert row["torch"] == torch.__version__ and row["card"] != "unknown" and row["commit"]
        assert row["stage"] == "tests" or row["figures"] and all(0 <= n < float("inf") for n in numbers(row["figures"]))
        assert all(value > 0 for name, value in row["figures"].items() if name.endswith("_s"))
    cases = {stage: [row["case"] for row in rows if row["stage"] == stage] for stage in STAGES}
    assert cases["generate"] == ["float32", "bfloat16", "bfloat16, compiled"]
    assert cases["step"] == [f"{kind}, {n} x 4 views" for kind in ("AdamW", "checkpointed") for n in (1, 2)]
    trained = rows[-2]["figures"]
    assert trained["steps_made"] == 3 and trained["held_out_after"] < trained["held_out_before"]
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) <= 6 and all(path.stat().st_size < 15e6 for path in files)
    table = subprocess.check_output(
        [sys.executable, "benchmarks/gpu.py", "--rows", str(tmp_path / "rows.jsonl")], cwd=ROOT, text=True
    )
    assert table.strip() in said and len(table.splitlines()) == 2 + len(rows)


def processes_that_name(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [command] if text in command else []
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="there is no /proc to look for processes in")
def test_a_run_that_is_cut_off_leaves_its_rows_and_no_process(tmp_path: Path, bench: Any) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("of a run before\n")
    process = start("benchmarks/gpu.sh", *TINY, "--repeats", "1000000", "--stages", "train", "step", out=tmp_path)
    until = time.monotonic() + 150
    while len(bench.gpu_row.read(file)) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(1)  # into the stage that would never end
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said[-3000:]
    rows = bench.gpu_row.read(file)
    assert [row["stage"] for row in rows] == ["train"] * 3 and all(row["ok"] for row in rows)
    assert bench.gpu_row.table(rows) in said and "stopped" in said
    assert not processes_that_name(str(tmp_path))


def test_a_stage_that_does_not_end_is_ended_and_the_next_one_begins(tmp_path: Path, bench: Any) -> None:
    process = start("benchmarks/gpu.py", "--device", "cpu", "--stages", "step", "train", "--limit", "0.3", out=tmp_path)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 1, said
    rows = bench.gpu_row.read(tmp_path / "rows.jsonl")
    assert [(row["stage"], row["ok"]) for row in rows] == [("step", False), ("train", False)]
    assert all(row["error"] == "ended at its limit of 0 s" and row["seconds"] >= 0.3 for row in rows)


def make(bench: Any, out: Path, **changes: Any) -> Any:
    """A stage's own view of a run, on the CPU."""
    facts = bench.gpu_row.facts("cpu", tiny=True, data=out)
    options: dict[str, Any] = {
        "out": out, "work": out, "data": out / "data", "model": "toybox", "device": "cpu", "tiny": True,
        "minutes": None, "limit_s": 1000.0, "most": 16, "repeats": 1, "started": time.perf_counter(),
        "rows": bench.gpu_row.Rows(out / "rows.jsonl", facts),
    }  # fmt: skip
    return bench.gpu_stage.Bench(**{**options, **changes})


class FullAt:
    """A trainer whose memory holds batches below a size."""

    def __init__(self, size: int) -> None:
        self.size, self.network = size, SimpleNamespace(enable_gradient_checkpointing=lambda: None)
        self.run = SimpleNamespace(flops=2e9)

    def __call__(self, bench: Any) -> FullAt:
        return self

    def measure(self, objects: int) -> dict[str, Any]:
        if objects >= self.size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return {"step_s": 0.5}


@pytest.mark.slow
def test_the_batch_doubles_until_the_memory_is_full(
    tmp_path: Path, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.gpu_train, "_Trainer", FullAt(4))
    told = make(bench, tmp_path)
    bench.gpu_train.run_step(told)
    rows = bench.gpu_row.read(tmp_path / "rows.jsonl")
    assert [row["case"] for row in rows][:3] == [f"AdamW, {n} x 4 views" for n in (1, 2, 4)] and len(rows) == 6
    assert rows[2]["figures"] == {"out_of_memory": True, "largest": 2} and not told.rows.failed
    assert rows[1]["figures"]["tflop"] == 2 * rows[0]["figures"]["tflop"] == pytest.approx(0.004)
    assert rows[1]["figures"]["tflops"] == pytest.approx(0.008)


def test_a_card_too_small_for_one_object_is_an_error(
    tmp_path: Path, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.gpu_train, "_Trainer", FullAt(1))
    told = make(bench, tmp_path)
    bench.gpu_train.run_step(told)
    rows = bench.gpu_row.read(tmp_path / "rows.jsonl")
    assert [row["ok"] for row in rows] == [False, False] and told.rows.failed
    assert rows[0]["error"].startswith("OutOfMemoryError: CUDA out of memory")
    assert "FAILED: OutOfMemoryError" in bench.gpu_row.table(rows)


@pytest.mark.slow
def test_a_case_that_fails_stops_no_other(tmp_path: Path, bench: Any) -> None:
    told = make(bench, tmp_path, tiny=False, model=str(tmp_path / "nowhere"))
    bench.gpu_train.run_train(told)
    rows = bench.gpu_row.read(tmp_path / "rows.jsonl")
    assert [row["ok"] for row in rows] == [False] * 3 and told.rows.failed
    assert rows[0]["error"].startswith("WeightsError") and "viewfold train ended with" in rows[1]["error"]


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path, bench: Any) -> None:
    rows = bench.gpu_row.Rows(tmp_path / "rows.jsonl", bench.gpu_row.facts("cpu", tiny=False, data=tmp_path))
    rows.write("generate", "float32", seconds=1, figures={"guided_step_s": 0.123456})
    with rows.path.open("a") as file:
        file.write('{"stage": "gene')
    (row,) = bench.gpu_row.read(rows.path)
    assert json.loads(rows.path.read_text().splitlines()[0]) == row
    assert "| generate | float32 | guided_step_s 0.1235 |" in bench.gpu_row.table([row])


def test_what_is_missing_is_named_with_what_it_needs(
    tmp_path: Path, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.gpu_pack.missing(tmp_path) == []
    installed = bench.gpu_pack._installed
    there = {"diffusers": None, "zipp": None, "transformers": "4.57.1", "torch": None}
    monkeypatch.setattr(bench.gpu_pack, "_installed", lambda name: there.get(name, installed(name)))
    assert bench.gpu_pack.missing(tmp_path) == ["diffusers", "transformers"], "PyTorch is never replaced"
    (tmp_path / "needs.txt").write_text("diffusers\nzipp\nimportlib_metadata\n")
    assert bench.gpu_pack.missing(tmp_path) == ["diffusers", "transformers", "zipp"]


def test_the_wheels_are_all_that_viewfold_needs_and_no_pytorch(bench: Any) -> None:
    everything = bench.gpu_pack.closure(set(bench.gpu_pack.wanted()))
    assert {bench.gpu_pack.plain(name) for name in bench.gpu_pack.RARE} <= everything
    assert not {name for name in everything if name.startswith(("torch", "nvidia", "triton"))}
    assert everything <= bench.gpu_pack.pinned().keys()


@pytest.mark.slow
def test_packed_data_are_shards_without_pixels(tmp_path: Path, bench: Any) -> None:
    from viewfold.data.batches import LatentSet
    from viewfold.data.shards import open_shards

    bench.gpu_pack.pack_data(tmp_path, objects=2, pictures=0)
    for name in ("objects", "held-out"):
        samples = open_shards(tmp_path / name)
        assert len(samples) == 2 and all(set(sample.members) == {"json", "latents.npy"} for sample in samples)
        held = LatentSet(tmp_path / name, shape=(8, 8, 8), views=4)
        assert held.encoders != ["unknown"] and len(held.encoders) == 1
    assert (tmp_path / "commit").read_text().strip()
