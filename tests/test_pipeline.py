"""Flow 1 on tiny models: the original's runs, laws of sampling, closed forms, round trips, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    UniPCMultistepScheduler,
)
from fakes import OLD_NUMPY, SCHEDULERS, GaussianDenoiser, tiny_model, tiny_scheduler
from safetensors.torch import load_file

from viewfold.camera import Cameras
from viewfold.diffusion.sampler import SCHEDULERS as NAMED
from viewfold.diffusion.sampler import named_scheduler, sampler_for
from viewfold.errors import FitError, InputError, PromptError
from viewfold.lifting.prior import Prior
from viewfold.model.condition import Condition
from viewfold.pipeline import MultiViewPipeline
from viewfold.weights.original import unet_from_original

CAMERAS = Cameras.orbit(4)


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


# Parity ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(model, parity) -> MultiViewPipeline:
    """The original's network and its noise schedule."""
    weights = load_file(parity / "unet_small.safetensors")
    tensors = {name.removeprefix("weights."): t.float() for name, t in weights.items() if name.startswith("weights.")}
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return MultiViewPipeline(
        **{**model.components, "unet": unet_from_original(tensors, head_channels=8), "scheduler": scheduler}
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", ["cfg", "nocfg", "uneven"])
def test_sampling_equals_the_original_at_every_step(original, parity, monkeypatch, name):
    saved, run = load_file(parity / "ddim.safetensors"), json.loads((parity / "ddim.json").read_text())["runs"][name]
    tokens = {"": saved["uncond"][:1], "a prompt": saved["context"][:1]}
    assert all(torch.equal(saved[key], saved[key][:1].expand(4, -1, -1)) for key in ("uncond", "context"))
    told = {text: Condition({"tokens": states}) for text, states in tokens.items()}
    monkeypatch.setattr(MultiViewPipeline, "condition", lambda self, texts: Condition.cat([told[t] for t in texts]))
    cameras = Cameras(world_from_camera=saved["camera"].reshape(4, 4, 4), fov_deg=torch.full((4,), 40.0))
    visited = [saved["x_T"]]
    asked = {"steps": 10} if name != "uneven" else {"timesteps": run["timesteps"][::-1]}
    final = original(
        "a prompt",
        cameras,
        guidance=run["scale"],
        latents=saved["x_T"][None],
        output_type="latent",
        callback_on_step_end=lambda pipeline, index, t, tensors: visited.append(tensors["latents"][0]),
        **asked,
    )
    assert len(visited) == run["steps_run"] + 1
    torch.testing.assert_close(final[0], saved[f"{name}.final"], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(torch.stack(visited), saved[f"{name}.x_inter"], atol=1e-3, rtol=1e-5)


# Laws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_sample_depends_on_its_seed_alone_and_not_on_its_batch(model, eta):
    together = model(["a red mug", "a blue car"], CAMERAS, steps=3, seeds=[3, 8], eta=eta)
    alone = model("a blue car", CAMERAS, steps=3, seeds=8, eta=eta)
    other = model("a blue car", CAMERAS, steps=3, seeds=9, eta=eta)
    assert together.shape == (2, 4, 3, 16, 16)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    assert (alone - other).abs().max() > 1e-2


def test_one_seed_for_several_prompts_means_consecutive_seeds(model):
    first = model(["a mug", "a car"], CAMERAS, steps=2, seeds=5, output_type="latent")
    torch.testing.assert_close(first, model(["a mug", "a car"], CAMERAS, steps=2, seeds=[5, 6], output_type="latent"))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 3, 7, 30, 36, 107, 250, 333, 501, 999, 1000])
def test_steps_are_exactly_as_many_as_asked_for(spacing, steps):
    """The original runs 31 for 30 and fails at 3, 9, 36, 101 to 111, 251 to 333 and from 501 (REFERENCE 1.1)."""
    scheduler = tiny_scheduler(timestep_spacing=spacing, steps_offset=1)
    levels = sampler_for(scheduler, steps=steps, timesteps=None, eta=0.0, device="cpu").timesteps
    assert len(levels) == steps and 0 <= min(levels) and max(levels) <= 999
    assert all(later < earlier for earlier, later in zip(levels, levels[1:], strict=False))
    if spacing != "leading" and steps > 1:
        assert levels[0] == 999


