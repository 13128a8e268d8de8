"""LoRA files: every layout means the same layers, what is put on is what acts, it comes off, and misfits are named."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
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


def bad(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"unet.{QUERY}.{name}": tensor for name, tensor in tensors.items()}


A, B = torch.ones(RANK, 16), torch.ones(16, RANK)
MISFITS = {
    "another model's layer": (
        {"unet.down_blocks.9.lora_A.weight": A, "unet.down_blocks.9.lora_B.weight": B},
        "2 names",
    ),
    "one factor": (bad({"lora_A.weight": A}), f"{QUERY}: one of its two factors is missing"),
    "another width": (
        bad({"lora_A.weight": torch.ones(RANK, 24), "lora_B.weight": B}),
        rf"{QUERY}: shapes \(2, 24\) and \(16, 2\), for a weight of \(16, 16\)",
    ),
    "ranks that differ": (
        bad({"lora_A.weight": A, "lora_B.weight": torch.ones(16, 3)}),
        f"{QUERY}: ranks {RANK} and 3 differ",
    ),
    "no rank": (bad({"lora_A.weight": torch.ones(0, 16), "lora_B.weight": torch.ones(16, 0)}), QUERY),
    "NaN": (bad({"lora_A.weight": A * float("nan"), "lora_B.weight": B}), f"{QUERY}: NaN or infinite numbers"),
    "integers": (
        bad({"lora_A.weight": A.long(), "lora_B.weight": B.long()}),
        f"{QUERY}: numbers of torch.int64 and torch.int64",
    ),
    "complex numbers": (
        bad({"lora_A.weight": A.to(torch.complex64), "lora_B.weight": B, "alpha": torch.ones(1).to(torch.complex64)}),
        f"{QUERY}: numbers of torch.complex64",
    ),
    "another method": (
        bad({"lora_A.weight": A, "lora_B.weight": B, "dora_scale": torch.ones(16)}),
        "there is DoRA, which is not read: merge it into a model.*dora_scale",
    ),
    "peft's DoRA": (
        bad({"lora_A.weight": A, "lora_B.weight": B, "lora_magnitude_vector.weight": torch.ones(16)}),
        "there is DoRA",
    ),
    "LoHa": (
        bad({f"hada_w{i}_{x}": (A if x == "b" else B).clone() for i in (1, 2) for x in "ab"}),
        r"there is LoHa \(LyCORIS\)",
    ),
    "LoKr": (bad({"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(4, 4)}), r"there is LoKr \(LyCORIS\)"),
    "IA3": (bad({"weight": torch.ones(16), "on_input": torch.tensor(False)}), r"there is \(IA\)\^3"),
    "whole differences": (bad({"diff": torch.ones(16, 16)}), "there is whole weights"),
    "OFT": (bad({"oft_blocks": torch.ones(2, 8, 8)}), "there is OFT"),
    "SDXL": ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": A}, "there is a change of SDXL"),
    "an infinite alpha": (
        bad({"lora_A.weight": A, "lora_B.weight": B, "alpha": torch.tensor(float("inf"))}),
        f"{QUERY}.alpha: it must be one finite number",
    ),
    "NaN for an alpha": (bad({"lora_A.weight": A, "lora_B.weight": B, "alpha": torch.tensor(float("nan"))}), "finite"),
    "NaN for an alpha in eight bits": (
        bad({"lora_A.weight": A, "lora_B.weight": B, "alpha": torch.tensor(float("nan")).to(torch.float8_e4m3fn)}),
        f"{QUERY}.alpha: it must be one finite number",
    ),
    "two alphas": (bad({"lora_A.weight": A, "lora_B.weight": B, "alpha": torch.ones(2)}), "one finite number"),
    "two names for an alpha": (
        bad({"lora_A.weight": A, "lora_B.weight": B, "alpha": torch.ones(1)})
        | {f"lora_unet_{QUERY.replace('.', '_')}.alpha": torch.ones(1)},
        "1 names",
    ),
    "an alpha beyond the numbers' type": (
        bad({"lora_A.weight": A.half(), "lora_B.weight": B.half(), "alpha": torch.tensor(1e6)}),
        "must stay finite; in a.safetensors .* overflows torch.float16, times 5e.05. Give a smaller scale",
    ),
    "a whole layer": (bad({"weight": torch.ones(16, 16)}), "there is whole weights.*1 names"),
    "LoCon with a core": (
        {f"lora_unet_{CONV}.{name}": torch.ones(4, 4, 3, 3) for name in ("lora_mid.weight", "lora_down.weight")},
        r"there is LoCon with a core \(Tucker\)",
    ),
    "Flux": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": A}, "there is a change of a transf"),
    "twice": (bad({"lora_A.weight": A, "lora.down.weight": A.clone(), "lora_B.weight": B}), "1 names"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_named(model, tmp_path, kind):
    tensors, message = MISFITS[kind]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_lora(tmp_path / "a.safetensors", unet=model.unet, text_encoder=model.text_encoder)


PEFT_KINDS = {
    "DoRA": ("LoraConfig", {"r": 2, "use_dora": True}), "LoRA with biases": ("LoraConfig", {"r": 2, "lora_bias": True}),
    "LoHa": ("LoHaConfig", {"r": 2}), "LoKr": ("LoKrConfig", {"r": 2}), "(IA)^3": ("IA3Config", {}),
    "OFT": ("OFTConfig", {"oft_block_size": 4}), "BOFT": ("BOFTConfig", {"boft_block_size": 4}),
    "AdaLoRA": ("AdaLoraConfig", {"total_step": 9}), "HRA": ("HRAConfig", {"r": 2}),
    "whole weights": ("LoraConfig", {"r": 2, "modules_to_save": ["conv_in"]}),
}  # fmt: skip


def saved_by_peft(network: nn.Module, kind: str, folder: Path, targets: list[str], **settings: Any) -> tuple[Path, Any]:
    """Save what peft makes of a copy of a network as peft does."""
    import peft

    settings |= {"feedforward_modules": []} if kind == "IA3Config" else {}
    changed = peft.get_peft_model(copy.deepcopy(network), getattr(peft, kind)(target_modules=targets, **settings))
    changed.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors", changed


@needs_peft
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_what_peft_writes_of_another_kind_is_refused_by_its_name(model, tmp_path, kind):
    name, settings = PEFT_KINDS[kind]
    path, _ = saved_by_peft(model.unet.mid_block, name, tmp_path, ["to_q", "to_k"], **settings)
    if kind == "whole weights":
        path, _ = saved_by_peft(model.unet, name, tmp_path, ["to_q"], **settings)
    (tmp_path / "adapter_config.json").unlink()  # which names it too
    with pytest.raises(WeightsError, match=rf"there is {re.escape(kind)}.* not read: merge it into a model"):
        read_lora(path, unet=model.unet, text_encoder=None)


@needs_peft
@pytest.mark.filterwarnings("ignore")
def test_the_settings_beside_a_file_of_pefts_count(model, tmp_path):
    settings: dict[str, Any] = {"r": RANK, "lora_alpha": 6, "init_lora_weights": False}
    path, changed = saved_by_peft(model.unet, "LoraConfig", tmp_path / "a", ["to_q", "conv_in"], **settings)
    found = read_lora(path, unet=model.unet, text_encoder=None)["unet"]
    for name in (QUERY, CONV):
        wanted = changed.base_model.model.get_submodule(name).get_delta_weight("default")
        a, b = (found[f"unet.{name}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close((b.flatten(1) @ a.flatten(1)).reshape(wanted.shape), wanted)
    path, _ = saved_by_peft(model.unet, "LoraConfig", tmp_path / "b", ["to_q"], use_rslora=True, **settings)
    with pytest.raises(WeightsError, match=r"sets unet.use_rslora.*Merge it into a model"):
        read_lora(path, unet=model.unet, text_encoder=None)


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
