"""Training the network on shards: what it is told, what it is held to, and what is refused before the first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import tiny_model, tiny_unet
from safetensors.torch import load_file
from tiny_shards import SHAPE, azimuth_of, write_shards
from tiny_training import LOOP, SETTINGS, Recorder, recorder, train
from torch import Tensor

from viewfold.data.batches import LatentSet
from viewfold.diffusion.guidance import decompose
from viewfold.model.condition import Condition
from viewfold.training import diffusion


def texts(*prompts: str) -> Tensor:
    return tiny_model().text.encode(prompts).part("tokens").half().float()


@pytest.mark.slow
def test_objects_go_in_with_their_cameras_and_pictures_without(tmp_path: Path) -> None:
    network = recorder()
    train(tmp_path, unet=network)
    posed, flat = network.calls[0], network.calls[1]
    assert posed["latents"].shape == (4, 4, *SHAPE) and len(posed["cameras"]) == 4 * 4
    assert flat["latents"].shape == (4, 1, *SHAPE) and flat["cameras"] is None
    assert len(network.calls) == 4 and posed["t"].shape == (4,) and len(set(posed["t"].tolist())) > 1


def test_latents_stay_beside_their_cameras(tmp_path: Path) -> None:
    latents = LatentSet(write_shards(tmp_path, orbits=2, views=8), shape=SHAPE, views=4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        batch = latents.draw(5, generator, views=4)
        assert batch.cameras is not None
        azimuth = azimuth_of(batch.cameras, 5)
        assert torch.allclose(batch.latents[:, :, 0, 0, 0], azimuth, atol=1e-3)
        steps = (azimuth.diff(dim=1) * 360).round() % 360
        assert bool((steps == 90).all()), "four views a quarter apart, in order"
        height = batch.cameras.position[:, 2].unflatten(0, (5, 4))
        assert torch.allclose(height, height[:, :1].expand_as(height), atol=1e-5), "all on one circle"


@pytest.mark.slow
def test_every_caption_orbit_and_start_is_drawn(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, samples=1, orbits=2, views=8, caption=("one", "two", "three"), each=3)
    latents = LatentSet(shards, shape=SHAPE, views=4)
    batches = [latents.draw(1, torch.Generator().manual_seed(seed), views=4) for seed in range(200)]
    assert {batch.captions[0] for batch in batches} == {"one", "two", "three"}
    assert all(batch.cameras is not None for batch in batches)
    firsts = {round(float(azimuth_of(batch.cameras, 1)[0, 0]) * 360) for batch in batches}  # type: ignore[arg-type]
    assert firsts == {0, 45, 3, 48}, "two starts on each of two circles; the rest of a start is its turns"


@pytest.mark.slow
def test_the_text_is_the_captions_and_a_share_of_it_is_dropped(tmp_path: Path) -> None:
    network = recorder()
    settings = replace(SETTINGS, batch=8, loop=replace(LOOP, steps=20),
                       objective=replace(SETTINGS.objective, drop_text=0.25))  # fmt: skip
    train(tmp_path, settings, network)
    mug, car, nothing = texts("a red mug", "a blue car", "")
    for calls, caption in ((network.calls[::2], mug), (network.calls[1::2], car)):
        rows = torch.cat([call["text"] for call in calls])
        said = (rows - caption).abs().amax((1, 2)) < 1e-4
        dropped = (rows - nothing).abs().amax((1, 2)) < 1e-4
        assert bool((said ^ dropped).all()) and 0.15 < dropped.float().mean() < 0.36


@pytest.mark.slow
def test_captions_are_read_as_sampling_reads_them_not_in_half_precision(tmp_path: Path) -> None:
    network = recorder()
    train(tmp_path, replace(SETTINGS, loop=replace(LOOP, precision="bf16")), network)
    rows = network.calls[0]["text"]
    exact = texts("a red mug", "")
    gap = (rows[:, None] - exact[None]).abs().amax((2, 3)).amin(dim=1)
    assert gap.max() < 1e-4  # bfloat16 would be off by 1e-2


def test_a_caption_is_read_once_new_ones_together_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = tiny_model().text, []
    original = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, prompts: read.append(prompts) or original(self, prompts))
    monkeypatch.setattr(diffusion, "CAPTIONS_KEPT", 2)
    texts = diffusion.TextCache(encoder)
    prompts = ["a red mug", "a blue car", "a red mug"]
    states = texts.read(prompts).part("tokens")
    assert torch.equal(states[0], states[2]) and states.dtype == torch.float32
    assert torch.allclose(states, original(encoder, prompts).part("tokens"), atol=1e-3)
    assert torch.equal(texts.read(["a blue car"]).part("tokens")[0], states[1]) and read == [
        ["a red mug", "a blue car"]
    ]
    texts.read(["a duck"])
    texts.read(["a blue car", "a red mug"])
    assert read[1:] == [["a duck"], ["a red mug"]]


def test_the_text_network_of_a_reader_may_be_any_module() -> None:
    """`PromptReader` promises a torch module, and not that it says where it is."""
    reader: Any = SimpleNamespace(
        network=torch.nn.Linear(1, 1),
        encode=lambda prompts: Condition({"length": torch.tensor([[float(len(prompt))] for prompt in prompts])}),
    )
    assert diffusion.TextCache(reader).read(["ab", "a"]).part("length").tolist() == [[2.0], [1.0]]


@pytest.mark.slow
def test_the_per_view_baseline_sees_one_view_at_a_time(tmp_path: Path) -> None:
    network = recorder()
    train(tmp_path, replace(SETTINGS, fold=False), network)
    posed = network.calls[0]
    assert posed["latents"].shape == (16, 1, *SHAPE) and len(posed["cameras"]) == 16
    azimuth = (azimuth_of(posed["cameras"], 4).diff(dim=1) * 360).round() % 360
    assert bool((azimuth == 90).all()), "the four views of an object come one after the other"
    mug = texts("a red mug")[0]
    assert posed["text"].shape[0] == 16 and bool(((posed["text"] - mug).abs().amax((1, 2)) < 1e-4).any())


@pytest.mark.slow
def test_each_view_of_the_baseline_keeps_the_text_of_its_object(tmp_path: Path) -> None:
    said = ("a red mug", "a blue car", "a green chair")
    network, objects = recorder(), write_shards(tmp_path / "objects", caption=said)
    settings = replace(SETTINGS, fold=False, batch=6, objective=replace(SETTINGS.objective, drop_text=0.0))
    train(tmp_path, settings, network, objects=objects)
    posed, known = network.calls[0], texts(*said)
    which = (posed["text"][:, None] - known[None]).abs().amax((2, 3)).argmin(dim=1).reshape(6, 4)
    assert bool((which == which[:, :1]).all()) and len(set(which[:, 0].tolist())) > 1
    first = (azimuth_of(posed["cameras"], 6)[:, 0] * 360).round() % 45  # 7 degrees a sample
    assert [round(float(turn) / 7) % 3 for turn in first] == which[:, 0].tolist(), "and the cameras of that object"


@pytest.mark.slow
def test_the_two_losses_are_mixed_by_their_samples(tmp_path: Path) -> None:
    settings = replace(SETTINGS, batch=4, objective=replace(SETTINGS.objective, share_2d=0.2))  # 4 objects, 1 picture
    train(tmp_path, settings)
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert abs(entry["posed"] - entry["flat"]) > 1e-4, "or their shares could not be told apart"
    mixed = 0.8 * entry["posed"] + 0.2 * entry["flat"]
    assert entry["loss"] == pytest.approx(mixed, abs=0.01 * abs(entry["posed"] - entry["flat"]))


@pytest.mark.slow
def test_the_result_is_the_averages_of_the_checkpoint_in_the_network_that_came_in(tmp_path: Path) -> None:
    network = tiny_unet()
    trained = train(tmp_path, unet=network)
    (file,) = (tmp_path / "run" / "checkpoint-00000002").glob("*.safetensors")
    stored = load_file(file)
    assert trained.network is network
    assert all(torch.equal(value, stored[f"ema.{name}"]) for name, value in network.state_dict().items())
    assert any(not torch.equal(stored[f"ema.{n}"], stored[f"network.{n}"]) for n in network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_of_a_network_with_attention_is_exact(optimizer: str, tmp_path: Path) -> None:
    """Counting the operations takes attention apart, which rounds otherwise; muon makes much of little."""
    settings = replace(SETTINGS, loop=replace(SETTINGS.loop, optimizer=optimizer, steps=3))
    start = tiny_unet().state_dict()

    def run(out: Path, steps: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        network = tiny_unet()
        network.load_state_dict(start)
        trained = train(out, replace(settings, loop=replace(settings.loop, steps=steps)), network)
        return {n: v.clone() for n, v in trained.network.state_dict().items()}, trained.report

    whole, report = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 1)
    resumed, later = run(tmp_path / "parts", 3)
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    assert later["flops_a_step"] == report["flops_a_step"] > 0


@pytest.mark.slow
def test_training_makes_the_held_out_error_smaller(tmp_path: Path) -> None:
    held_out = write_shards(tmp_path / "held-out", samples=8)
    loop = replace(LOOP, steps=60, check_steps=20, lr=3e-3, ema=0.5)
    settings = replace(SETTINGS, batch=6, loop=loop, objective=replace(SETTINGS.objective, share_2d=0.0))
    train(tmp_path, settings, pictures=None, held_out=held_out)
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    errors = [entry["held_out"] for entry in lines if "held_out" in entry]
    assert len(errors) == 3 and errors[2] < errors[0] - 0.01


@pytest.mark.slow
def test_the_held_out_error_is_that_of_the_same_noise_and_the_whole_text_at_each_check(tmp_path: Path) -> None:
    network = recorder()
    loop = replace(LOOP, steps=3, check_steps=1, lr=1e-12)
    settings = replace(SETTINGS, loop=loop, objective=replace(SETTINGS.objective, drop_text=1.0))
    train(tmp_path, settings, network, held_out=write_shards(tmp_path / "held-out"))
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    errors = [entry["held_out"] for entry in lines if "held_out" in entry]
    assert len(errors) == 3 and errors == pytest.approx([errors[0]] * 3, abs=1e-6)
    looked = [call for call in network.calls if not call["training"]]
    assert len(looked) == 3 * 2 and len(network.calls) == 3 * (2 + 2), "six objects, four at once"
    (mug,) = texts("a red mug")
    assert all(bool(((call["text"] - mug).abs().amax((1, 2)) < 1e-4).all()) for call in looked)


@pytest.mark.slow
def test_sheets_are_drawn_with_the_averages(tmp_path: Path) -> None:
    network, worn = tiny_unet(), []

    def sheets() -> dict[str, Tensor]:
        worn.append(network.conv_in.weight.detach().clone())
        return {"mug": torch.zeros(3, 4, 4)}

    train(tmp_path, unet=network, sheets=sheets)
    assert torch.equal(worn[-1], network.conv_in.weight)
    assert (tmp_path / "run" / "samples" / "00000002-mug.png").is_file()


@pytest.mark.slow
def test_frozen_networks_come_back_to_life(tmp_path: Path) -> None:
    network = tiny_unet()
    network.requires_grad_(False)
    before = network.conv_in.weight.detach().clone()
    train(tmp_path, unet=network)
    assert not torch.equal(before, network.conv_in.weight)


@pytest.mark.slow
def test_a_perfect_network_has_nothing_to_learn(tmp_path: Path) -> None:
    """Latents that are all zero: the velocity is sqrt(alpha_bar) noise, and the noise is in plain sight."""
    model = tiny_model()

    class Oracle(Recorder):
        def forward(self, latents: Tensor, timesteps: Tensor, text: Condition, cameras: Any = None) -> Tensor:
            alpha_bar = model.alphas_cumprod[timesteps][:, None, None, None, None]
            noise = latents / (1 - alpha_bar).sqrt()
            assert decompose(alpha_bar.sqrt() * noise, latents, alpha_bar.flatten(), prediction="v_prediction")
            return alpha_bar.sqrt() * noise + 0 * self.conv_in.weight.sum()

    network: Any = Oracle.from_config(tiny_unet().config)
    zeros = {f"asset{n}": np.zeros((8, *SHAPE), np.float16) for n in range(6)}
    objects = write_shards(tmp_path / "objects", latents=zeros)
    settings = replace(SETTINGS, objective=replace(SETTINGS.objective, share_2d=0.0))
    train(tmp_path, settings, network, objects=objects, pictures=None)
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] < 1e-9


@pytest.mark.slow
def test_objects_and_pictures_count_as_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.training import diffusion

    told, original = {}, diffusion.fit
    monkeypatch.setattr(diffusion, "fit", lambda *args, **given: told.update(given) or original(*args, **given))
    train(tmp_path, replace(SETTINGS, batch=7, objective=replace(SETTINGS.objective, share_2d=0.3)))
    assert told["samples"] == 7 + 3
