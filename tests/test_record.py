"""What `generate` asks of a model, and the record that it keeps: every setting, the machine, the doubts."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch
from fakes import tiny_model

import viewfold
from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.model.defaults import GRADIO, PORT, T2I, TOYBOX, Defaults, released_defaults
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21
from viewfold.origin.hook import Origin
from viewfold.pipeline import MultiViewPipeline, generate, load
from viewfold.pipeline.generation import orbit
from viewfold.views import Views


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return tiny_model().components


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Draw grey, note what the model was asked; the first picture tells the seed."""
    calls: list[dict[str, Any]] = []

    def call(self: MultiViewPipeline, prompt: str, cameras: Cameras, **settings: Any) -> torch.Tensor:
        calls.append({"prompt": prompt, "cameras": cameras, **settings})
        for index in range(2):
            settings["callback_on_step_end"](self, index, None, {})
        return torch.full((1, len(cameras), 3, 16, 16), 0.25)

    monkeypatch.setattr(MultiViewPipeline, "__call__", call)
    return calls


def test_what_a_call_leaves_out_is_the_models_own(parts: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    own = {
        "guidance": 3.0,
        "steps": 2,
        "elevation_deg": 40.0,
        "azimuth_deg": 90.0,
        "suffix": ", 3d",
        "negative": "a car",
    }
    views = generate(MultiViewPipeline(**parts, **own), "a red mug")
    (call,) = asked
    assert call["prompt"] == "a red mug, 3d" and call["negative_prompt"] == "a car"
    assert (call["steps"], call["guidance"], call["rescale"], call["seeds"], call["eta"]) == (2, 3.0, 0.0, 0, 0.0)
    assert call["timesteps"] is None and call["anchors"] is None
    torch.testing.assert_close(call["cameras"].code(), Cameras.orbit(4, elevation_deg=40, azimuth_deg=90).code())
    assert views.prompt == "a red mug" and torch.equal(views.cameras.code(), call["cameras"].code())
    assert views.run["settings"] == {
        "given": None,
        "seed": 0,
        "steps": 2,
        "timesteps": None,
        "guidance": 3.0,
        "rescale": 0.0,
        "negative": "a car",
        "suffix": ", 3d",
    }


def test_what_a_call_says_wins(parts: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    model = MultiViewPipeline(**parts, guidance=3.0, steps=9, suffix=", 3d", negative="a car")
    cameras, done = Cameras.orbit(2), []
    views = generate(
        model,
        "a red mug",
        cameras=cameras,
        seed=5,
        timesteps=[900, 7],
        guidance=0.0,
        rescale=0.5,
        negative="",
        suffix="",
        progress=lambda *at: done.append(at),
    )
    (call,) = asked
    assert (call["prompt"], call["negative_prompt"], call["guidance"], call["rescale"]) == ("a red mug", "", 0.0, 0.5)
    assert call["seeds"] == 5 and call["cameras"] is cameras and call["timesteps"] == [900, 7]
    assert done == [(1, 2), (2, 2)]
    settings = views.run["settings"]
    assert (settings["steps"], settings["timesteps"], settings["seed"]) == (2, [900, 7], 5)
    assert (settings["negative"], settings["suffix"], settings["guidance"], settings["rescale"]) == ("", "", 0.0, 0.5)


def test_around_given_views_noise_is_drawn_anew(parts: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    given = Views(rgb=torch.rand(1, 3, 16, 16), cameras=Cameras.orbit(4)[2])
    views = generate(MultiViewPipeline(**parts), "a red mug", cameras=Cameras.orbit(4), given=given)
    assert asked[0]["eta"] == 1.0 and asked[0]["anchors"].places == (2,)
    assert views.run["settings"]["given"] == [2] and views.run["provenance"]["given"] == [2]


def test_the_record_tells_machine_versions_and_weights(parts: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    model = MultiViewPipeline(**parts)
    run = generate(model, "a red mug").run
    assert (run["device"], run["dtype"], run["scheduler"]) == ("cpu", "float32", "DDIMScheduler")
    assert run["versions"]["python"] == platform.python_version() and run["versions"]["torch"] == torch.__version__
    assert run["versions"]["viewfold"] == viewfold.__version__
    assert set(run["versions"]) == {"python", "torch", "diffusers", "transformers", "viewfold"}
    assert 50 < run["peak_memory_mib"] < 100_000 and 0 <= run["seconds"] < 60
    assert run["provenance"]["weights_sha256"] == run["weights_sha256"] and "lora" not in run
    assert run["placement"] == {
        "offload": "none",
        "int8": False,
        "compile": False,
        "channels_last": False,
        "tiling": False,
    }


def test_doubts_about_both_prompts_are_told(parts: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    model = MultiViewPipeline(**parts)
    long = " ".join(["red"] * 20)
    assert generate(model, "a red mug", negative="a car").run["warnings"] == []
    (warning,) = generate(model, long).run["warnings"]
    assert "longer than the 10 tokens" in warning
    (warning,) = generate(model, "a red mug", negative=long).run["warnings"]
    assert warning.startswith("negative prompt: the prompt is longer")
    assert generate(model, "a red mug", negative="?!").run["warnings"] == [
        "the negative prompt says nothing to the model"
    ]
    assert generate(model, "a red mug", negative="  ").run["warnings"] == []


@pytest.mark.parametrize(("size", "mark", "asked_for"), [(47, False, None), (48, True, None), (47, True, True)])
def test_small_pictures_are_marked_only_if_asked(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, size: int, mark: bool, asked_for: bool | None
) -> None:
    grey = torch.full((1, 4, 3, size, size), 0.5)
    monkeypatch.setattr(MultiViewPipeline, "__call__", lambda *_, **__: grey)
    model = MultiViewPipeline(**parts, watermark=True)
    if asked_for and size < 48:
        with pytest.raises(InputError):
            generate(model, "a red mug", origin=Origin(watermark=asked_for))
        return
    views = generate(model, "a red mug", origin=Origin(watermark=asked_for))
    assert (not torch.equal(views.rgb, grey[0])) == mark
    assert torch.equal(generate(model, "a red mug", origin=Origin(watermark=False)).rgb, grey[0])


def test_a_model_knows_its_name_and_the_default_cameras_are_four(tmp_path: Any) -> None:
    tiny_model(tmp_path / "my model")
    model = load(tmp_path / "my model", device="cpu")
    assert generate(model, "a red mug", steps=1).run["provenance"]["model"] == "my model"
    assert len(orbit(Defaults())) == 4 and len(orbit(Defaults(), n_views=7)) == 7


@pytest.mark.parametrize("device", ["cuda:99", "nothing", "cuda"])
def test_a_device_that_is_not_there_is_refused_before_reading(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:99")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=f"`device` must be .*got '{device}'"):
        load("no such model", device=device)


def test_the_best_device_is_taken_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.device import find_device

    for cuda, mps, best in ((2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert find_device(None).type == best
        assert find_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1").index == 1 and find_device("cuda").type == "cuda"
    with pytest.raises(InputError):
        find_device("cuda:2")


# What each model's own script does -----------------------------------------------------------------------------------


def test_the_settings_of_known_models_are_those_of_their_scripts() -> None:
    """Sources stand beside each in model/defaults.py."""
    told = [
        (d.guidance, d.steps, d.elevation_deg, d.azimuth_deg, d.suffix, d.negative, d.watermark)
        for d in (Defaults(), TOYBOX, T2I, GRADIO, PORT)
    ]
    assert told == [
        (7.5, 30, 15.0, 0.0, "", "", False),
        (2.0, 8, 15.0, 0.0, "", "", False),
        (10.0, 50, 15.0, 90.0, ", 3d asset", "", True),
        (7.5, 25, 15.0, 0.0, ", 3d asset", "", True),
        (7.0, 50, 0.0, 0.0, "", "", True),
    ]
    assert released_defaults(MVDREAM_SD21) == released_defaults(MVDREAM_SD15) == T2I


def test_a_suffix_is_put_behind_a_prompt_once() -> None:
    assert T2I.worded("a mug") == "a mug, 3d asset"
    assert T2I.worded("a mug, 3d asset ") == "a mug, 3d asset "
    assert T2I.worded("a mug", "") == "a mug" and T2I.worded("a mug", " x") == "a mug x"
    assert Defaults().worded("a mug") == "a mug"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("guidance", 0, 1e6), ("steps", 1, 10_000), ("elevation_deg", -90, 90), ("azimuth_deg", -1e6, 1e6)],
)
def test_settings_are_held_in_their_ranges(name: str, low: float, high: float) -> None:
    kind = int if name == "steps" else float
    for good in (low, high):
        assert getattr(Defaults(**{name: kind(good)}), name) == good
    for bad in (low - 1, high + 1):
        with pytest.raises(InputError, match=f"`{name}` must be a finite number between"):
            Defaults(**{name: kind(bad)})
    assert len(Defaults(suffix="x" * 1000).suffix) == 1000
    for text in ("suffix", "negative"):
        with pytest.raises(InputError, match=f"`{text}` must have at most 1000"):
            Defaults(**{text: "x" * 1001})
