"""CLIP's tokenizer, the one part that released checkpoints leave out; its vocabulary comes with the package.

Beside `text`, which reads prompts with it.  The 49,408 tokens are 256 bytes, the same bytes at the end of a word, one
token for each of 48,894 merges, and two marks.  Source: OpenAI's CLIP (arXiv 2103.00020), `simple_tokenizer.py`.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
START_ID, END_ID, VOCABULARY_SIZE = 49406, 49407, 49408

LENGTH = 77
"""Tokens of every prompt, START, END and padding included."""

ZERO = "!"
"""The token 0.  OpenCLIP fills up with zeros, CLIP of SD 1.5 with END."""

_MERGES = Path(__file__).parents[1] / "models" / "clip" / "merges.txt.gz"


def clip_tokenizer(*, pad: str = END) -> CLIPTokenizer:
    """Return CLIP's tokenizer, which fills up prompts with `pad`: `ZERO` for SD 2.1, `END` for SD 1.5."""
    from transformers import CLIPTokenizer

    merges = [tuple(line.split(" ")) for line in gzip.decompress(_MERGES.read_bytes()).decode().splitlines()]
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=LENGTH)  # type: ignore[arg-type]


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte, in the vocabulary's order: printable bytes first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    n_others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + n_others))]
