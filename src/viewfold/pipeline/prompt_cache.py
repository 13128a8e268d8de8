"""A cache of prompt conditions: each prompt is encoded once, and the text network can be released afterwards.

Below the pipeline; it keeps a condition per prompt without looking inside, and knows nothing of cameras or latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from viewfold.errors import InputError, PromptError
from viewfold.model.backbone import PromptReader
from viewfold.model.condition import Condition
from viewfold.model.weights_hash import Stamp

MAX_PROMPTS = 256
"""Prompts whose conditions are kept: at most 80 MB in float32 for SD 2.1 (77 tokens of 1024 features)."""


class PromptCache:
    """The conditions of the last prompts, for as long as what reads them and its weights stay what they are.

    What is remembered is replaced whole and never changed, so that threads may read at once.
    """

    def __init__(self) -> None:
        self._memory: tuple[tuple[object, ...], dict[str, Condition]] = (), {}
        """What read the prompts, and what it made of each, the last used at the end."""
        self._released: Any = None

    def network(self, network: Any) -> Any:
        """Return the text network, or what is left of one that was released: enough to check prompts."""
        return self._released if network is None else network

    def read(self, reader: PromptReader, prompts: Sequence[str]) -> Condition:
        """Return a row for each prompt; only those that are new are read.

        Raises:
            PromptError: a new prompt after `release`.
        """
        source, known = self._recall(reader)
        wanted = list(dict.fromkeys(prompts))
        new = [prompt for prompt in wanted if prompt not in known]
        if new and self._released is not None:
            raise PromptError(
                f"`prompt` must be one that was read before the text network was released; got {new[0][:60]!r}. "
                "Load the model again, or name every prompt in `release_text`."
            )
        rows = known | dict(zip(new, reader.encode(new) if new or not wanted else (), strict=True))
        kept = {prompt: rows[prompt] for prompt in rows if prompt not in wanted} | {p: rows[p] for p in wanted}
        self._memory = source, dict(list(kept.items())[-MAX_PROMPTS:])
        device = rows[(new or wanted)[0]].device  # the model may have moved since it read the others
        return Condition.cat([rows[prompt].to(device) for prompt in prompts])

    def release(self, reader: PromptReader, prompts: Sequence[str]) -> None:
        """Read these prompts and do without the network from now on; its configuration is enough to check prompts.

        Raises:
            InputError: more prompts than are remembered.
        """
        if len(set(prompts)) > MAX_PROMPTS:
            raise InputError(f"`prompts` must be at most {MAX_PROMPTS}, which are kept; got {len(set(prompts))}.")
        self.read(reader, prompts)
        if self._released is None:
            self._released = SimpleNamespace(config=reader.network.config)
            self._memory = (), self._memory[1]  # the weights are held no longer

    def _recall(self, reader: PromptReader) -> tuple[tuple[object, ...], dict[str, Condition]]:
        """Return what reads now, and what it has read; nothing if the reader, a part of it or a weight is another."""
        source, rows = self._memory
        if self._released is not None:
            return source, rows
        now = reader, Stamp(reader.network.parameters())
        return now, {} if now != source or getattr(reader.network, "peft_config", None) else rows
