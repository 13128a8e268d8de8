"""LoRA files that are something else: each kind is refused by its name, and each misfit says what it is."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from safetensors.torch import save_file
from torch import Tensor, nn

from viewfold.errors import WeightsError
from viewfold.weights.lora import read_lora

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed (extra `lora`)")

QUERY, CONV, RANK = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "conv_in", 2


@pytest.fixture(scope="module")
def model():
    return tiny_model()


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
    import peft  # type: ignore[import-not-found]

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
