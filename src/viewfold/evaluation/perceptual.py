"""LPIPS: how different two pictures of the same thing look, by AlexNet's features.

    d(x, y) = sum over layers mean over cells w . (x^ - y^)^2       Zhang et al., CVPR 2018, equation 1

with x^ the features of a layer, of unit length in each cell, and w the weights that people's choices were fitted with
(version 0.1), which torchmetrics brings.  torchmetrics' own class builds AlexNet with torchvision, which downloads it;
here the user names torchvision's file, and the network's five convolutions are written out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold import limits
from viewfold.device import find_device
from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.store import read_regular

ALEXNET_SHA256 = "7be5be79"
"""How the hash of torchvision's alexnet-owt-7be5be79.pth begins: LPIPS of other weights is none."""

LAYERS = (("0", 3, 64, 11, 4, 2), ("3", 64, 192, 5, 1, 2), ("6", 192, 384, 3, 1, 1), ("8", 384, 256, 3, 1, 1),
          ("10", 256, 256, 3, 1, 1))  # fmt: skip
"""torchvision's number, channels in and out, kernel, stride, padding; the second and the third follow a pooling."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pictures in [-1, 1], as released."""

SMALLEST = 31
"""Pixels a side, below which nothing is left to pool."""


class PerceptualDistance:
    """LPIPS with AlexNet, version 0.1."""

    name = "alexnet"

    def __init__(self, file: str | Path, *, device: torch.device | str | None = "cpu") -> None:
        """Open the network.

        Args:
            file: torchvision's alexnet-owt-7be5be79.pth (244 MB), which is never downloaded.
            device: where it computes; None takes the best one.

        Raises:
            MissingExtraError: torchmetrics, which brings the weights of the layers, is not installed.
            WeightsError: the file is missing or another.
        """
        try:
            from torchmetrics.functional.image import lpips  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("LPIPS needs torchmetrics: pip install 'viewfold[eval]'") from error
        self.device, self.convolutions = find_device(device), []
        weights = _alexnet(Path(file))
        fitted = torch.load(
            Path(lpips.__file__).parent / "lpips_models" / "alex.pth", map_location="cpu", weights_only=True
        )
        for number, before, after, kernel, stride, padding in LAYERS:
            convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=padding).requires_grad_(False)
            convolution.load_state_dict({part: weights[f"features.{number}.{part}"] for part in ("weight", "bias")})
            self.convolutions.append(convolution.to(self.device))
        self.weights = [fitted[f"lin{i}.model.1.weight"].to(self.device) for i in range(len(LAYERS))]

    @torch.no_grad()
    def measure(self, first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        """Return the distance of each pair, 0 (equal) to about 1.

        Args:
            first, second: sRGB in [0, 1].

        Raises:
            InputError: pictures of less than 31 pixels a side.
        """
        if min(first.shape[-2:]) < SMALLEST:
            raise InputError(f"`first` must have {SMALLEST} pixels a side or more for LPIPS; got {first.shape[-1]}.")
        distance = torch.zeros(len(first), device=self.device)
        for weight, x, y in zip(self.weights, self._features(first), self._features(second), strict=True):
            difference = (_unit(x) - _unit(y)).square()
            distance += nn.functional.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return distance.cpu()

    def _features(self, rgb: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(numbers, device=self.device)[:, None, None] for numbers in (SHIFT, SCALE))
        x, found = (2 * rgb.to(self.device) - 1 - shift) / scale, []
        for index, convolution in enumerate(self.convolutions):
            x = nn.functional.max_pool2d(x, 3, stride=2) if index in (1, 2) else x
            x = torch.relu(convolution(x))
            found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()


def _alexnet(file: Path) -> dict[str, Tensor]:
    import io
    import pickle

    get = "Nothing is downloaded: it is torchvision's AlexNet_Weights.IMAGENET1K_V1."
    try:
        content = read_regular(file, max_bytes=limits.ALEXNET_BYTES)
    except OSError as error:
        raise WeightsError(f"`{file}` cannot be read: {(error.strerror or str(error)).lower()}. {get}") from error
    if not hashlib.sha256(content).hexdigest().startswith(ALEXNET_SHA256):
        raise WeightsError(f"`{file}` must be torchvision's alexnet-owt-7be5be79.pth; its hash is another. {get}")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # eight letters of a hash can be forged
        raise WeightsError(f"`{file}` must hold tensors alone; it holds something to be run. {get}") from error
