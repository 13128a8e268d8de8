"""Tokenizers from strangers, looked through before and after a library reads them.

Beside `folder`, which bounds the files.  A tokenizer.json is a small program that rewrites a prompt; one that
multiplies it, or searches without end, does so in a library that no Python code can stop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.store import read_json

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"

_PLAIN = {
    # normalizers
    "Sequence", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Replace",
    "Strip", "StripAccents",
    # pre-tokenizers
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
    "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    # post-processors and decoders
    "BertProcessing", "RobertaProcessing", "TemplateProcessing", "BPEDecoder", "ByteFallback", "CTC", "Fuse",
    "WordPiece",
}  # fmt: skip
"""Steps of Hugging Face's tokenizers that are known; a new one is refused until somebody has looked at it."""

_STATIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_UNBOUNDED = r"(?:[*+]|\{\d*,\})"
_REPEATED_GROUP = re.compile(rf"(?<!\\)\){_UNBOUNDED}")
_REPEATED = re.compile(rf"(?<!\\){_UNBOUNDED}")
_IN_BRACKETS = re.compile(r"\[(?:\\.|[^\]\\])*\]")

_DEEP = 32


def check_tokenizer(folder: Path) -> None:
    """Look through the files of a tokenizer before they are read.

    Raises:
        WeightsError: they ask for what no tokenizer of prompts needs.
    """
    path = folder / FILE
    if path.is_file():
        document = read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES)
        growth = 1.0
        for station in _STATIONS:
            for step in _steps(document.get(station), path):
                growth *= _growth(step, path, station)
        if not growth <= limits.TOKENIZER_GROWTH:
            raise WeightsError(
                f"`{path}` must not make a prompt more than {limits.TOKENIZER_GROWTH} times as long; its rules make it "
                f"{growth:.3g} times as long. Take another tokenizer."
            )
        tokens = document.get("added_tokens") or []
        if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
            raise WeightsError(f"`{path}` must give `added_tokens` as a list of objects.")
        _check_ids(path, (token.get("id") for token in tokens))
    path = folder / SETTINGS
    if path.is_file():
        settings = read_json(path, error=WeightsError, max_bytes=limits.FOLDER_TEXT_BYTES)
        _check_length(path, settings.get("model_max_length"))
        named = settings.get("added_tokens_decoder") or {}
        if not isinstance(named, dict):
            raise WeightsError(f"`{path}` must give `added_tokens_decoder` as an object.")
        _check_ids(path, (int(key) if str(key).lstrip("-").isdecimal() else key for key in named))


def check_vocabulary(tokenizer: Any, network: Any, *, folder: Path) -> None:
    """Refuse a tokenizer that reads nothing, leaves no room for a word or numbers what the network does not know.

    Raises:
        WeightsError: so it is.
    """
    try:
        tokenizer(["a", "\u2603 \u4e00 qzxj9"], padding="do_not_pad")
        _ = tokenizer.unk_token_id
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        raise WeightsError(f"`{folder / 'tokenizer'}` must read any word; it does not ({reason}).") from error
    size = getattr(network.config, "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=-1)
    if not vocabulary or (isinstance(size, int) and largest >= size):
        word = next((repr(word[:40]) for word, number in vocabulary.items() if number == largest), "nothing")
        raise WeightsError(
            f"`{folder / 'tokenizer'}` must number its words below the {size} that text_encoder/ knows; {word} has "
            f"{largest}. The two come from different models."
        )
    positions = getattr(network.config, "max_position_embeddings", math.inf)
    marks = tokenizer.num_special_tokens_to_add()
    room = min(tokenizer.model_max_length, positions if isinstance(positions, int) else math.inf) - marks
    if room < 1:
        raise WeightsError(
            f"`{folder / 'tokenizer' / SETTINGS}` must leave room for words: `model_max_length` is "
            f"{tokenizer.model_max_length}, and {marks} marks go into it. CLIP has 77."
        )


def _steps(given: Any, path: Path, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the single steps of a station, those of sequences one after the other."""
    if given is None:
        return
    if not isinstance(given, dict) or given.get("type") not in _PLAIN or depth > _DEEP:
        kind = given.get("type") if isinstance(given, dict) else given
        raise WeightsError(f"`{path}` must be made of steps that are known; got {kind!r:.60}. Take another tokenizer.")
    if given["type"] != "Sequence":
        yield given
        return
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        inner = given.get(key) or []
        if not isinstance(inner, list):
            raise WeightsError(f"`{path}` must give `{key}` as a list.")
        for step in inner:
            yield from _steps(step, path, depth + 1)


def _growth(step: dict[str, Any], path: Path, station: str) -> float:
    """Return how many times as long a step makes a text of some length, at most."""
    pattern = step.get("pattern")
    match pattern:
        case {"Regex": str(search)}:
            if not _is_quick(search):
                raise WeightsError(
                    f"`{path}` must search in a way that ends soon (no repeated groups, at most two endless repeats "
                    f"in a branch); got {search[:60]!r}. Take another tokenizer."
                )
            least = 0
        case {"String": str(search)}:
            least = len(search)
        case None if step["type"] not in ("Replace", "Split"):
            least = 0
        case _:
            raise WeightsError(f"`{path}` must give a `pattern` of String or Regex; got {pattern!r:.60}.")
    if step["type"] == "Prepend":
        return 1.0 + len(str(step.get("prepend", "")))
    if step["type"] == "TemplateProcessing":
        template = step.get("single")
        return 1.0 + (len(template) if isinstance(template, list) else 0) / limits.PROMPT_CHARACTERS
    if step["type"] != "Replace" or station in ("post_processor", "decoder"):
        return 1.0
    content = step.get("content")
    if not isinstance(content, str):
        raise WeightsError(f"`{path}` must give a Replace its `content`, a text; got {content!r:.60}.")
    return max(1.0, len(content) / least) if least else 1.0 + len(content)


def _is_quick(search: str) -> bool:
    """Return whether a regular expression takes at most a cube of the letters it looks through; (a+)+ takes 2^n."""
    bare = _IN_BRACKETS.sub("x", search)
    repeats = max(len(_REPEATED.findall(branch)) for branch in bare.split("|"))
    return len(search) <= limits.TOKENIZER_PATTERN and not _REPEATED_GROUP.search(bare) and repeats <= 2


def _check_ids(path: Path, ids: Iterator[Any]) -> None:
    for number in ids:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < limits.TOKENIZER_WORDS:
            raise WeightsError(
                f"`{path}` must number its tokens from 0 to {limits.TOKENIZER_WORDS - 1}; got {number!r:.40}."
            )


def _check_length(path: Path, length: Any) -> None:
    if length is None:
        return
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length < math.inf:
        raise WeightsError(
            f"`{path}` must give `model_max_length` as a number of tokens, at least 1; got {length!r:.40}. CLIP has 77."
        )
