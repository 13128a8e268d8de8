"""What prompts say to the network: each is read once, and the text network may go when all are read.

Below the pipeline; it knows texts and their token states, nothing of cameras or latents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import PromptError
from viewfold.model.text import TextEncoder

MAX_PROMPTS = 256
"""Prompts whose token states are kept: at most 80 MB in float32 for SD 2.1 (77 tokens of 1024 features)."""


class Reader:
    """The token states of the last prompts, for as long as the text network and its weights stay what they are."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, Tensor] = OrderedDict()
        self._source: tuple[object, ...] = ()
        self._released: Any = None

    def encoder(self, tokenizer: Any, network: Any) -> TextEncoder:
        """Return the reader of prompts; without its network it still checks them."""
        return TextEncoder(tokenizer, self._released if network is None else network)

    def read(self, encoder: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Return the token states of each prompt; only those that are new are read.

        Raises:
            PromptError: a new prompt after `release`.
        """
        self._forget_others(encoder)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._states]
        if new and self._released is not None:
            raise PromptError(
                f"`prompt` must be one that was read before the text network was released; got {new[0][:60]!r}. "
                "Load the model again, or name every prompt in `release_text`."
            )
        states = {prompt: self._states[prompt] for prompt in dict.fromkeys(prompts) if prompt in self._states}
        if new:
            states |= dict(zip(new, encoder.encode(new).split(1), strict=True))
        for prompt, state in states.items():
            self._states[prompt] = state.clone()  # not a view that would hold its neighbours
            self._states.move_to_end(prompt)
        while len(self._states) > MAX_PROMPTS:
            self._states.popitem(last=False)
        return torch.cat([states[prompt] for prompt in prompts])

    def release(self, network: Any) -> None:
        """Do without the network from now on; its configuration is enough to check prompts."""
        self._released, self._source = SimpleNamespace(config=network.config), ()

    def _forget_others(self, encoder: TextEncoder) -> None:
        """Empty the memory when the tokenizer, the network or a weight is another than before."""
        if self._released is not None:
            return
        weights = encoder.network.parameters()
        source = (encoder.tokenizer, encoder.network, *((id(p), p._version, p.dtype) for p in weights))
        if source != self._source or getattr(encoder.network, "peft_config", None):
            self._states.clear()
        self._source = source
