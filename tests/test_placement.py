"""A model in less memory: the same pictures, what is dropped is gone, and what cannot work is refused at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from fakes import tiny_model

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.cli.placement import PlacementFlags
from viewfold.device import has_native_bfloat16
from viewfold.errors import InputError, MissingExtraError, PromptError
from viewfold.model.text import TextEncoder
from viewfold.model.weights_hash import weights_hash
from viewfold.pipeline import MultiViewPipeline, generate, load, placement, prompt_cache
from viewfold.pipeline.placement import Placement, place

CAMERAS = Cameras.orbit(2)
PROMPT, NEGATIVE = "a red mug", "a blue car"
CPU = torch.device("cpu")


@pytest.fixture
def model() -> MultiViewPipeline:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(path)
    return path


def draw(model: MultiViewPipeline) -> torch.Tensor:
    return model(PROMPT, CAMERAS, negative_prompt=NEGATIVE, steps=2)


def count_reads(model: MultiViewPipeline) -> list[int]:
    """Return a list that grows by one for each prompt that the network reads, several in a call or not."""
    reads: list[int] = []
    model.text_encoder.register_forward_pre_hook(lambda _, arguments: reads.extend([1] * len(arguments[0])))
    return reads


# Prompts are read once ------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_once_until_a_weight_changes(model):
    reads = count_reads(model)
    first = model.condition([PROMPT, NEGATIVE, PROMPT]).part("tokens")
    again = model.condition([NEGATIVE, PROMPT]).part("tokens")
    assert len(reads) == 2
    assert torch.equal(first[:2], again.flip(0)) and torch.equal(first[0], first[2])
    with torch.no_grad():
        next(model.text_encoder.parameters()).mul_(2)
    assert not torch.equal(model.condition([PROMPT]).part("tokens"), first[:1]) and len(reads) == 3


def test_only_the_last_prompts_are_kept(model, monkeypatch):
    monkeypatch.setattr(prompt_cache, "MAX_PROMPTS", 2)
    reads = count_reads(model)
    assert len(model.condition(["red", "green", "blue"])) == 3
    model.condition(["green", "blue"])
    assert len(reads) == 3
    model.condition(["red"])
    assert len(reads) == 4


def test_prompts_are_kept_when_the_model_moves_and_no_more_than_fit_are_promised(model, monkeypatch):
    told = model.condition([PROMPT])
    monkeypatch.setattr(TextEncoder, "encode", lambda self, prompts: told.to("meta"))
    assert model._prompt_cache.read(model.text, [PROMPT, NEGATIVE]).device.type == "meta"
    monkeypatch.setattr(prompt_cache, "MAX_PROMPTS", 2)
    with pytest.raises(InputError, match="at most 2, which are kept; got 3"):
        model.release_text([PROMPT, NEGATIVE])
    assert model.text_encoder is not None


def test_without_the_text_network_the_same_is_drawn_and_nothing_else(model, tmp_path):
    expected, digest = draw(model), weights_hash(model)
    network = weakref.ref(model.text_encoder)
    for _ in range(2):  # the second time there is nothing to do
        model.release_text([PROMPT, NEGATIVE])
    assert network() is None
    assert torch.equal(draw(model), expected) and weights_hash(model) == digest
    with torch.no_grad():
        model.unet.conv_in.bias += 1
    assert weights_hash(model) != digest
    with pytest.raises(PromptError, match="must describe something"):
        model.text.check("?!")
    with pytest.raises(PromptError, match="read before the text network was released; got 'a house'"):
        model("a house", CAMERAS, steps=1)
    with pytest.raises(InputError, match="it was released"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# Settings -------------------------------------------------------------------------------------------------------------


def test_the_hooks_of_offloading_change_no_picture(model):
    """On a CPU they move nothing, but run: what they need of the pipeline is there."""
    expected = draw(model)
    model.enable_model_cpu_offload(device="cpu")
    assert torch.equal(draw(model), expected)


def test_a_released_text_network_is_not_kept_by_the_chain_of_offloading(model):
    expected = draw(model)
    model.enable_model_cpu_offload(device="cpu")
    draw(model)
    network = weakref.ref(model.text_encoder)
    model.release_text([PROMPT, NEGATIVE])
    assert network() is None and torch.equal(draw(model), expected)


@pytest.mark.parametrize(("offload", "hook"), [("model", "model"), ("sequential", "sequential")])
def test_offloading_is_left_to_the_hooks_of_the_pipeline(model, monkeypatch, offload, hook):
    called = []
    monkeypatch.setattr(model, f"enable_{hook}_cpu_offload", lambda device: called.append(device))
    monkeypatch.setattr(model, "to", lambda *_: pytest.fail("offloaded networks are placed by the hooks"))
    place(model, Placement(offload=offload), device=torch.device("cuda"))
    assert called == [torch.device("cuda")]


def test_layout_and_tiles_change_pictures_by_rounding_alone(model):
    expected = draw(model)
    place(model, Placement(channels_last=True, tiling=True), device=CPU)
    assert model.vae.use_tiling and model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(draw(model), expected, atol=1e-4, rtol=1e-4)


COMPILED = """
import torch
from fakes import TinyDiT
from test_placement import CPU, Placement, draw, place, tiny_model
model = tiny_model(unet=TinyDiT().eval())
expected = draw(model)
place(model, Placement(compile=True), device=CPU)
torch.testing.assert_close(draw(model), expected, atol=1e-4, rtol=1e-4)
assert model.unet._compiled_call_impl and torch._dynamo.utils.counters["frames"]["ok"]
"""


@pytest.mark.slow
def test_a_compiled_network_draws_what_it_did() -> None:
    # In a process of its own: torch cannot trace through the shape checks that this suite installs.
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "src")])}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs the extra int8")
def test_eight_bits_change_pictures_little_and_the_hash_not_at_all(model):
    expected, digest = draw(model), weights_hash(model)
    place(model, Placement(int8=True), device=CPU)
    error = (draw(model) - expected).abs().mean()
    assert 0 < error < 0.02 and weights_hash(model) == digest


def test_a_record_says_how_the_model_was_made_light(folder):
    chosen = Placement(channels_last=True)
    views = generate(load(folder, device="cpu", placement=chosen), PROMPT, cameras=CAMERAS, steps=1)
    assert views.run["placement"] == dataclasses.asdict(chosen)


# Types ----------------------------------------------------------------------------------------------------------------


def test_large_models_compute_in_half_precision_where_it_is_native_and_small_ones_in_float32(folder, monkeypatch):
    assert load(folder, device="cpu").unet.dtype == torch.float32
    monkeypatch.setattr(placement, "LARGE_BYTES", 1)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(placement, "has_native_bfloat16", lambda device, native=native: native)
        assert {part.dtype for part in networks(load(folder, device="cpu"))} == {dtype}
    assert load(folder, device="cpu", dtype=torch.float32).unet.dtype == torch.float32


def test_float16_leaves_the_vae_in_float32_and_warns_on_a_cpu(folder):
    with pytest.warns(UserWarning, match="float16 is emulated"):
        model = load(folder, device="cpu", dtype=torch.float16)
    assert [part.dtype for part in networks(model)] == [torch.float16, torch.float16, torch.float32]
    assert draw(model).isfinite().all()


def networks(model: MultiViewPipeline) -> list:
    return [model.text_encoder, model.unet, model.vae]


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_without_a_gpu_is_refused_before_anything_is_read(offload):
    with pytest.raises(InputError, match="`offload` must be none on a CPU"):
        load("no such model", device="cpu", placement=Placement(offload=offload))


def test_missing_packages_and_compilers_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="torchao; it is absent. pip install"):
        placement.check_placement(Placement(int8=True), device=CPU)
    with pytest.raises(MissingExtraError, match=r"a C\+\+ compiler"):
        placement.check_placement(Placement(compile=True), device=CPU)
    with pytest.raises(MissingExtraError, match="triton"):
        placement.check_placement(Placement(compile=True), device=torch.device("cuda"))


@pytest.mark.parametrize("other", ["int8", "compile"])
def test_layers_that_are_taken_apart_cannot_be_changed_as_well(other):
    with pytest.raises(InputError, match=f"together with {other}"):
        placement.check_placement(Placement(offload="sequential", **{other: True}), device=torch.device("cuda"))


# Command line ---------------------------------------------------------------------------------------------------------


def test_flags_become_settings_of_load(tmp_path):
    flags = PlacementFlags(dtype="bf16", offload="model", int8=True, compile=True)
    assert flags.settings() == {
        "dtype": torch.bfloat16,
        "placement": Placement(offload="model", int8=True, compile=True),
    }
    assert PlacementFlags().settings() == {"dtype": None, "placement": Placement()}


def test_the_flag_that_cannot_work_is_named(tmp_path, capsys):
    assert main(["generate", PROMPT, "--device", "cpu", "--offload", "model", "--out", str(tmp_path / "mug")]) == 2
    assert "`--offload` must be none on a CPU" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:bfloat16 is emulated")
def test_a_verb_draws_in_bfloat16_without_its_text_network(folder, tmp_path, monkeypatch):
    released = []
    monkeypatch.setattr(MultiViewPipeline, "release_text", lambda self, prompts: released.append(prompts))
    command = ["generate", PROMPT, "--model", str(folder), "--negative", NEGATIVE, "--dtype", "bf16", "--steps", "1"]
    assert main([*command, "--out", str(tmp_path / "mug")]) == 0
    assert released == [[PROMPT, NEGATIVE]]
    assert json.loads((tmp_path / "mug" / "run.json").read_text())["dtype"] == "bfloat16"


def test_without_its_text_network_a_model_still_knows_the_unconditional_text() -> None:
    model, same = tiny_model(), tiny_model()
    model.release_text(["a red mug"])
    drawn = model("a red mug", None, steps=1, guidance=2.0, output_type="latent")
    assert torch.equal(drawn, same("a red mug", None, steps=1, guidance=2.0, output_type="latent"))


@pytest.mark.parametrize(("able", "native"), [
    ({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True), ({"bf16": True}, True),
    ({"avx512_bf16": False, "avx2": True}, False), ({}, False),
])  # fmt: skip
def test_a_device_has_bfloat16_where_it_says_so(able: dict[str, bool], native: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert has_native_bfloat16("cpu") is native
    assert not has_native_bfloat16("cuda") and not has_native_bfloat16("mps"), "emulation does not count"