@pytest.mark.parametrize("steps", [10, 25])
def test_where_diffusers_steps_divide_evenly_both_walks_agree(steps):
    scheduler = tiny_scheduler(set_alpha_to_one=False)
    ours = sampler_for(scheduler, steps=steps, timesteps=None, eta=0.0, device="cpu")
    scheduler.set_timesteps(steps)
    x = y = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert list(ours.timesteps) == scheduler.timesteps.tolist()
    for index, t in enumerate(scheduler.timesteps):
        x, y = ours.step(x.sin(), index, x, []), scheduler.step(y.sin(), int(t), y, return_dict=False)[0]
    torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_a_network_sees_exactly_the_listed_time_steps(model, monkeypatch):
    seen = []
    unet = model.unet

    def forward(latents, timesteps, text, cameras=None):
        seen.append((tuple(timesteps.tolist()), len(latents)))
        return torch.zeros_like(latents)

    monkeypatch.setattr(unet, "forward", forward)
    model("a mug", CAMERAS, timesteps=[900, 41, 7])
    assert seen == [((900, 900), 2), ((41, 41), 2), ((7, 7), 2)]
    seen.clear()
    model("a mug", CAMERAS, timesteps=[900], guidance=1.0)
    assert seen == [((900,), 1)]


def test_guidance_one_ignores_the_negative_prompt_and_others_heed_it(model):
    def sample(negative: str, guidance: float) -> torch.Tensor:
        return model(
            "a mug", CAMERAS, steps=2, negative_prompt=negative, guidance=guidance, rescale=0.5, output_type="latent"
        )

    assert torch.equal(sample("a red car", 1.0), sample("", 1.0))
    assert (sample("a red car", 5.0) - sample("", 5.0)).abs().max() > 1e-5


