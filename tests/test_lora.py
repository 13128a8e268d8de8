"""LoRA files: every layout means the same layers, what is put on is what acts, it comes off, and misfits are named."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.model.weights_hash import freeze_hash, weights_hash
from viewfold.pipeline import generate
from viewfold.weights.lora import read_lora

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed (extra `lora`)")

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONV = "conv_in"
RANK = 2


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def clip() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).eval()


def factors(network: nn.Module, *names: str, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Random pairs (A, B) for layers, large enough to be seen."""
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for name in names:
        shape = tuple(network.get_submodule(name).weight.shape)  # type: ignore[union-attr]
        down, up = (RANK, *shape[1:]), (shape[0], RANK, *[1] * (len(shape) - 2))
        pairs[name] = torch.randn(down, generator=random), torch.randn(up, generator=random)
    return pairs


def write(path: Path, pairs: dict[str, tuple[Tensor, Tensor]], pattern: str, **header: object) -> Path:
    """Save pairs under names such as "unet.{}.lora_A.weight|unet.{}.lora_B.weight"."""
    down, up = pattern.split("|")
    tensors = {down.format(name): a for name, (a, _) in pairs.items()}
    tensors |= {up.format(name): b for name, (_, b) in pairs.items()}
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(header)} if header else None)
    return path


PEFT_NAMES = "unet.{}.lora_A.weight|unet.{}.lora_B.weight"
LAYOUTS = {
    "peft in diffusers": PEFT_NAMES,
    "peft alone": "base_model.model.{}.lora_A.weight|base_model.model.{}.lora_B.weight",
    "a bare UNet": "{}.lora_A.default.weight|{}.lora_B.default.weight",
    "diffusers": "unet.{}.lora.down.weight|unet.{}.lora.up.weight",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_name_the_same_layers(model, tmp_path, layout):
    pairs = factors(model.unet, QUERY, OUT, CONV)
    path = write(tmp_path / "a.safetensors", pairs, LAYOUTS[layout])
    parts = read_lora(path, unet=model.unet, text_encoder=model.text_encoder)
    assert list(parts) == ["unet"] and len(parts["unet"]) == 6
    for name, (a, b) in pairs.items():
        assert torch.equal(parts["unet"][f"unet.{name}.lora_A.weight"], a)
        assert torch.equal(parts["unet"][f"unet.{name}.lora_B.weight"], b)


def test_old_processors_and_kohya_names_are_read_with_their_alpha(model, tmp_path):
    pairs = factors(model.unet, QUERY, OUT)
    old, kohya = {}, {}
    for name, (a, b) in pairs.items():
        block, layer = name.removesuffix(".0").rsplit(".", 1)
        old |= {
            f"unet.{block}.processor.{layer}_lora.down.weight": a,
            f"unet.{block}.processor.{layer}_lora.up.weight": b,
        }
        flat = "lora_unet_" + name.replace(".", "_")
        kohya |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": torch.tensor(8.0)}
    save_file(old, tmp_path / "old.safetensors")
    save_file(kohya, tmp_path / "kohya.safetensors")
    first = read_lora(tmp_path / "old.safetensors", unet=model.unet, text_encoder=None)["unet"]
    second = read_lora(tmp_path / "kohya.safetensors", unet=model.unet, text_encoder=None, scale=0.5)["unet"]
    assert first.keys() == second.keys()
    for name in pairs:
        key = f"unet.{name}.lora_B.weight"
        torch.testing.assert_close(second[key], first[key] * 0.5 * 8 / RANK)


def test_the_alpha_of_the_header_counts(model, tmp_path):
    pairs = factors(model.unet, QUERY)
    path = write(tmp_path / "a.safetensors", pairs, PEFT_NAMES, **{"unet.lora_alpha": 6, "unet.r": RANK})
    found = read_lora(path, unet=model.unet, text_encoder=None)["unet"][f"unet.{QUERY}.lora_B.weight"]
    torch.testing.assert_close(found, pairs[QUERY][1] * 6 / RANK)


# Put on and taken off -------------------------------------------------------------------------------------------------


def merged(network: nn.Module, *changes: tuple[dict[str, tuple[Tensor, Tensor]], float]) -> nn.Module:
    """A copy whose weights are changed directly."""
    network = copy.deepcopy(network)
    for pairs, scale in changes:
        for name, (a, b) in pairs.items():
            weight = network.get_submodule(name).weight
            weight.data += scale * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)  # type: ignore[operator,union-attr]
    return network


@needs_peft
def test_files_add_up_as_changed_weights_would_and_come_off_again(tmp_path):
    model, cameras = tiny_model(), Cameras.orbit(2)
    first, second = factors(model.unet, QUERY, CONV), factors(model.unet, QUERY, OUT, seed=1)
    before = generate(model, "a mug", cameras=cameras, steps=2)
    expected: dict[str, Any] = model.components | {"unet": merged(model.unet, (first, 0.7), (second, 1.0))}
    model.load_lora_weights(write(tmp_path / "a.safetensors", first, PEFT_NAMES), scale=0.7)
    model.load_lora_weights(write(tmp_path / "b.safetensors", second, LAYOUTS["diffusers"]))
    after = generate(model, "a mug", cameras=cameras, steps=2)
    wanted = generate(type(model)(**expected), "a mug", cameras=cameras, steps=2)
    torch.testing.assert_close(after.rgb, wanted.rgb, atol=1e-4, rtol=1e-4)
    assert (after.rgb - before.rgb).abs().max() > 1e-3
    assert [(lora["file"], lora["scale"]) for lora in after.run["lora"]] == [
        ("a.safetensors", 0.7),
        ("b.safetensors", 1),
    ]
    assert after.run["weights_sha256"] != before.run["weights_sha256"]
    model.unload_lora_weights()
    again = generate(model, "a mug", cameras=cameras, steps=2)
    assert torch.equal(again.rgb, before.rgb) and again.run["weights_sha256"] == before.run["weights_sha256"]
    assert "lora" not in again.run


