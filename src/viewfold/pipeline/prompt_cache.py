"""What prompts say to the network: each is read once, and the text network may go when all are read.

Below the pipeline; it knows texts and their token states, nothing of cameras or latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError, PromptError
from viewfold.model.text import TextEncoder
from viewfold.model.weights_hash import Stamp

MAX_PROMPTS = 256
"""Prompts whose token states are kept: at most 80 MB in float32 for SD 2.1 (77 tokens of 1024 features)."""


class PromptCache:
    """The token states of the last prompts, for as long as the text network and its weights stay what they are.

    What is remembered is replaced whole and never changed, so that threads may read at once.
    """

    def __init__(self) -> None:
        self._memory: tuple[tuple[object, ...], dict[str, Tensor]] = (), {}
        """What read the prompts, and their states, the last used at the end."""
        self._released: Any = None

    def encoder(self, tokenizer: Any, network: Any) -> TextEncoder:
        """Return the reader of prompts; without its network it still checks them."""
        return TextEncoder(tokenizer, self._released if network is None else network)

    def read(self, encoder: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Return the token states of each prompt; only those that are new are read.

        Raises:
            PromptError: a new prompt after `release`.
        """
        source, known = self._recall(encoder)
        wanted = list(dict.fromkeys(prompts))
        new = [prompt for prompt in wanted if prompt not in known]
        if new and self._released is not None:
            raise PromptError(
                f"`prompt` must be one that was read before the text network was released; got {new[0][:60]!r}. "
                "Load the model again, or name every prompt in `release_text`."
            )
        read = encoder.encode(new).split(1) if new or not wanted else ()
        states = known | {prompt: state.clone() for prompt, state in zip(new, read, strict=True)}  # no view of a batch
        kept = {prompt: states[prompt] for prompt in states if prompt not in wanted} | {p: states[p] for p in wanted}
        self._memory = source, dict(list(kept.items())[-MAX_PROMPTS:])
        device = states[(new or wanted)[0]].device  # the model may have moved since it read the others
        return torch.cat([states[prompt].to(device) for prompt in prompts])

    def release(self, encoder: TextEncoder, prompts: Sequence[str]) -> None:
        """Read these prompts and do without the network from now on; its configuration is enough to check prompts.

        Raises:
            InputError: more prompts than are remembered.
        """
        if len(set(prompts)) > MAX_PROMPTS:
            raise InputError(f"`prompts` must be at most {MAX_PROMPTS}, which are kept; got {len(set(prompts))}.")
        self.read(encoder, prompts)
        if self._released is None:
            self._released = SimpleNamespace(config=encoder.network.config)
            self._memory = (), self._memory[1]  # the weights are held no longer

    def _recall(self, encoder: TextEncoder) -> tuple[tuple[object, ...], dict[str, Tensor]]:
        """Return what reads now, and what it has read; nothing if the tokenizer, the network or a weight is another."""
        source, states = self._memory
        if self._released is not None:
            return source, states
        now = encoder.tokenizer, encoder.network, Stamp(encoder.network.parameters())
        return now, {} if now != source or getattr(encoder.network, "peft_config", None) else states
