"""The prior of a distillation: frozen, finite or an error that names the part, and read a batch at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import tiny_model
from lift_fakes import PriorOn, ball_views

import viewfold
from viewfold.errors import FitError, InputError
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Fitted, fit
from viewfold.lifting.observation import observe
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.pipeline import MultiViewPipeline, generate
from viewfold.scene.grid import GridSettings

FIT, GRID = FitSettings(steps=12), GridSettings(resolution=16, samples=16)
SETTINGS = LiftSettings(
    representation=GRID,
    fit=FIT,
    distil=DistilSettings(steps=6),
    mesh=MeshSettings(resolution=24, faces=200, texture_size=32),
    polish=PolishSettings(steps=4),
)


def fit_ball(grid: GridSettings, *, settings: FitSettings = FIT, size: int = 32) -> Fitted:
    observed, generator = observe(ball_views(size=size)), torch.Generator().manual_seed(0)
    return fit(observed, representation=grid, settings=settings, generator=generator)


# Frozen networks are frozen -------------------------------------------------------------------------------------------


def test_a_loaded_prior_is_frozen_and_passes_gradients_to_pictures_alone(tmp_path) -> None:
    tiny_model(tmp_path / "tiny")
    loaded = viewfold.load(tmp_path / "tiny", device="cpu")
    weights = [p for part in (loaded.unet, loaded.vae, loaded.text_encoder) for p in part.parameters()]
    assert weights and not any(p.requires_grad for p in weights)
    free = replace(GRID, area_weight=0.0, color_weight=0.0)
    fitted = fit_ball(free, size=16)
    before = fitted.representation.snapshot()
    distil(fitted, loaded, "a red mug", settings=DistilSettings(steps=1, photometric_weight=0.0))
    assert all(p.grad is None for p in weights)
    assert not torch.equal(fitted.representation.snapshot(), before), (
        "what the prior says reached the field through the VAE"
    )
    pictures = torch.rand(1, 3, 16, 16, requires_grad=True)
    loaded.encode(pictures).sum().backward()
    assert pictures.grad is not None and bool(pictures.grad.any())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_network_alone_computes_in_less(precision) -> None:
    seen: list[tuple[str, bool, torch.dtype]] = []

    class Recorded(PriorOn):
        def encode(self, images):
            seen.append(("encode", torch.is_autocast_enabled("cpu"), images.dtype))
            return super().encode(images)

        def predict_noise(self, x, t, condition, cameras):
            seen.append(("network", torch.is_autocast_enabled("cpu"), x.dtype))
            return super().predict_noise(x, t, condition, cameras)

    fitted = fit_ball(GRID)
    settings = DistilSettings(steps=1, precision=precision)
    distil(fitted, Recorded(), "a red ball", settings=settings, generator=torch.Generator().manual_seed(0))
    assert seen[:2] == [("encode", False, torch.float32), ("network", precision == "bfloat16", torch.float32)]
    assert fitted.representation.snapshot().dtype == torch.float32
    with pytest.raises(InputError, match="precision"):
        DistilSettings(precision="float16")


def test_what_is_loaded_to_be_trained_is_not_frozen(tmp_path) -> None:
    folder = tmp_path / "tiny"
    tiny_model(folder)
    assert all(p.requires_grad for p in viewfold.load_unet(folder).parameters())
    own = tiny_model().unet
    given = MultiViewPipeline.from_pretrained(folder, unet=own)
    assert given.unet is own and all(p.requires_grad for p in own.parameters()), "a part that is given is its owner's"


# What is not finite is an error that names where it came from ---------------------------------------------------------


def spoil(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))


def test_a_nan_vae_draws_no_black_pictures() -> None:
    model = tiny_model()
    spoil(model.vae.decoder)
    with pytest.raises(FitError, match="`vae` must decode to finite pictures"):
        generate(model, "a red mug", steps=1)


def test_a_nan_text_encoder_is_named(tmp_path) -> None:
    model = tiny_model()
    spoil(model.text_encoder)
    with pytest.raises(FitError, match="`text_encoder` must give finite states"):
        generate(model, "a red mug", steps=1)


def test_the_command_line_ends_with_a_code_and_writes_nothing(tmp_path, capsys) -> None:
    from viewfold.cli import main

    model = tiny_model()
    spoil(model.vae.decoder)
    model.save_pretrained(tmp_path / "bad")
    out = tmp_path / "out"
    assert main(["generate", "a red mug", "--model", str(tmp_path / "bad"), "--steps", "1", "--out", str(out)]) == 5
    assert "vae" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("channel", [0, 2])
def test_views_that_are_not_finite_are_refused_given_or_sampled(channel: int) -> None:
    views = ball_views()
    views.rgb[1, channel, 3, 4] = float("nan")
    for how in ({"views": views}, {"sample": lambda seed: views}):
        with pytest.raises(InputError, match="`views` must hold finite pixels"):
            lift(PriorOn(), "a red ball", settings=SETTINGS, **how)


@pytest.mark.parametrize(("broken", "says"), [("encode", "finite latents; its VAE"), ("noise", "finite noise")])
def test_a_prior_that_is_not_finite_is_named_at_the_first_step(broken: str, says: str) -> None:
    steps: list[int] = []
    with pytest.raises(FitError, match=says):
        lift(
            PriorOn(broken=broken),
            "a red ball",
            views=ball_views(),
            settings=SETTINGS,
            progress=lambda stage, step, total: steps.append(step) if stage == "distil" else None,
        )
    assert steps == [0]


def test_a_fit_that_diverges_is_noticed_though_not_at_every_step() -> None:
    """A field of NaN renders as nothing, which is finite: the area of its surface is not."""
    settings = replace(FIT, learning_rate=float("inf"))
    with pytest.raises(FitError, match="the fit must stay finite"):
        fit_ball(GRID, settings=settings)


# Prompts are read together --------------------------------------------------------------------------------------------


def test_prompts_of_one_length_are_one_call_and_read_what_they_read_alone() -> None:
    model = tiny_model()
    calls: list[tuple[int, ...]] = []
    model.text_encoder.register_forward_pre_hook(lambda _, arguments: calls.append(tuple(arguments[0].shape)))
    prompts = ["a red mug", "", "a blue car", "a red car with a blue roof", "the green house"]
    together = model.text.states(prompts)
    assert sorted(calls) == [(1, 2), (1, 9), (3, 5)]
    for prompt, states in zip(prompts, together, strict=True):
        torch.testing.assert_close(model.text.states([prompt])[0], states, atol=1e-6, rtol=0)