@needs_peft
def test_the_text_encoder_of_stable_diffusion_is_changed_too(clip, tmp_path):
    model = tiny_model()
    model.register_modules(text_encoder=copy.deepcopy(clip))
    name = next(n for n, _ in clip.named_modules() if n.endswith("self_attn.q_proj"))
    pairs = factors(clip, name)
    flat = "lora_te_text_model_" + name.removeprefix("text_model.").replace(".", "_")
    path = write(tmp_path / "te.safetensors", {flat: pairs[name]}, "{}.lora_down.weight|{}.lora_up.weight")
    model.load_lora_weights(path)
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        changed, wanted = model.text_encoder(tokens), merged(clip, (pairs, 1.0))(tokens)
        torch.testing.assert_close(changed.last_hidden_state, wanted.last_hidden_state, atol=1e-5, rtol=1e-5)
        with pytest.raises(InputError, match="`loras` must be off"):
            model.save_pretrained(tmp_path / "copy")
        model.unload_lora_weights()
        assert torch.equal(model.text_encoder(tokens).last_hidden_state, clip(tokens).last_hidden_state)
    assert model.text_encoder.state_dict().keys() == clip.state_dict().keys()


@needs_peft
def test_the_hash_counts_a_file_the_same_where_the_networks_cannot_be_read(tmp_path):
    """As when they are in 8 bits or offloaded."""
    model, frozen = tiny_model(), tiny_model()
    path = write(tmp_path / "a.safetensors", factors(model.unet, QUERY), PEFT_NAMES)
    freeze_hash(frozen)
    digests = set()
    for scale in (1.0, 0.5):
        for some in (model, frozen):
            some.load_lora_weights(path, scale=scale)
        assert weights_hash(model) == weights_hash(frozen)
        digests.add(weights_hash(model))
    for some in (model, frozen):
        some.unload_lora_weights()
    assert weights_hash(model) == weights_hash(frozen) and len(digests | {weights_hash(model)}) == 3


@needs_peft
def test_a_file_that_fails_half_way_leaves_nothing_on(clip, tmp_path, monkeypatch):
    model = tiny_model()
    model.register_modules(text_encoder=copy.deepcopy(clip))
    key = "encoder.layers.0.self_attn.k_proj"
    tensors = {}
    for part, layer, (a, b) in (
        ("unet", QUERY, factors(model.unet, QUERY)[QUERY]),
        ("text_encoder", key, factors(clip, key)[key]),
    ):
        tensors |= {f"{part}.{layer}.lora_A.weight": a, f"{part}.{layer}.lora_B.weight": b}
    save_file(tensors, tmp_path / "a.safetensors")
    digest = weights_hash(model)
    monkeypatch.setattr(model.text_encoder, "set_adapter", lambda names: {}[names[0]])
    with pytest.raises(WeightsError, match="`lora` must be one that peft can put on; a.safetensors is not"):
        model.load_lora_weights(tmp_path / "a.safetensors")
    assert not model.loras and weights_hash(model) == digest and not any("lora_A" in n for n in model.unet.state_dict())


@needs_peft
def test_what_a_released_text_network_read_cannot_be_undone(clip, tmp_path):
    model = tiny_model()
    model.loras.append({"file": "a", "scale": 1.0, "parts": ["text_encoder"], "sha256": "00" * 32})
    model.release_text(["a mug"])
    with pytest.raises(InputError, match="it was released"):
        model.unload_lora_weights()


def test_without_peft_the_message_names_the_extra(model, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewfold\[lora\]'"):
        model.load_lora_weights(tmp_path / "a.safetensors")


# Misfits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [({"unet.alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern"), ({"unet.lora_alpha": float("nan")}, "finite"),
     ({"unet.lora_alpha": [1]}, "cannot"), ({"unet.use_dora": True}, "use_dora")],
)  # fmt: skip
def test_headers_that_ask_for_more_are_refused(model, tmp_path, header, message):
    path = write(tmp_path / "a.safetensors", factors(model.unet, QUERY), PEFT_NAMES, **header)
    with pytest.raises(WeightsError, match=message):
        read_lora(path, unet=model.unet, text_encoder=None)


def test_files_that_are_no_safetensors_are_refused(model, tmp_path):
    whole = write(tmp_path / "a.safetensors", factors(model.unet, QUERY), PEFT_NAMES).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.bin").write_bytes(whole)
    for name in ("cut.safetensors", "a.bin", "missing.safetensors"):
        with pytest.raises(WeightsError, match=name):
            read_lora(tmp_path / name, unet=model.unet, text_encoder=None)


@needs_peft
def test_the_command_line_takes_files_with_scales(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr("viewfold.pipeline.load", lambda name, **_: model)
    first = write(tmp_path / "a.safetensors", factors(model.unet, QUERY), PEFT_NAMES)
    second = write(tmp_path / "b:c.safetensors", factors(model.unet, CONV), PEFT_NAMES)
    common = ["generate", "a mug", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main([*common, "--lora", f"{first}:-0.5", "--lora", str(second)]) == 0
    assert [(item["file"], item["scale"]) for item in model.loras] == [
        ("a.safetensors", -0.5),
        ("b:c.safetensors", 1.0),
    ]


@needs_peft
def test_a_scale_that_is_no_number_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="`scale`"):
        model.load_lora_weights(tmp_path / "a.safetensors", scale=float("nan"))
