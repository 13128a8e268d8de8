"""What moves the weights, and their averages: Muon and AdamW as PyTorch's own, averages by hand."""

from __future__ import annotations

import pytest
import torch
from test_loop import line, squared_error
from torch import nn

from viewfold.training import optimizer as optimizer_module
from viewfold.training.average import Ema
from viewfold.training.optimizer import Optimizer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_takes_the_step_of_its_matrix_however_it_lies_in_memory(
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 3, 2, bias=False).to(memory_format=memory_format)
    plain = nn.Parameter(conv.weight.detach().flatten(1).clone())
    gradient = torch.randn(3, 5, 2, 2)
    conv.weight.grad, plain.grad = gradient.clone(), gradient.flatten(1)
    Optimizer(conv, "muon", beta2=0.99, weight_decay=0.0).step(0.1)
    torch.optim.Muon([plain], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    assert torch.allclose(conv.weight.flatten(1), plain, atol=2e-3)  # steps of 0.1, some computed in bfloat16


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_three_steps_are_pytorchs_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "has_native_bfloat16", lambda device: True)
    ours, theirs = line(), line()
    parts = [torch.optim.AdamW([theirs.bias] if name == "muon" else theirs.parameters(), betas=(0.9, 0.9))]
    if name == "muon":
        parts.append(torch.optim.Muon([theirs.weight], weight_decay=0.3, adjust_lr_fn="match_rms_adamw"))  # type: ignore[arg-type]
    optimizer = Optimizer(ours, name, beta2=0.9, weight_decay=0.3)
    for step in range(3):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        for network in (ours, theirs):
            network.zero_grad()
            squared_error(network)(x, None)["loss"].backward()
        optimizer.step(0.1 / (step + 1))
        for part in parts:
            part.param_groups[0] |= {"lr": 0.1 / (step + 1), "weight_decay": 0.3}
            part.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6) and torch.allclose(ours.bias, theirs.bias, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 7), (7, 24), (16, 16)])
def test_where_bfloat16_is_emulated_muon_computes_the_same_in_float32(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_module, "has_native_bfloat16", lambda device: False)
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    ours, theirs = nn.Linear(shape[1], shape[0], bias=False), nn.Parameter(start.clone())
    ours.weight.data.copy_(start)
    optimizer = Optimizer(ours, "muon", beta2=0.99, weight_decay=0.3)
    reference = torch.optim.Muon([theirs], weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for step, gradient in enumerate(gradients):
        ours.weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step(0.1 / (step + 1))
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        reference.step()
    moved, difference = (theirs - start).norm(), (ours.weight - theirs).norm()
    assert 1e-6 * moved < difference < 0.02 * moved, "apart by the rounding of bfloat16 and no more"


def test_biases_and_frozen_weights_are_none_of_muons_business() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].requires_grad_(False)
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.ones(1, 4)).sum().backward()
    optimizer = Optimizer(network, "muon", beta2=0.99, weight_decay=0.0)
    optimizer.step(0.1)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert moved == [True, True, False, False]
    assert set(optimizer.state()) == {
        "0.weight.momentum_buffer", "0.bias.step", "0.bias.exp_avg", "0.bias.exp_avg_sq"
    }  # fmt: skip


def test_the_average_of_a_moving_weight_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, 0.25)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        nn.init.constant_(network.weight, value)
        ema.update(network, step)
        decay = min(0.25, (1 + step) / (10 + step))  # 0.1, 0.182, 0.25, 0.25
        expected = decay * expected + (1 - decay) * value
    assert ema.weights["weight"].item() == pytest.approx(expected)
    assert network.weight.item() == 8.0


@pytest.mark.parametrize(("dtype", "least", "most"), [(torch.float32, 0.997, 1.0), (torch.bfloat16, 0.0, 0.3)])
def test_averages_reach_their_goal_in_float32_and_stand_still_in_bfloat16(
    dtype: torch.dtype, least: float, most: float
) -> None:
    network = nn.Linear(50, 50, bias=False)
    first = torch.randn(50, 50, generator=torch.Generator().manual_seed(0)) * 0.05
    network.weight.data = first.to(dtype)
    ema = Ema(network, 0.997)
    network.weight.data = (1.2 * first).to(dtype)
    for _ in range(2000):
        ema.update(network, 10_000)
    way = (ema.weights["weight"].float() - first).flatten() @ first.flatten() / (0.2 * first.square().sum())
    assert least < way.item() < most


def test_the_network_wears_its_averages_for_a_block_only() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).train()
    ema = Ema(network, 0.5)
    nn.init.constant_(network[0].weight, 3.0)
    before = network[0].weight.data_ptr()
    with ema.applied_to(network):
        assert network[0].weight.item() != 3.0 and not network.training
    assert network[0].weight.item() == 3.0 and network.training and network[0].weight.data_ptr() == before
    network.eval()
    with ema.applied_to(network):
        pass
    assert not network.training, "as it was before"
    network[1].num_batches_tracked += 5
    ema.update(network, 0)
    assert ema.weights["1.num_batches_tracked"].item() == 5
