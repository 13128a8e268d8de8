"""The loop: it finds minima, resumes exactly, refuses what it would have to guess, and stops when asked."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from viewfold.errors import AssetError, FitError, InputError, OutputError, WeightsError
from viewfold.training import loop
from viewfold.training.average import Ema
from viewfold.training.loop import fit
from viewfold.training.optimizer import Optimizer
from viewfold.training.run import Checked, step_generator
from viewfold.training.settings import LoopSettings, learning_rate

FAST = LoopSettings(steps=60, lr=0.05, warmup=5, precision="fp32", weight_decay=0.0, ema=0.9)


def line() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 1)


def draw(step: int, generator: torch.Generator) -> Tensor:
    return torch.randn(16, 3, generator=generator)


def squared_error(network: nn.Module):  # noqa: ANN201
    return lambda x, generator: {"loss": (network(x) - x.sum(-1, keepdim=True)).square().mean()}


def run(out: Path, settings: LoopSettings = FAST, network: nn.Module | None = None, **options: Any) -> nn.Module:
    network = network or line()
    options = {"draw": draw, "loss": squared_error(network), **options}
    return fit(network, options.pop("draw"), options.pop("loss"), out, settings=settings, **options).network


def stored(out: Path, step: int) -> dict[str, Tensor]:
    (file,) = (out / f"checkpoint-{step:08d}").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loop_finds_the_minimum(optimizer: Any, tmp_path: Path) -> None:
    settings = replace(FAST, optimizer=optimizer, steps=200, cooldown=150, lr=0.1)
    network = run(tmp_path, settings)
    assert torch.allclose(network.weight, torch.ones(1, 3), atol=0.1)  # type: ignore[arg-type]
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 200 and lines[-1]["loss"] < 0.01 < lines[0]["loss"]
    assert lines[100]["lr"] == learning_rate(100, settings)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_stopped_run_continues_exactly(optimizer: str, tmp_path: Path) -> None:
    settings = replace(FAST, optimizer=optimizer)
    whole = run(tmp_path / "whole", settings)
    run(tmp_path / "parts", replace(settings, steps=25))
    resumed = run(tmp_path / "parts", settings)
    assert torch.equal(whole.weight, resumed.weight)  # type: ignore[arg-type]
    one, two = stored(tmp_path / "whole", 60), stored(tmp_path / "parts", 60)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_result_is_the_average_and_not_the_last_weights(tmp_path: Path) -> None:
    network = run(tmp_path)
    tensors = stored(tmp_path, 60)
    assert torch.equal(network.weight, tensors["ema.weight"])  # type: ignore[arg-type]
    assert not torch.equal(tensors["ema.weight"], tensors["network.weight"])


def test_accumulated_batches_make_one_step_of_their_mean_gradient(tmp_path: Path) -> None:
    network, manual = line(), line()
    settings = replace(FAST, steps=1, accumulate=3, optimizer="adamw", ema=0.0, clip=1e-3, warmup=0)
    sgd: list[Tensor] = []
    network.weight.register_post_accumulate_grad_hook(lambda p: sgd.append(p.grad.clone()))
    run(tmp_path, settings, network)
    losses = [squared_error(manual)(draw(0, step_generator(0, 0, part)), None)["loss"] for part in range(3)]
    torch.stack(losses).mean().backward()
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    assert torch.allclose(sgd[-1], manual.weight.grad)  # type: ignore[arg-type]
    assert logged["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    norm = torch.cat([manual.weight.grad.flatten(), manual.bias.grad]).norm().item()  # type: ignore[union-attr]
    assert logged["norm"] == pytest.approx(norm, rel=1e-5)


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    network = line()
    seen: list[float] = []

    def loss(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if network.weight.grad is not None:
            seen.append(1.0)
        return {"loss": 1e4 * network(x).mean()}

    original = Optimizer.step

    def step(self: Optimizer, lr: float) -> None:
        seen.append(torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item())  # type: ignore[union-attr]
        original(self, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", step)
        run(tmp_path, replace(FAST, steps=3, clip=0.5), network, loss=loss)
    assert seen == pytest.approx([0.5] * 3, rel=1e-4), "clipped, and each step begins without gradients"


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_precision_is_what_layers_compute_in_and_weights_stay_float32(
    precision: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    network, kinds = line(), set()

    def loss(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        out = network(x)
        kinds.add(out.dtype)
        return {"loss": out.square().mean()}

    run(tmp_path, replace(FAST, steps=2, precision=precision), network, loss=loss)
    assert kinds == {dtype} and network.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_device_computes_in_it_and_the_record_says_which(
    native: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "has_native_bfloat16", lambda device: native)
    run(tmp_path, replace(FAST, steps=2, precision="auto"), line())
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["precision"] == precision


def test_an_update_that_was_cut_in_half_is_not_saved_as_the_step_before(tmp_path: Path) -> None:
    original = Ema.update

    def update(self: Ema, network: nn.Module, step: int) -> None:
        if step == 5:
            raise MemoryError("in the midst of it")
        original(self, network, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", update)
        with pytest.raises(MemoryError):
            run(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("spoil", ["half", "frozen", "nan", "frozen nan", "buffer nan"])
def test_weights_that_cannot_be_trained_are_refused(spoil: str, tmp_path: Path) -> None:
    network = line()
    match spoil:
        case "half":
            network.bfloat16()
        case "frozen":
            network.requires_grad_(False)
        case "nan":
            nn.init.constant_(network.bias, math.nan)
        case "frozen nan":
            nn.init.constant_(network.bias.requires_grad_(False), math.nan)
        case "buffer nan":
            network.register_buffer("scale", torch.tensor(math.nan))
    words = {
        "frozen nan": "bias holds NaN",
        "buffer nan": "scale holds NaN",
        "half": "float32 weights.*bfloat16",
        "frozen": "all are frozen",
        "nan": "bias holds NaN",
    }
    with pytest.raises((InputError, WeightsError), match=words[spoil]):
        run(tmp_path, network=network)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("failing", [0, 3])
def test_what_a_step_cannot_use_keeps_the_steps_before_it(failing: int, tmp_path: Path) -> None:
    def damaged(step: int, generator: torch.Generator) -> Tensor:
        if step == failing:
            raise AssetError("a shard is damaged.")
        return draw(step, generator)

    with pytest.raises(AssetError):
        run(tmp_path, draw=damaged)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000003"] * (failing > 0)


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    def nested(step: int, generator: torch.Generator) -> Tensor:
        if step == 1:
            with pytest.raises(OutputError, match="one run at a time"):
                run(tmp_path)
        return draw(step, generator)

    run(tmp_path, replace(FAST, steps=3), draw=nested)
    run(tmp_path, replace(FAST, steps=4))  # and the folder is free again


def test_a_loss_that_stays_nan_ends_the_run(tmp_path: Path) -> None:
    network = line()
    loss = lambda x, generator: {"loss": network(x * math.nan).sum()}  # noqa: E731
    with pytest.raises(FitError, match="not finite for 20 steps up to 19"):
        run(tmp_path, network=network, loss=loss)
    assert bool(torch.isfinite(network.weight).all())


def test_steps_without_a_finite_gradient_are_skipped_counted_and_forgiven(tmp_path: Path) -> None:
    def spoilt(step: int, generator: torch.Generator) -> Tensor:
        return draw(step, generator) * (math.nan if step % 20 else 1.0)

    run(tmp_path, draw=spoilt)
    assert json.loads((tmp_path / "run.json").read_text())["steps_skipped"] == 57


def test_a_short_run_without_one_finite_gradient_is_an_error_and_its_log_is_json(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="none of the 3 steps had a finite gradient"):
        run(tmp_path, replace(FAST, steps=3), draw=lambda step, generator: draw(step, generator) * math.nan)
    (line, *_) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None


def test_nan_in_the_averages_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    def poison(step: int, generator: torch.Generator) -> Tensor:
        return draw(step, generator)

    original = Ema.update

    def update(self: Ema, network: nn.Module, step: int) -> None:
        original(self, network, step)
        if step == 5:
            self.weights["bias"].fill_(math.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", update)
        with pytest.raises(FitError, match=r"ema\.bias holds NaN"):
            run(tmp_path, draw=poison)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_checkpoints_are_written_every_so_many_minutes_and_the_newest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seen: dict[int, list[str]] = {}

    def slow(step: int, generator: torch.Generator) -> Tensor:
        nonlocal now
        now += 60.0
        seen[step] = sorted(path.name[-2:] for path in tmp_path.glob("checkpoint-*"))
        return draw(step, generator)

    run(tmp_path, replace(FAST, steps=12, checkpoint_minutes=2.5, keep=2, read_ahead=0), draw=slow)
    assert seen[2] == [] and seen[3] == ["03"] and seen[6] == ["03", "06"] and seen[10] == ["06", "09"]


def test_the_run_ends_after_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, left = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(step: int, generator: torch.Generator) -> Tensor:
        nonlocal now
        now += 30.0
        return draw(step, generator)

    def progress(status: Any) -> None:
        left.append((status.left_s, status.steps, status.samples_per_s, status.waiting))

    run(tmp_path, replace(FAST, minutes=2.2, read_ahead=0), draw=slow, progress=progress, samples=4)
    assert (tmp_path / "checkpoint-00000005").is_dir() and len(left) == 5
    assert left[1][:2] == pytest.approx((72.0, 4)) and left[1][2] == pytest.approx(4 / 30) and left[1][3] == 1.0


def test_the_averages_are_checked_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    network, looked = line(), []

    def check(done: int) -> Checked:
        looked.append((done, network.training, network.weight.detach().clone()))
        return Checked(scalars={"held_out": float(done)}, pictures={"sheet": torch.rand(3, 4, 6)})

    network.train()
    trained = run(tmp_path, replace(FAST, steps=25, check_steps=10), network, check=check)
    assert [(done, training) for done, training, _ in looked] == [(10, False), (20, False), (25, False)]
    assert torch.equal(looked[-1][2], trained.weight)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"{done:08d}-sheet.png" for done in (10, 20, 25)
    ]
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["held_out"] for entry in lines if "held_out" in entry] == [10, 20, 25]
    assert network.training, "it goes on as it was"


def test_a_run_says_what_it_cost(tmp_path: Path) -> None:
    run(tmp_path, samples=16)
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["flops_a_step"] == 3 * 2 * 16 * 3 - 2 * 16 * 3  # forward, and the weights' gradient: no input's
    run(tmp_path / "twice", replace(FAST, steps=2, accumulate=2), samples=16)
    assert json.loads((tmp_path / "twice" / "run.json").read_text())["flops_a_step"] == 2 * report["flops_a_step"]
    assert report["steps_made"] == 60 and 0 <= report["waiting_for_data"] <= 1 and report["samples_per_s"] > 0
    assert report["utilisation"] == pytest.approx(report["flops_per_s"] / report["matmul_flops_per_s"], abs=1e-3)


def test_writers_take_every_step_and_are_closed(tmp_path: Path) -> None:
    from viewfold.training import loop

    closed: list[str] = []

    class Closing:
        def scalars(self, step: int, values: Any) -> None:
            closed.append("scalars")

        def picture(self, step: int, name: str, rgb: Tensor) -> None:
            raise AssertionError

        def close(self) -> None:
            closed.append("close")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "open_writers", lambda names, out, config: [Closing()])
        run(tmp_path, replace(FAST, steps=3))
        assert closed == ["scalars"] * 3 + ["close"]


def test_an_earlier_versions_checkpoint_is_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint\.pt is an earlier one's"):
        run(tmp_path)


def test_every_process_and_step_draws_its_own_numbers() -> None:
    draws = {torch.rand(1, generator=step_generator(0, step, part)).item() for step in range(50) for part in range(4)}
    seeds = {torch.rand(1, generator=step_generator(seed, 0, 0)).item() for seed in range(50)}
    assert len(draws) == 200 and len(seeds) == 50