def test_permuting_cameras_and_noise_permutes_the_views(model):
    noise, order = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1)), [2, 0, 3, 1]
    straight = model("a mug", CAMERAS, steps=2, latents=noise)
    permuted = model("a mug", CAMERAS[order], steps=2, latents=noise[:, order])
    torch.testing.assert_close(permuted, straight[:, order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_views", [1, 2, 7])
def test_any_number_of_views_can_be_asked_for(model, n_views):
    assert model("a mug", Cameras.orbit(n_views), steps=1).shape == (1, n_views, 3, 16, 16)


def test_without_cameras_the_model_draws_one_plain_picture(model):
    assert model(["a mug", "a car"], None, steps=1).shape == (2, 1, 3, 16, 16)


def test_the_callback_may_replace_the_latents(model):
    blank = torch.full((1, 4, 4, 4, 4), 0.25)
    result = model("a mug", CAMERAS, steps=3, callback_on_step_end=lambda *_: {"latents": blank}, output_type="latent")
    assert torch.equal(result, blank)


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gaussian(model) -> MultiViewPipeline:
    scheduler = tiny_scheduler(prediction_type="epsilon")
    return MultiViewPipeline(**{**model.components, "unet": GaussianDenoiser(), "scheduler": scheduler})


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_exact_denoiser_of_a_gaussian_samples_that_gaussian(gaussian, eta):
    """Mean 1.5, deviation 0.5, from 8 x 4 x 4 x 16 x 16 numbers: the error of the mean is 0.003."""
    x = gaussian(["a mug"] * 8, CAMERAS, steps=100, guidance=1.0, eta=eta, output_type="latent")
    assert x.mean().item() == pytest.approx(1.5, abs=0.015)
    assert x.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize(
    ("name", "error_at_20", "error_at_80"),
    [("ddim", 0.04, 0.011), ("euler", 0.04, 0.011), ("dpm", 0.002, 0.0008), ("unipc", 0.002, 0.0004)],
)
def test_named_schedulers_reach_the_closed_form(gaussian, name, error_at_20, error_at_80):
    """From noise z a deterministic walk ends at a + s z, and a and s are the mean and deviation of what it samples.

    Both are known, 1.5 and 0.5, without the error of a sample; the errors of the deviation are those of the orders of
    the methods: the first for DDIM and Euler, which are the same walk, the second for the others.
    """
    assert name in NAMED
    scheduler = named_scheduler(name, like=gaussian.scheduler)
    swapped = MultiViewPipeline(**{**gaussian.components, "scheduler": scheduler})
    z = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 4, 1, 1)

    def moments(steps: int) -> tuple[float, float]:
        ends = swapped("a mug", CAMERAS[:2], steps=steps, guidance=1.0, latents=z, output_type="latent")[0, :, 0, 0, 0]
        return ends.mean().item(), (ends[0] - ends[1]).item() / 2

    for steps, error in ((20, error_at_20), (80, error_at_80)):
        mean, deviation = moments(steps)
        assert mean == pytest.approx(1.5, abs=0.002) and deviation == pytest.approx(0.5, abs=error)


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_other_schedulers_sample_the_same_gaussian(gaussian, kind):
    gaussian.scheduler = kind.from_config(gaussian.scheduler.config)
    x = gaussian(["a mug"] * 4, CAMERAS, steps=40, guidance=1.0, output_type="latent")
    assert x.mean().item() == pytest.approx(1.5, abs=0.05)
    assert x.std().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_other_schedulers_keep_samples_apart(model, kind):
    scheduler = kind.from_config(tiny_scheduler(beta_schedule="scaled_linear").config)
    swapped = MultiViewPipeline(**{**model.components, "scheduler": scheduler})
    together = swapped(["a red mug", "a blue car"], CAMERAS, steps=3, seeds=[3, 8])
    torch.testing.assert_close(together[1:], swapped("a blue car", CAMERAS, steps=3, seeds=8), atol=1e-4, rtol=1e-4)


# The prior ------------------------------------------------------------------------------------------------------------


def test_the_pipeline_is_a_prior(model):
    assert isinstance(model, Prior) and model.image_size == 16
    assert model.alphas_cumprod.shape == (1000,) and len(model.condition(["", "a mug", ""])) == 3


def test_latents_are_shifted_and_scaled_and_pictures_come_back_in_range(model):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    raw = model.vae.encode(images * 2 - 1).latent_dist.mean
    latents = model.encode(images)
    torch.testing.assert_close(latents, (raw - 0.1) * 0.5)
    pictures = model.decode(latents)
    torch.testing.assert_close(pictures, (model.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_encoding_passes_gradients_and_samples_the_posterior_on_request(model):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model.encode(images).square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    samples = [model.encode(images, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


def test_the_noise_of_a_velocity_network_is_converted(model):
    x, t = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    told = model.condition(["a mug"])
    with torch.no_grad():
        noise, v = model.predict_noise(x, t, told, CAMERAS), model.unet(x, t, told, CAMERAS)
    alpha_bar = model.alphas_cumprod[300]
    torch.testing.assert_close(noise, alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * x)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "between 1 and 1000; got 0"),
        ({"steps": 1001}, "got 1001"),
        ({"timesteps": []}, "one or more"),
        ({"timesteps": [10, 20]}, "must fall"),
        ({"timesteps": [1000]}, "0 to 999"),
        ({"eta": 2.0}, "`eta`"),
        ({"guidance": float("nan")}, "`guidance`"),
        ({"rescale": 1.5}, "`rescale`"),
        ({"seeds": [1, 2]}, "`seeds`"),
        ({"seeds": -1}, "`seeds`"),
        ({"negative_prompt": ["a", "b"]}, "`negative_prompt`"),
        ({"latents": torch.zeros(1, 3, 4, 4, 4)}, "`latents`"),
    ],
)
def test_arguments_out_of_range_are_named(model, arguments, message):
    with pytest.raises(InputError, match=message):
        model("a mug", CAMERAS, **arguments)


@pytest.mark.parametrize("prompt", ["", "   ", "?!", ["a mug", ""]])
def test_prompts_that_say_nothing_are_refused(model, prompt):
    with pytest.raises(PromptError, match="must describe something"):
        model(prompt, CAMERAS)


def test_too_many_views_are_refused(model):
    with pytest.raises(InputError, match="1 to 256; got 260"):
        model("a mug", Cameras.cat([Cameras.orbit(130), Cameras.orbit(130)]))


def test_a_network_that_returns_nan_is_reported_and_not_drawn(model, monkeypatch):
    monkeypatch.setattr(model.unet, "forward", lambda x, *_: x * float("nan"))
    with pytest.raises(FitError, match="NaN or infinity at step 0"):
        model("a mug", CAMERAS, steps=5)


def test_an_unknown_name_of_a_scheduler_lists_the_known_ones(model):
    with pytest.raises(InputError, match="ddim, dpm, euler, unipc; got 'heun'"):
        named_scheduler("heun", like=model.scheduler)


def test_a_scheduler_without_lists_says_so(model):
    swapped = {**model.components, "scheduler": UniPCMultistepScheduler.from_config(tiny_scheduler().config)}
    with pytest.raises(InputError, match="UniPCMultistepScheduler, which takes no list"):
        MultiViewPipeline(**swapped)("a mug", CAMERAS, timesteps=[9, 3])
