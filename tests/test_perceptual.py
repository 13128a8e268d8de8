"""LPIPS: torchmetrics' own class, given the same AlexNet, finds the same; other weights are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from viewfold.errors import InputError, WeightsError
from viewfold.evaluation import perceptual
from viewfold.evaluation.perceptual import PerceptualDistance


def alexnet() -> nn.Sequential:
    """torchvision's `alexnet().features`, with random weights."""
    torch.manual_seed(0)
    relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, stride=2)
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), relu(), pool(),
        nn.Conv2d(64, 192, 5, padding=2), relu(), pool(),
        nn.Conv2d(192, 384, 3, padding=1), relu(),
        nn.Conv2d(384, 256, 3, padding=1), relu(),
        nn.Conv2d(256, 256, 3, padding=1), relu(), pool(),
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in alexnet().state_dict().items()}, path)
    monkeypatch.setattr(perceptual, "ALEXNET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    return path


def test_it_is_torchmetrics_own_with_the_same_network(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda net, pretrained: alexnet())
    theirs, ours = lpips._LPIPS(net="alex"), PerceptualDistance(file)
    generator = torch.Generator().manual_seed(1)
    for size in (64, 33):
        first, second = (torch.rand(3, 3, size, size, generator=generator) for _ in range(2))
        wanted = theirs(first, second, normalize=True).flatten()
        assert torch.allclose(ours.measure(first, second), wanted, rtol=1e-5, atol=1e-7) and float(wanted.min()) > 0
        assert float(ours.measure(first, first).max()) == 0.0
    with pytest.raises(InputError, match="31 pixels"):
        ours.measure(first[..., :30], second[..., :30])
    with pytest.raises(InputError, match="31 pixels"):
        ours.measure(first[:, :, :30], second[:, :, :30])
    assert float(ours.measure(first[..., :31, :33], second[..., :31, :33]).min()) > 0


def test_of_each_pair_it_is_what_it_is_alone_either_way_round(file: Path) -> None:
    pytest.importorskip("torchmetrics")
    ours, generator = PerceptualDistance(file), torch.Generator().manual_seed(1)
    first, second = (torch.rand(3, 3, 40, 64, generator=generator) for _ in range(2))
    found = ours.measure(first, second)
    assert found.shape == (3,) and not found.requires_grad and len({round(x, 4) for x in found.tolist()}) == 3
    assert torch.allclose(
        found, torch.cat([ours.measure(a[None], b[None]) for a, b in zip(first, second, strict=True)])
    )
    assert torch.allclose(found, ours.measure(second, first))


def test_a_layer_that_sees_nothing_is_no_nan(file: Path) -> None:
    """Black is not zero to the network, but a layer may still be silent everywhere."""
    pytest.importorskip("torchmetrics")
    ours = PerceptualDistance(file)
    for convolution in ours.convolutions:
        convolution.weight.zero_()
        convolution.bias.fill_(-1.0)
    assert ours.measure(torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40)).tolist() == [0.0]


def test_a_file_that_is_missing_or_another_is_refused(file: Path) -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(WeightsError, match="Nothing is downloaded"):
        PerceptualDistance(file.with_name("nowhere.pth"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="hash is another"):
        PerceptualDistance(file)


def test_a_file_of_the_right_name_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight letters of a hash can be forged."""
    pytest.importorskip("torchmetrics")

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": Runs()}, path)
    monkeypatch.setattr(perceptual, "ALEXNET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    with pytest.raises(WeightsError, match="tensors alone"):
        PerceptualDistance(path)
    assert not (tmp_path / "ran").exists()
