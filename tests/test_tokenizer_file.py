"""Tokenizers from strangers: known ones are read; what multiplies, never ends or numbers wrongly is refused."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from viewfold import limits
from viewfold.errors import PromptError, WeightsError
from viewfold.model.text import TextEncoder
from viewfold.weights.components import MODEL_PARTS, read_components, read_text
from viewfold.weights.location import find_model
from viewfold.weights.tokenizer import clip_tokenizer
from viewfold.weights.tokenizer_file import check_read, check_tokenizer, check_vocabulary

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


TEXT, MARK = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[CLS]", "type_id": 0}}


def template(*single: Any, ids: list[int] | None = None) -> dict[str, Any]:
    special = {"[CLS]": {"id": "[CLS]", "ids": ids or [2], "tokens": ["[CLS]"] * len(ids or [2])}}
    return {"type": "TemplateProcessing", "single": single, "pair": [TEXT], "special_tokens": special}


def precompiled(text: bytes, size: int = 4) -> dict[str, Any]:
    table = size.to_bytes(4, "little") + bytes(4) + text + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def read_as(folder: Path, name: str) -> Any:
    """Read a tokenizer with the class whose steps are those of its tokenizer.json; BERT's has its own."""
    (folder / "model_index.json").write_text(json.dumps({part: ["transformers", "BertModel"] for part in MODEL_PARTS}
                                                        | {"tokenizer": ["transformers", name]}))  # fmt: skip
    given = {"vae", "unet", "scheduler"} | (set() if (folder / "text_encoder").is_dir() else {"text_encoder"})
    return read_components(folder, given=given)["tokenizer"]


def small_clip(folder: Path) -> None:
    words = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)  # type: ignore[arg-type]


def clip_network() -> Any:
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=54, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


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
    ("normalizer", [replaced({"String": "a"}, "aa")] * 20, "times as long"),
    ("normalizer", [replaced({"Regex": "x*"}, "y" * 200)], "times as long"),
    ("normalizer", [{"type": "Prepend", "prepend": "a" * 100_000}], "times as long"),
    ("normalizer", [replaced({"Regex": "(a+)+b"})], "ends soon"),
    ("normalizer", [replaced({"Regex": r"\w*\w*\w*[^\w]"})], "ends soon"),
    ("pre_tokenizer", [{"type": "Split", "pattern": {"Regex": "(a|aa)*$"}, "behavior": "Isolated"}], "ends soon"),
    ("pre_tokenizer", [{"type": "Download"}], "steps that are known; got 'Download'"),
    ("normalizer", [replaced("x")], "`pattern`"), ("normalizer", [replaced({"String": "x"}, 3)], "`content`"),
    ("normalizer", [7], "steps that are known; got 7"), ("normalizer", [{"type": []}], "steps that are known"),
    ("normalizer", [{"type": "ByteLevel"}] * 5, "times as long"),
    ("pre_tokenizer", [{"type": "ByteLevel"}] * 5, "times as long"),
    ("normalizer", [{"type": "BertNormalizer"}] * 5, "times as long"),
    ("pre_tokenizer", [{"type": "Metaspace"}] * 8, "times as long"),
    ("normalizer", [{"type": "Lowercase"}] * 1000, "at most 32 steps"),
    ("normalizer", [precompiled(b"b" * 300)], "times as long"),
    ("normalizer", [precompiled(b"x", size=2**32 - 4)], "it is damaged"),
    ("normalizer", [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}], "it is damaged"),
    ("post_processor", [template(TEXT, TEXT)], "once among"), ("post_processor", [template()], "once among"),
    ("post_processor", [template(TEXT, *[MARK] * 16)], "once among"),
    ("post_processor", [template(TEXT, MARK, ids=[1] * 17)], "once among"),
    ("post_processor", [template(TEXT, MARK, ids=[2**31])], "must number its tokens"),
    ("post_processor", [template(TEXT, MARK, MARK, ids=[6040])], "a mark has 6040. The two come from different models"),
])  # fmt: skip
def test_what_multiplies_a_prompt_or_never_ends_is_refused(
    station: str, step: list[Any], message: str, model: Path
) -> None:
    keys = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
    change(model / "tokenizer" / "tokenizer.json", **{station: {"type": "Sequence", keys[station]: step}})
    with pytest.raises(WeightsError, match=message) as error:
        read_as(model, "PreTrainedTokenizerFast")
    assert str(model / "tokenizer") in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith(("Take another tokenizer.", "The two come from different models."))


