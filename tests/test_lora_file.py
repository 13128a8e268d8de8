"""LoRA files of our own: what they say of themselves, that they act as what was trained, here and in diffusers."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from fakes import tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from viewfold.camera import Cameras
from viewfold.cli.model import path_and_scale, unnamed_subjects
from viewfold.errors import WeightsError
from viewfold.model.lowrank import LowRankWeights, copy_with_low_rank
from viewfold.model.weights_hash import freeze_hash, hash_base
from viewfold.weights.lora import read_lora
from viewfold.weights.lora_file import LORA_NAME, lora_path, read_record, write_lora

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed (extra `lora`)")


def trained(model, *, seed: int = 0):
    """A copy of the network whose low-rank layers have moved, and the layers."""
    network = copy_with_low_rank(model.unet, rank=3, cameras=False).eval()
    layers, generator = LowRankWeights(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for up in layers.up:
            up.copy_(torch.randn(up.shape, generator=generator))
    return network, layers


def record(model, **changes: object) -> dict[str, object]:
    told = {
        "subject": "a zorb mug",
        "class": "mug",
        "base": hash_base(model),
        "base_name": "tiny",
        "settings": {"n": 1},
    }
    return told | changes


def test_a_file_holds_the_factors_and_says_what_it_is_of(tmp_path: Path) -> None:
    model = tiny_model()
    _, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model))
    assert lora_path(tmp_path) == tmp_path / LORA_NAME
    assert read_record(tmp_path / LORA_NAME) == record(model)
    read = read_lora(tmp_path / LORA_NAME, unet=model.unet, text_encoder=model.text_encoder)["unet"]
    assert len(read) == 2 * len(layers.names)
    for name, (down, up) in layers.factors().items():
        assert torch.equal(read[f"unet.{name}.lora_A.weight"], down)
        assert torch.equal(read[f"unet.{name}.lora_B.weight"], up), "alpha is the rank"


def test_a_prompt_that_does_not_name_the_subject_is_remarked_on(tmp_path: Path) -> None:
    model = tiny_model()
    _, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model, subject="a zorb mug"))
    other = tmp_path / "of_others.safetensors"
    save_file({"unet.a.lora_A.weight": torch.zeros(1, 1)}, other)
    files = [f"{tmp_path}:0.5", str(other)]
    for names_it in ("a zorb mug", "two Zorb  mug, on a table", "a red zorb mug."):
        assert unnamed_subjects(names_it, files) == []
    for other_words in ("a mug", "a zorb", "a zorb mugger"):
        assert unnamed_subjects(other_words, files) == [
            f'`{tmp_path}` has learned "a zorb mug", which the prompt does not name.'
        ]


def test_a_number_after_a_colon_is_a_scale() -> None:
    assert path_and_scale("a.safetensors:0.5") == ("a.safetensors", 0.5)
    assert path_and_scale("a:-1") == ("a", -1.0)
    assert path_and_scale("C:a.safetensors") == ("C:a.safetensors", 1.0)
    assert path_and_scale("folder") == ("folder", 1.0)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_others_may_read_a_file_if_they_may_read_what_this_user_writes(tmp_path: Path) -> None:
    model = tiny_model()
    write_lora(tmp_path / "a.safetensors", trained(model)[1].factors(), record=record(model))
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_files_of_others_have_no_record_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "others.safetensors")
    assert read_record(tmp_path / "others.safetensors") is None
    for text in ("{", "[]", json.dumps({"subject": "a mug"}), json.dumps(record(tiny_model(), base=3)), "[" * 10**5):
        save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", metadata={"viewfold": text})
        with pytest.raises(WeightsError, match="`lora` must have a header"):
            read_record(tmp_path / "bad.safetensors")


def test_the_base_is_the_same_in_bfloat16_and_where_it_cannot_be_read_and_another_with_one_other_number() -> None:
    model, half, frozen, other = tiny_model(), tiny_model(), tiny_model(), tiny_model()
    half.unet.to(torch.bfloat16)
    freeze_hash(frozen)
    frozen.unet.conv_in.weight.data.zero_()
    with torch.no_grad():
        other.unet.conv_in.weight[0, 0, 0, 0] += 1
    assert hash_base(model) == hash_base(half) == hash_base(frozen) != hash_base(other)


@needs_peft
def test_put_on_it_acts_as_what_was_trained(tmp_path: Path) -> None:
    model = tiny_model()
    network, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model))
    inputs = model.unet.example_inputs(2, Cameras.orbit(4))
    with torch.no_grad():
        before, wanted = model.unet(*inputs), network(*inputs)
        model.load_lora_weights(tmp_path)
        assert torch.allclose(model.unet(*inputs), wanted, atol=1e-5) and not torch.allclose(before, wanted, atol=1e-2)
    assert model.loras[0]["subject"] == "a zorb mug" and model.loras[0]["file"] == LORA_NAME
    assert hash_base(model) == record(tiny_model())["base"], "the base is told without what is on it"


@needs_peft
def test_several_subjects_add_up(tmp_path: Path) -> None:
    model, merged = tiny_model(), tiny_model().unet
    for seed in (1, 2):
        _, layers = trained(model, seed=seed)
        write_lora(tmp_path / f"{seed}.safetensors", layers.factors(), record=record(model))
        with torch.no_grad():
            for name, (down, up) in layers.factors().items():
                merged.get_submodule(name).weight += up @ down
    for seed in (1, 2):
        model.load_lora_weights(tmp_path / f"{seed}.safetensors")
    inputs = merged.example_inputs(1, Cameras.orbit(4))
    with torch.no_grad():
        assert torch.allclose(model.unet(*inputs), merged(*inputs), atol=1e-4)


@needs_peft
def test_another_base_is_refused_by_name(tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    _, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model))
    with pytest.raises(WeightsError, match=r"`lora` must be put on the model that it was made for, tiny.*a zorb mug"):
        other.load_lora_weights(tmp_path)
    assert not other.loras


@needs_peft
def test_diffusers_reads_it(tmp_path: Path) -> None:
    """Its own loader, on its own network of the same layers."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    model = tiny_model()
    _, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model))
    theirs = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=32,
    )
    plain = copy.deepcopy(theirs)
    tensors, alphas, *_ = Loader.lora_state_dict(str(tmp_path), return_lora_metadata=True)
    Loader.load_lora_into_unet(tensors, network_alphas=alphas, unet=theirs, adapter_name="zorb", _pipeline=None)
    for name, (down, up) in layers.factors().items():
        layer = theirs.get_submodule(name)
        assert layer.scaling["zorb"] == 1.0
        x = torch.randn(2, down.shape[1])
        assert torch.allclose(layer(x) - plain.get_submodule(name)(x), x @ (up @ down).T, atol=1e-4)


def test_the_file_is_what_it_weighs(tmp_path: Path) -> None:
    model = tiny_model()
    _, layers = trained(model)
    write_lora(tmp_path / LORA_NAME, layers.factors(), record=record(model))
    numbers = sum(p.numel() for p in layers.parameters())
    assert (tmp_path / LORA_NAME).stat().st_size < 4 * numbers + 10_000
    with safe_open(tmp_path / LORA_NAME, framework="pt") as file:
        assert set(file.metadata()) == {"format", "viewfold"}
    assert all(name.startswith("unet.") for name in load_file(tmp_path / LORA_NAME))
