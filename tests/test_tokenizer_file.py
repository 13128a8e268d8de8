"""Tokenizers from strangers: known ones are read; what multiplies, never ends or numbers wrongly is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from viewfold import limits
from viewfold.errors import PromptError, WeightsError
from viewfold.model.text import TextEncoder
from viewfold.weights.components import read_text
from viewfold.weights.location import find_model
from viewfold.weights.tokenizer import clip_tokenizer
from viewfold.weights.tokenizer_file import check_tokenizer

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(find_model("toybox") / part, tmp_path / part)
    return tmp_path


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def replaced(pattern: Any, content: Any = "") -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def test_tokenizers_of_known_text_networks_are_read(tmp_path: Path) -> None:
    clip_tokenizer().save_pretrained(tmp_path / "clip")
    kinds = {
        "t5": (
            normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), "▁")]),
            pre_tokenizers.Metaspace(), processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)]),
            decoders.Metaspace(),
        ),
        "gpt4": (
            normalizers.NFC(),
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel()]),
            processors.ByteLevel(), decoders.ByteLevel(),
        ),
        "llama": (
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, None,
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        ),
    }  # fmt: skip
    for name, parts in kinds.items():
        made = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
        for station, part in zip(("normalizer", "pre_tokenizer", "post_processor", "decoder"), parts, strict=True):
            if part is not None:
                setattr(made, station, part)
        (tmp_path / name).mkdir()
        made.save(str(tmp_path / name / "tokenizer.json"))
    for name in ("clip", *kinds):
        check_tokenizer(tmp_path / name)


@pytest.mark.parametrize(("station", "step", "message"), [
    ("normalizer", [replaced({"String": "a"}, "aa")] * 40, "times as long"),
    ("normalizer", [replaced({"Regex": "x*"}, "y" * 100)], "times as long"),
    ("normalizer", [{"type": "Prepend", "prepend": "a" * 100_000}], "times as long"),
    ("normalizer", [replaced({"Regex": "(a+)+b"})], "ends soon"),
    ("normalizer", [replaced({"Regex": r"\w*\w*\w*[^\w]"})], "ends soon"),
    ("pre_tokenizer", [{"type": "Split", "pattern": {"Regex": "(a|aa)*$"}, "behavior": "Isolated"}], "ends soon"),
    ("pre_tokenizer", [{"type": "Download"}], "steps that are known; got 'Download'"),
    ("normalizer", [replaced("x")], "`pattern`"), ("normalizer", [replaced({"String": "x"}, 3)], "`content`"),
    ("normalizer", [7], "steps that are known; got 7"),
])  # fmt: skip
def test_what_multiplies_a_prompt_or_never_ends_is_refused(
    station: str, step: list[Any], message: str, model: Path
) -> None:
    keys = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
    change(model / "tokenizer" / "tokenizer.json", **{station: {"type": "Sequence", keys[station]: step}})
    with pytest.raises(WeightsError, match=message) as error:
        read_text(model)
    assert "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


def test_sequences_in_sequences_end(model: Path) -> None:
    step: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(100):
        step = {"type": "Sequence", "normalizers": [step]}
    change(model / "tokenizer" / "tokenizer.json", normalizer=step)
    with pytest.raises(WeightsError, match="steps that are known"):
        read_text(model)


@pytest.mark.parametrize("number", [-1, 2**31, 2**31 - 1, 2**63, 2**64, 1e30, "7", True])
def test_ids_that_no_vocabulary_has_are_refused(number: Any, model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    token = {"content": "big", "special": False, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}  # fmt: skip
    change(path, added_tokens=[*json.loads(path.read_text())["added_tokens"], {**token, "id": number}])
    with pytest.raises(WeightsError, match=f"from 0 to {limits.TOKENIZER_WORDS - 1}"):
        read_text(model)


@pytest.mark.parametrize("number", ["-1", str(2**31), "x"])
def test_ids_of_the_settings_are_looked_at_too(number: str, model: Path) -> None:
    change(model / "tokenizer" / "tokenizer_config.json", added_tokens_decoder={number: {"content": "big"}})
    with pytest.raises(WeightsError, match=r"tokenizer_config.json` must number its tokens"):
        read_text(model)


def test_a_vocabulary_larger_than_the_networks_is_refused(model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["zebra"] = 500_000
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="'zebra' has 500000. The two come from different models"):
        read_text(model)


@pytest.mark.parametrize("length", [-1, 0, 0.5, float("inf"), float("nan"), "77", True, [77]])
def test_lengths_that_are_none_are_refused(length: Any, model: Path) -> None:
    change(model / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(WeightsError, match="model_max_length"):
        read_text(model)


def test_a_length_that_leaves_no_room_for_a_word_is_refused_and_one_that_says_nothing_is_the_networks(
    model: Path,
) -> None:
    path = model / "tokenizer" / "tokenizer_config.json"
    change(path, model_max_length=2)
    with pytest.raises(WeightsError, match="leave room for words"):
        read_text(model)
    change(path, model_max_length=int(1e30))
    network, tokenizer = read_text(model)
    assert TextEncoder(tokenizer, network).n_tokens == min(77, network.config.max_position_embeddings)


def test_a_tokenizer_that_reads_some_words_alone_is_refused(model: Path) -> None:
    change(model / "tokenizer" / "tokenizer_config.json", unk_token="")
    with pytest.raises(WeightsError, match=r"tokenizer` must read any word; it does not \(.*Missing \[UNK\]"):
        read_text(model)


def test_a_panic_of_the_library_is_one_line() -> None:
    class Panics:
        model_max_length = 77

        def __call__(self, *args: Any, **options: Any) -> Any:
            panic = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
            panic.normalizer = normalizers.Replace(Regex("(a+)+x"), "b")
            return panic.encode("a" * 40)

    encoder = TextEncoder(Panics(), torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="this tokenizer reads: .*retry-limit"):
        encoder.check("a" * 40)
