"""Tokenizers from strangers, looked through before and after a library reads them.

Beside `folder`, which bounds the files, and above `tokenizer_program`, which reads what they do: one that multiplies a
prompt, or searches without end, does so in a library that no Python code can stop.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.model.text import TextEncoder
from viewfold.store import read_json
from viewfold.weights.tokenizer_program import check_ids, check_program

FILE, SETTINGS, WORDS = "tokenizer.json", "tokenizer_config.json", "vocab.json"

_SAMPLES = ["a", "\u2603 \u4e00 qzxj9"]


def check_tokenizer(folder: Path) -> None:
    """Look through the files of a tokenizer before they are read.

    Raises:
        WeightsError: they ask for what no tokenizer of prompts needs.
    """
    path = folder / FILE
    if path.is_file():
        check_program(read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES), path)
    path = folder / WORDS
    if path.is_file():
        check_ids(path, read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES).values())
    path = folder / SETTINGS
    if path.is_file():
        settings = read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES)
        _check_length(path, settings.get("model_max_length"))
        named = settings.get("added_tokens_decoder") or {}
        if not isinstance(named, dict):
            raise WeightsError(f"`{path}` must give `added_tokens_decoder` as an object.")
        check_ids(path, (int(key) if str(key).lstrip("-").isdecimal() else key for key in named))


def check_read(tokenizer: Any, folder: Path) -> None:
    """Look through what a library has made of the files: some classes take steps of their own or from other files.

    Raises:
        WeightsError: as `check_tokenizer`.
    """
    if (inner := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        check_program(json.loads(inner.to_str()), folder)


def check_vocabulary(tokenizer: Any, network: Any, *, folder: Path) -> None:
    """Refuse a tokenizer that does not go with its network: what it reads, how it numbers, pads and marks a prompt.

    Raises:
        WeightsError: it reads nothing, leaves no room for a word, puts no marks around a prompt, has nothing to fill it
            up with, or numbers what the network does not know.
    """
    path, size = folder / "tokenizer", getattr(network.config, "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=-1)
    if not vocabulary or (isinstance(size, int) and largest >= size):
        word = next((repr(word[:40]) for word, number in vocabulary.items() if number == largest), "nothing")
        raise WeightsError(_numbers(path, size, f"{word} has {largest}"))
    marks, positions = tokenizer.num_special_tokens_to_add(), getattr(network.config, "max_position_embeddings", None)
    room = min(tokenizer.model_max_length, positions if isinstance(positions, int) else math.inf) - marks
    if room < 1:
        raise WeightsError(
            f"`{path / SETTINGS}` must leave room for words: `model_max_length` is {tokenizer.model_max_length}, and "
            f"{marks} marks go into it. CLIP has 77."
        )
    kind = str(network.config.model_type)
    if kind.startswith("clip") and not isinstance(mark := getattr(network.config, "eos_token_id", None), int):
        raise WeightsError(
            f"`{folder / 'text_encoder' / 'config.json'}` must give `eos_token_id`, the mark that CLIP looks for, "
            f"as one number; got {mark!r:.40}. Download it again."
        )
    if (kind == "bert" or kind.startswith("clip")) and marks < 2:
        raise WeightsError(
            f"`{path}` must put a mark before and after a prompt, as {kind} was trained; it puts {marks}. "
            "Download it again, or take the tokenizer that the text encoder was trained with."
        )
    try:
        ids = TextEncoder(tokenizer, network).ids(_SAMPLES)
        _ = tokenizer.unk_token_id
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        raise WeightsError(
            f"`{path}` must read any word; it does not ({reason}). Download it again; `{SETTINGS}` names its marks."
        ) from error
    largest = max((number for prompt in ids for number in prompt), default=-1)
    if isinstance(size, int) and largest >= size:
        raise WeightsError(_numbers(path, size, f"a mark has {largest}"))


def _numbers(path: Path, size: int | None, found: str) -> str:
    known = f"`{path}` must number its words below the {size} that text_encoder/ knows"
    return f"{known}; {found}. The two come from different models."


def _check_length(path: Path, length: Any) -> None:
    if length is None:
        return
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length < math.inf:
        raise WeightsError(
            f"`{path}` must give `model_max_length` as a number of tokens, at least 1; got {length!r:.40}. CLIP has 77."
        )
