"""What a tokenizer does to a prompt, step by step, and whether that stays small and ends; no library is asked.

Below `tokenizer_file`.  A tokenizer.json is a small program: it rewrites the text, splits it, looks the pieces up and
puts marks around them.  Each step below has a bound on how much longer it makes a text; their product is what counts.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from viewfold import limits
from viewfold.errors import WeightsError

_STATIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_GROWTH = {
    # normalizers; Unicode's own forms make one rare letter 18, and a second time nothing more
    "Lowercase": 1, "NFC": 1, "NFD": 1, "NFKC": 1, "NFKD": 1, "Nmt": 1, "Strip": 1, "StripAccents": 1, "Replace": 1,
    "Prepend": 1, "Precompiled": 1,
    "BertNormalizer": 3,  # a blank on both sides of each Chinese letter
    # pre-tokenizers
    "BertPreTokenizer": 1, "CharDelimiterSplit": 1, "Digits": 1, "Punctuation": 1, "Split": 1, "UnicodeScripts": 1,
    "Whitespace": 1, "WhitespaceSplit": 1,
    "ByteLevel": 4,  # a letter for each byte; itself of two bytes, so that each further time doubles
    "Metaspace": 2,  # a mark before each word
    # post-processors and decoders
    "BertProcessing": 1, "RobertaProcessing": 1, "TemplateProcessing": 1, "BPEDecoder": 1, "ByteFallback": 1, "CTC": 1,
    "Fuse": 1, "WordPiece": 1,
}  # fmt: skip
"""Steps of Hugging Face's tokenizers that are known -> letters that they make of one, aside from what they are given.

A new one is refused until somebody has looked at it.
"""

_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")

_BOUNDED_OR_NOT = r"(?:[*+]|\{[^}]*\})"
_REPEATED_GROUP = re.compile(rf"(?<!\\)\){_BOUNDED_OR_NOT}")
_REPEATED = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\})")
_IN_BRACKETS = re.compile(r"\[(?:\\.|[^\]\\])*\]")

_DEEP = 32


def check_program(document: dict[str, Any], path: Path) -> None:
    """Refuse a tokenizer (tokenizer.json, or what a library says that it has read) that multiplies or never ends.

    Raises:
        WeightsError: it does, or consists of what is not known.
    """
    growth, n_steps = 1.0, 0
    for station in _STATIONS:
        for step in _steps(document.get(station), path):
            n_steps += 1
            if n_steps > limits.TOKENIZER_STEPS:
                raise _refusal(path, f"have at most {limits.TOKENIZER_STEPS} steps; it has more")
            if step["type"] == "TemplateProcessing":
                _check_template(step, path)
            grown = _growth(step, path)
            growth *= 1.0 if station in ("post_processor", "decoder") else grown
    if not growth <= limits.TOKENIZER_GROWTH:
        raise _refusal(
            path,
            f"not make a prompt more than {limits.TOKENIZER_GROWTH} times as long; its rules make it "
            f"{growth:.3g} times as long",
        )
    _check_model(document.get("model"), path)
    tokens = document.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise WeightsError(f"`{path}` must give `added_tokens` as a list of objects.")
    check_ids(path, (token.get("id") for token in tokens))


def check_ids(path: Path, ids: Iterable[Any]) -> None:
    """Refuse numbers of tokens that no vocabulary has."""
    for number in ids:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < limits.TOKENIZER_WORDS:
            raise WeightsError(
                f"`{path}` must number its tokens from 0 to {limits.TOKENIZER_WORDS - 1}; got {number!r:.40}. "
                "Take another tokenizer."
            )


def _refusal(path: Path, must: str) -> WeightsError:
    return WeightsError(f"`{path}` must {must}. Take another tokenizer.")


def _steps(given: Any, path: Path, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the single steps of a station, those of sequences one after the other."""
    if given is None:
        return
    kind = given.get("type") if isinstance(given, dict) else given
    known = isinstance(given, dict) and isinstance(kind, str) and (kind == "Sequence" or kind in _GROWTH)
    if not known or depth > _DEEP:
        raise _refusal(path, f"be made of steps that are known; got {kind!r:.60}")
    if kind != "Sequence":
        yield given
        return
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        inner = given.get(key) or []
        if not isinstance(inner, list):
            raise WeightsError(f"`{path}` must give `{key}` as a list.")
        for step in inner:
            yield from _steps(step, path, depth + 1)


