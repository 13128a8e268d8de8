"""The judge: which kind of toy the views show, in which main colour and which colour of the accent.

A small convolutional network over 64-pixel views on the mid-grey ground of the shipped model, trained on true renders
by recipes/judge.py.  It looks at each view alone and pools what it sees, so it takes any number of views from any
sides.  It chooses among the names that it knows: shown anything else, it still names one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold import limits
from viewfold.errors import AssetError, InputError, WeightsError
from viewfold.store import atomic_write, read_json, write_json

SIZE = 64
"""Pixels across and down of what the network sees; other sizes are resampled."""

SHIPPED = Path(__file__).parents[1] / "models" / "judge"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """What the judge can say, and its size."""

    kinds: tuple[str, ...]
    colors: tuple[str, ...]
    channels: tuple[int, ...] = (24, 48, 96, 144)
    """Of the features at 32, 16, 8 and 4 cells."""

    def __post_init__(self) -> None:
        for name, labels in (("kinds", self.kinds), ("colors", self.colors)):
            if not 1 <= len(labels) <= limits.JUDGE_LABELS or not all(isinstance(label, str) for label in labels):
                raise InputError(f"`{name}` must be 1 to {limits.JUDGE_LABELS} names; got {len(labels)}.")
        if len(self.channels) != 4 or not all(
            isinstance(c, int) and 0 < c <= limits.JUDGE_CHANNELS for c in self.channels
        ):
            raise InputError(f"`channels` must be four numbers from 1 to {limits.JUDGE_CHANNELS}; got {self.channels}.")


class Answers(NamedTuple):
    """Logits of the network."""

    pooled: tuple[Float[Tensor, "b k"], Float[Tensor, "b m"], Float[Tensor, "b m"]]
    """Kind, main colour, accent's colour of all views together."""

    each: Float[Tensor, "b v k"]
    """Kind of each view alone."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge sees in some views of one object."""

    kind: str
    main: str
    accent: str
    confidence: tuple[float, float, float]
    """Probability of each of the three, 0 to 1."""

    kind_of_each: tuple[str, ...]
    """By one view at a time."""

    main_of_each: tuple[str, ...]
    accent_of_each: tuple[str, ...]
    agreement: float
    """How alike the views look when seen alone, 0 to 1: Bhattacharyya coefficients over kind, main and accent."""


class _Block(nn.Module):
    """Halve the picture, then refine it: 3x3 convolutions with batch statistics, the second around a shortcut."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.refine = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.down(x)))
        return torch.relu(x + self.norm2(self.refine(x)))


class Judge(nn.Module):
    """Views of an object in, names out."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.stem = nn.Sequential(nn.Conv2d(12, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        widths = list(zip(config.channels[:-1], rest, strict=True))
        self.blocks = nn.Sequential(*(_Block(a, b, stride=2) for a, b in widths))
        self.heads = nn.ModuleList(
            nn.Linear(2 * config.channels[-1], len(names)) for names in (config.kinds, config.colors, config.colors)
        )

    def forward(self, pictures: Float[Tensor, "b v 3 h w"]) -> Answers:
        """Return logits for pictures in [0, 1] of `SIZE` pixels."""
        b, v = pictures.shape[:2]
        folded = nn.functional.pixel_unshuffle(pictures.flatten(0, 1) * 4 - 2, 2)
        cells = self.blocks(self.stem(folded.contiguous(memory_format=torch.channels_last))).flatten(2)
        seen = torch.cat([cells.amax(-1), cells.mean(-1)], dim=-1).unflatten(0, (b, v))
        half = seen.shape[-1] // 2
        pooled = torch.cat([seen[..., :half].amax(1), seen[..., half:].mean(1)], dim=-1)
        kind, main, accent = (head(pooled) for head in self.heads)
        return Answers((kind, main, accent), self.heads[0](seen))

    @torch.no_grad()
    def read(self, rgb: Float[Tensor, "v 3 h w"]) -> Verdict:
        """Say what views of one object on a mid-grey ground show.

        Args:
            rgb: sRGB in [0, 1], any size.
        """
        if rgb.shape[-2:] != (SIZE, SIZE):
            rgb = nn.functional.interpolate(rgb, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        rgb = rgb.float().clamp(0, 1)
        together = [logits[0].softmax(-1) for logits in self(rgb[None]).pooled]
        alone = [logits.softmax(-1) for logits in self(rgb[:, None]).pooled]
        names = (self.config.kinds, self.config.colors, self.config.colors)
        kind, main, accent = (labels[int(p.argmax())] for labels, p in zip(names, together, strict=True))
        each = [tuple(labels[i] for i in p.argmax(-1).tolist()) for labels, p in zip(names, alone, strict=True)]
        top = [float(p.max()) for p in together]
        agreement = sum(_overlap(p) for p in alone) / len(alone)
        return Verdict(
            kind=kind, main=main, accent=accent, confidence=(top[0], top[1], top[2]), agreement=agreement,
            kind_of_each=each[0], main_of_each=each[1], accent_of_each=each[2],
        )  # fmt: skip


def _overlap(probability: Float[Tensor, "v k"]) -> float:
    """Return the mean Bhattacharyya coefficient, sum_k sqrt(p_k q_k), of pairs of views; 1 for one view."""
    v = len(probability)
    roots = probability.sqrt()
    return 1.0 if v == 1 else float(((roots @ roots.T).sum() - v) / (v * (v - 1)))


def save_judge(judge: Judge, folder: str | Path, *, figures: Mapping[str, Any]) -> None:
    """Write half-precision weights and config.json, which also holds the measured figures."""
    from safetensors.torch import save_file

    tensors = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    with atomic_write(Path(folder) / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    with atomic_write(Path(folder) / "config.json") as temporary:
        write_json(temporary, {**asdict(judge.config), "figures": figures})


def load_judge(folder: str | Path | None = None) -> tuple[Judge, dict[str, Any]]:
    """Return the judge, ready to use, and what was measured of it when it was made.

    Args:
        folder: what `save_judge` wrote; None is the shipped one.

    Raises:
        WeightsError: a file is missing, damaged, too large or does not fit the other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = SHIPPED if folder is None else Path(folder)
    path = folder / "model.safetensors"
    try:
        document = read_json(folder / "config.json")
        lists = {name: tuple(document[name]) for name in ("kinds", "colors", "channels")}
        judge = Judge(JudgeConfig(**lists))
        if path.stat().st_size > limits.JUDGE_BYTES:
            raise WeightsError(f"`{path}` must be at most {limits.JUDGE_BYTES} bytes; got {path.stat().st_size}.")
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    except WeightsError:
        raise
    except (AssetError, OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"`{folder}` must hold a judge; {error}. Make one: recipes/judge.py.") from error
    return judge.eval().requires_grad_(False), dict(document.get("figures", {}))
