"""The second device refuses what CUDA refuses, computes what the CPU computes, and so can be trusted to find faults."""

from __future__ import annotations

import io

import pytest
import torch
from second_device import move, on, second_device
from torch import nn

OPTIMIZERS = {
    "adam": lambda network: torch.optim.Adam(network.parameters()),
    "adamw": lambda network: torch.optim.AdamW(network.parameters(), foreach=False),
    "adamw, all at once": lambda network: torch.optim.AdamW(network.parameters(), foreach=True),
    "muon": lambda network: torch.optim.Muon([p for p in network.parameters() if p.ndim == 2]),
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    "mix",
    [
        lambda here: torch.ones(3) + here,
        lambda here: here + torch.ones(3),
        lambda here: torch.ones(3) + here.sum(),
        lambda here: torch.ones(3).add_(here),
        lambda here: here.add_(torch.ones(3)),
        lambda here: torch.cat([here, torch.ones(3)]),
        lambda here: torch.ones(3)[here.long()],
        lambda here: nn.Linear(3, 2)(here),
        lambda here: torch.randn(3, generator=torch.Generator(), device=here.device),
        lambda here: here.normal_(generator=torch.Generator()),
        lambda here: torch.tensor([1.0, 2.0, 3.0], device=here.device) * torch.ones(3),
        lambda here: torch.arange(3, device=here.device) * torch.ones(3),
    ],
    ids=range(12),
)
def test_tensors_or_generators_of_two_devices_do_not_meet(mix) -> None:
    with second_device() as device, pytest.raises(RuntimeError, match=r"expected (all tensors on one|a 'lazy') device"):
        mix(torch.zeros(3, device=device))


def test_what_cuda_allows_is_allowed() -> None:
    with second_device() as device:
        here = torch.zeros(3, device=device)
        assert on(device, here + torch.tensor(1.0)) and on(device, here[torch.tensor([0, 2])])
        assert here[[0, 2]].tolist() == [0, 0] and here[None, [1]].shape == (1, 1)
        here[torch.tensor([0])] = 5.0
        host = torch.ones(3)
        host.copy_(here)
        assert host.tolist() == [5, 0, 0] == here.tolist() and on(torch.device("cpu"), here.cpu())
        assert on(device, torch.as_tensor([1.0], device=device)) and on(device, torch.zeros_like(here, dtype=torch.int))
        assert torch.ones(3).device.type == "cpu", "what asks for no device stays on the host"


def test_inside_tensors_say_the_device_and_outside_there_is_none() -> None:
    with second_device() as device:
        assert torch.zeros(2, device=device).device == device != torch.device("cpu")
    with pytest.raises(NotImplementedError):
        torch.zeros(2, device=device)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", [move, lambda module, device: module.to(device)], ids=["move", "to"])
def test_training_gives_the_cpus_weights(name, way) -> None:
    def train(device: torch.device, there: nn.Module) -> list[torch.Tensor]:
        optimizer = OPTIMIZERS[name](there)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            loss = there(torch.randn(5, 3, generator=generator).to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(there.parameters(), 0.5)
            optimizer.step()
        assert on(device, there) and on(device, optimizer)
        return [p.detach().cpu() for p in there.parameters()]

    expected = train(torch.device("cpu"), network())
    with second_device() as device:
        found = train(device, way(network(), device))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # backward takes other kernels here and there


def test_moving_keeps_what_is_frozen_and_what_is_shared() -> None:
    module = network()
    module[0].bias.requires_grad_(False)
    module.again = module[3]
    with second_device() as device:
        move(module, device)
        assert [p.requires_grad for p in module.parameters()] == [True, False, True, True, True, True]
        assert module.again.weight is module[3].weight


def test_a_checkpoint_written_there_is_read_on_the_host() -> None:
    with second_device() as device:
        module, file = move(network(), device), io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
        assert on(device, module)
    network().load_state_dict(state)


def test_calls_that_make_the_host_wait_are_named() -> None:
    waits: list[str] = []
    with second_device(waits) as device:
        here = torch.ones(3).to(device)
        (here * 2).sum().square_()
        assert waits == []
        float(here.sum()), here.cpu(), here.nonzero()
    assert [name.split(".")[1] for name in waits] == ["_local_scalar_dense", "_to_copy", "nonzero"]


def test_autocast_is_allowed_there() -> None:
    with second_device() as device, torch.autocast(device.type, dtype=torch.bfloat16):
        assert network().to(device)(torch.ones(1, 3).to(device)).dtype == torch.float32