@pytest.mark.parametrize(("keys", "message"), [
    ({"type": "BPE", "merges": [], "dropout": 0.1}, "the same way each time; it has a `dropout` of 0.1"),
    ({"max_input_chars_per_word": 10**9}, "words of at most 256 letters; got 1000000000"),
    ({"continuing_subword_prefix": "#" * 17}, "`continuing_subword_prefix` of at most 16"),
    ({"type": "Network"}, "look words up by one of BPE, Unigram, WordLevel, WordPiece; got 'Network'"),
])  # fmt: skip
def test_ways_of_looking_words_up_that_change_or_take_for_ever_are_refused(
    keys: dict[str, Any], message: str, model: Path
) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    change(path, model=json.loads(path.read_text())["model"] | keys)
    with pytest.raises(WeightsError, match=message):
        read_as(model, "PreTrainedTokenizerFast")


def test_steps_that_come_from_elsewhere_are_looked_at_as_they_were_read(model: Path) -> None:
    """A class of the library makes some by itself, or out of other files."""
    _, tokenizer = read_text(model)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 9)
    with pytest.raises(WeightsError, match="512 times as long"):
        check_read(tokenizer, model)


@pytest.mark.parametrize(("keys", "message"), [
    ({"pad_token": None}, r"must read any word; it does not \(V.*pad.*tokenizer_config.json. names its marks"),
    ({}, None),
])  # fmt: skip
def test_a_clip_without_a_token_to_fill_up_with_is_refused_when_it_is_read(
    keys: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    network = clip_network()
    small_clip(tmp_path / "tokenizer")
    change(tmp_path / "tokenizer" / "tokenizer_config.json", **keys)
    tokenizer = read_as(tmp_path, "PreTrainedTokenizerFast")
    if message is None:
        return check_vocabulary(tokenizer, network, folder=tmp_path)
    with pytest.raises(WeightsError, match=message):
        check_vocabulary(tokenizer, network, folder=tmp_path)


def test_a_clip_that_puts_no_marks_around_a_prompt_is_refused(tmp_path: Path) -> None:
    small_clip(tmp_path / "tokenizer")
    change(tmp_path / "tokenizer" / "tokenizer.json", post_processor=None)
    with pytest.raises(WeightsError, match="a mark before and after a prompt, as clip_text_model was .* puts 0"):
        check_vocabulary(read_as(tmp_path, "PreTrainedTokenizerFast"), clip_network(), folder=tmp_path)


@pytest.mark.parametrize("number", [-1, 2**31, "7", 1e30])
def test_numbers_of_a_vocabulary_of_its_own_are_looked_at(number: Any, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": number}))
    with pytest.raises(WeightsError, match="vocab.json` must number its tokens from 0"):
        check_tokenizer(tmp_path)


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


@pytest.mark.parametrize("mark", [None, [53, 53]])
def test_a_clip_without_one_end_mark_is_refused(mark: Any, tmp_path: Path) -> None:
    """It looks for it in each prompt, and raised an AttributeError at the first."""
    network = clip_network()
    network.config.eos_token_id = mark
    small_clip(tmp_path / "tokenizer")
    with pytest.raises(WeightsError, match=r"config.json` must give `eos_token_id`, .* as one number; got"):
        check_vocabulary(read_as(tmp_path, "CLIPTokenizer"), network, folder=tmp_path)
