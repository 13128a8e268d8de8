"""Files of weights and of words that strangers give us: valid ones to damage, and their readers; see `fuzz_kinds`."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import cast

import torch
from fakes import tiny_model
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from viewfold.errors import PromptError
from viewfold.model.text import TextEncoder
from viewfold.weights.components import MODEL_PARTS, read_components, read_text
from viewfold.weights.location import find_model
from viewfold.weights.lora import read_lora


def write_tokenizers(folder: Path) -> None:
    """The shipped one; small ones of CLIP, as a program and as lists; and one with a step of every kind."""
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(find_model("toybox") / part, folder / "bert" / part)
    words = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.vocab_size = len(vocabulary)
    network = CLIPTextModel(config)
    clip = CLIPTokenizer(vocab=vocabulary, merges=[])  # type: ignore[arg-type]
    for name, kind in (("clip", "CLIPTokenizer"), ("lists", "CLIPTokenizer"), ("steps", "PreTrainedTokenizerFast")):
        network.save_pretrained(folder / name / "text_encoder")
        clip.save_pretrained(folder / name / "tokenizer")
        index: dict[str, list[str]] = {part: ["transformers", "CLIPTextModel"] for part in MODEL_PARTS}
        (folder / name / "model_index.json").write_text(json.dumps(index | {"tokenizer": ["transformers", kind]}))
    lists = folder / "lists" / "tokenizer"
    (lists / "tokenizer.json").unlink()
    (lists / "vocab.json").write_text(json.dumps(vocabulary))
    (lists / "merges.txt").write_text("#version: 0.2\n")
    steps = folder / "steps" / "tokenizer" / "tokenizer.json"
    steps.write_text(json.dumps(json.loads(steps.read_text()) | every_step()))


def every_step() -> dict[str, object]:
    """Return the stations of a tokenizer.json, with a step of each kind that takes something."""
    units = [0] * 1024  # a double array that knows one letter: its number, that it ends there, and where its text is
    units[0], units[256 ^ ord("q")], units[512] = 256 << 10, ord("q") | 1 << 8 | (512 ^ 256 ^ ord("q")) << 10, 1 << 31
    table = base64.b64encode(struct.pack("<1025I", 4096, *units) + b"fi\0").decode()
    normalizers = [
        {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "Lowercase"},
        {"type": "Prepend", "prepend": "a"}, {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Precompiled", "precompiled_charsmap": table},
    ]  # fmt: skip
    splits = [
        {"type": "Split", "pattern": {"Regex": r"[a-z]+|[^\s\p{L}]+"}, "behavior": "Removed", "invert": True},
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    pieces = {"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"b": {"id": "b", "ids": [2], "tokens": ["b"]}}
    marks = {
        "type": "TemplateProcessing", "single": [pieces[0], pieces[1], pieces[0]], "pair": [pieces[1]],
        "special_tokens": special,
    }  # fmt: skip
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers}, "post_processor": marks,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits}, "decoder": {"type": "ByteFallback"},
    }  # fmt: skip


def read_tokenizer(path: Path) -> str:
    if path.name == "bert":
        network, tokenizer = read_text(path)
    else:
        parts = read_components(path, given=("vae", "unet", "scheduler"))
        network, tokenizer = parts["text_encoder"], parts["tokenizer"]
    encoder = TextEncoder(tokenizer, network)
    for prompt in ("a red mug", "x" * 2000, "\u4e00 \ufdfa" * 200):
        try:
            encoder.check(prompt)
        except PromptError:
            return "loaded"
        assert bool(encoder.states([prompt]).isfinite().all())
    return "loaded"


@functools.cache
def small_unet() -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        return tiny_model(Path(folder) / "model").unet


def write_loras(folder: Path) -> None:
    """In the layouts of diffusers, of kohya (with convolutions, in eight and sixteen bits) and of peft."""
    names = [n for n, module in small_unet().named_modules() if isinstance(module, torch.nn.Linear)][:3]
    made = [dict[str, torch.Tensor](), dict[str, torch.Tensor](), dict[str, torch.Tensor]()]
    for name in (*names, "conv_in"):
        weight = cast(torch.Tensor, small_unet().get_submodule(name).weight)
        down, up = torch.randn(2, *weight.shape[1:]), torch.randn(weight.shape[0], 2, *[1] * (weight.ndim - 2))
        flat = "lora_unet_" + name.replace(".", "_")
        made[0] |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        made[0][f"unet.{name}.alpha"] = torch.tensor(2.0)
        made[1] |= {f"{flat}.lora_down.weight": down.half(), f"{flat}.lora_up.weight": up.to(torch.float8_e4m3fn)}
        made[1][f"{flat}.alpha"] = torch.tensor(8.0).to(torch.float8_e5m2)
        made[2] |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    header = {"lora_adapter_metadata": '{"unet.lora_alpha": 4}'}
    save_file(made[0], folder / "lora.safetensors", metadata=header)
    save_file(made[1], folder / "kohya.safetensors")
    (folder / "peft").mkdir()
    save_file(made[2], folder / "peft" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 8, "r": 2, "use_dora": False, "alpha_pattern": {}}
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(settings))


def read_lora_file(path: Path) -> str:
    parts = read_lora(
        path / "adapter_model.safetensors" if path.name == "peft" else path, unet=small_unet(), text_encoder=None
    )
    assert all(bool(tensor.isfinite().all()) for part in parts.values() for tensor in part.values())
    return "loaded"