def _growth(step: dict[str, Any], path: Path) -> float:
    """Return how many times as long a step makes a text of some length, at most."""
    match step["type"]:
        case "Prepend":
            return 1.0 + len(str(step.get("prepend", "")))
        case "Precompiled":
            return float(_longest(step.get("precompiled_charsmap"), path))
        case "Replace":
            content, least = step.get("content"), _least(step.get("pattern"), path)
            if not isinstance(content, str):
                raise _refusal(path, f"give a Replace its `content`, a text; got {content!r:.60}")
            return max(1.0, len(content) / least) if least else 1.0 + len(content)
        case "Split":
            _least(step.get("pattern"), path)
    return float(_GROWTH[step["type"]])


def _least(pattern: Any, path: Path) -> int:
    """Return how many letters a pattern finds at least."""
    match pattern:
        case {"Regex": str(search)}:
            if not _is_quick(search):
                raise _refusal(
                    path,
                    "search in a way that ends soon (no repeated groups, at most two endless repeats in a branch); "
                    f"got {search[:60]!r}",
                )
            return 0
        case {"String": str(search)}:
            return len(search)
        case _:
            raise _refusal(path, f"give a `pattern` of String or Regex; got {pattern!r:.60}")


def _is_quick(search: str) -> bool:
    """Return whether a regular expression takes at most a cube of the letters it looks through; (a+)+ takes 2^n."""
    bare = _IN_BRACKETS.sub("x", search)
    repeats = max(len(_REPEATED.findall(branch)) for branch in bare.split("|"))
    return len(search) <= limits.TOKENIZER_PATTERN and not _REPEATED_GROUP.search(bare) and repeats <= 2


def _longest(charsmap: Any, path: Path) -> int:
    """Return the most letters that SentencePiece's table of letters has for one.

    It holds a size, a double array of so many bytes, and texts that end with a zero.  Of another the library makes a
    panic, or asks for the size's 4 GiB.
    """
    try:
        table = base64.b64decode(charsmap, validate=True)
        size = int.from_bytes(table[:4], "little")
        if not (0 < size <= len(table) - 4 and size % 4 == 0):
            raise ValueError(size)
        texts = table[4 + size :].decode()
    except (TypeError, ValueError, binascii.Error) as error:
        raise _refusal(path, "hold a whole `precompiled_charsmap`; it is damaged") from error
    return max(1, *map(len, texts.split("\0")))


def _check_template(step: dict[str, Any], path: Path) -> None:
    """Refuse a template that does not hold the text once, among a few marks."""
    single, special = step.get("single"), step.get("special_tokens") or {}
    pieces = single if isinstance(single, list) else []
    marks = [mark.get("ids") for mark in special.values()] if isinstance(special, dict) else [None]
    texts = sum(isinstance(piece, dict) and "Sequence" in piece for piece in pieces)
    few = all(isinstance(ids, list) and len(ids) <= limits.TOKENIZER_MARKS for ids in marks)
    if texts != 1 or len(pieces) > limits.TOKENIZER_MARKS or not few:
        raise _refusal(path, f"put a prompt once among at most {limits.TOKENIZER_MARKS} marks; its template does not")
    check_ids(path, (number for ids in marks for number in ids or []))


def _check_model(model: Any, path: Path) -> None:
    """Refuse a vocabulary whose words are looked up by chance, or in a time that grows with the cube of a word."""
    if model is None:  # a library that reads no tokenizer.json of its own
        return
    kind = model.get("type", "BPE") if isinstance(model, dict) else model
    if kind not in _MODELS:
        raise _refusal(path, f"look words up by one of {', '.join(_MODELS)}; got {kind!r:.60}")
    if model.get("dropout"):
        raise _refusal(path, f"read a prompt the same way each time; it has a `dropout` of {model['dropout']!r:.40}")
    letters = model.get("max_input_chars_per_word", 1)
    if not isinstance(letters, int) or letters > limits.TOKENIZER_LETTERS:
        raise _refusal(path, f"take apart words of at most {limits.TOKENIZER_LETTERS} letters; got {letters!r:.40}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(key) or "")) > limits.TOKENIZER_MARKS:
            raise _refusal(path, f"have a `{key}` of at most {limits.TOKENIZER_MARKS} letters; it has more")
    if isinstance(vocabulary := model.get("vocab"), dict):
        check_ids(path, vocabulary.values())
