"""The conditioning of a network on prompts, opaque to all but that network: rows to keep, choose, repeat and move.

A network's reader of prompts makes it (`backbone.PromptReader`), the network takes it apart.  Pipeline, training and
distillation carry it between the two, a row a prompt, and never ask what is inside: token states for `MultiViewUNet`;
pooled text, sizes or picture tokens beside them for other networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from viewfold.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """Named tensors, each with a leading axis of `b` prompts."""

    parts: Mapping[str, Tensor]
    """Known by name to the network and its reader of prompts alone."""

    def __post_init__(self) -> None:
        lengths = {name: part.shape[0] if part.ndim else None for name, part in self.parts.items()}
        if not lengths or None in lengths.values() or len(set(lengths.values())) > 1:
            raise InputError(f"`parts` must be tensors with one row a prompt each; got rows {lengths}.")

    def part(self, name: str) -> Tensor:
        """Return a tensor, for the network that knows its name.

        Raises:
            InputError: it is not there, for the condition is another network's.
        """
        if name not in self.parts:
            raise InputError(
                f"the condition must hold '{name}', which this network reads; got {', '.join(self.parts)}. "
                "Take it from this model (`model.condition`)."
            )
        return self.parts[name]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Condition:
        """Return some of the prompts: a slice is a view, all else a copy."""
        chosen = [rows] if isinstance(rows, int) else rows
        return self._each(lambda part: part[chosen])

    def __iter__(self) -> Iterator[Condition]:
        return (self[row] for row in range(len(self)))

    @classmethod
    def cat(cls, conditions: Sequence[Condition]) -> Condition:
        """Join the rows of several conditions of one network, in order."""
        if len({frozenset(each.parts) for each in conditions}) != 1:
            held = sorted({", ".join(sorted(each.parts)) for each in conditions})
            raise InputError(f"`conditions` must be some of one network; got parts {held}.")
        return cls({name: torch.cat([each.parts[name] for each in conditions]) for name in conditions[0].parts})

    def repeat_interleave(self, n: int) -> Condition:
        """Repeat each row `n` times, in place: a prompt for each of the `n` views of its object."""
        return self._each(lambda part: part.repeat_interleave(n, dim=0))

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return next(iter(self.parts.values())).device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Condition:
        """Return it on a device, and in a type where numbers have a fraction; None leaves them as they are."""
        return self._each(lambda part: part.to(device=device, dtype=dtype if part.is_floating_point() else None))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition({name: change(part) for name, part in self.parts.items()})

    def __repr__(self) -> str:
        return f"Condition({', '.join(f'{name} {tuple(part.shape)}' for name, part in self.parts.items())})"
