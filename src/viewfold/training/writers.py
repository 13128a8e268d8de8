"""Where the figures and pictures of a run go: log.jsonl always, TensorBoard and Weights & Biases where asked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError, MissingExtraError
from viewfold.picture import to_pil
from viewfold.store import atomic_write

WriterName = Literal["tensorboard", "wandb"]


@runtime_checkable
class Writer(Protocol):
    """Records the figures and pictures of a run as it goes on."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step."""
        ...

    def picture(self, step: int, name: str, rgb: Float[Tensor, "3 h w"]) -> None:
        """Note a picture in [0, 1]."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class JsonLines:
    """log.jsonl, a line a step, and samples/STEP-NAME.png."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        with (self.out / "log.jsonl").open("a") as log:
            finite = {
                name: value if math.isfinite(value) else None for name, value in values.items()
            }  # JSON has no NaN
            log.write(json.dumps({"step": step, **finite}) + "\n")

    def picture(self, step: int, name: str, rgb: Float[Tensor, "3 h w"]) -> None:
        """Write a file."""
        with atomic_write(self.out / "samples" / f"{step:08d}-{name}.png") as temporary:
            to_pil(rgb).save(temporary)

    def close(self) -> None:
        """Nothing is held back."""


class TensorBoard:
    """Event files in OUT/tensorboard; look at them with `tensorboard --logdir OUT`."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "`log` must have its package; tensorboard is absent. pip install 'viewfold[tensorboard]'"
            ) from error
        self._writer: Any = SummaryWriter(str(out / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures under their names."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, rgb: Float[Tensor, "3 h w"]) -> None:
        """Note a picture under its name."""
        self._writer.add_image(name, rgb.clamp(0, 1), step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases; project, mode and key as its own environment variables say (WANDB_PROJECT, ...)."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError(
                "`log` must have its package; wandb is absent. pip install 'viewfold[wandb]'"
            ) from error
        self._wandb = wandb
        self._run: Any = wandb.init(dir=str(out), config=dict(config), name=out.name)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, rgb: Float[Tensor, "3 h w"]) -> None:
        """Note a picture of a step."""
        self._run.log({name: self._wandb.Image(to_pil(rgb))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_writers(names: Iterable[WriterName | str], out: Path, config: Mapping[str, Any]) -> list[Writer]:
    """Return log.jsonl's writer and those that were asked for.

    Raises:
        MissingExtraError: a package that one needs is absent.
        InputError: an unknown name.
    """
    out.mkdir(parents=True, exist_ok=True)
    writers: list[Writer] = [JsonLines(out)]
    for name in dict.fromkeys(names):
        match name:
            case "tensorboard":
                writers.append(TensorBoard(out))
            case "wandb":
                writers.append(WandB(out, config))
            case _:
                raise InputError(f"`log` must be tensorboard or wandb; got '{name}'.")
    return writers
