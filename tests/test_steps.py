"""One step of the sampler by hand and against diffusers; the walk belongs to the run, and not to the scheduler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UniPCMultistepScheduler
from fakes import OLD_NUMPY, SCHEDULERS, tiny_model, tiny_scheduler
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import compose, guide, rescale
from viewfold.diffusion.sampler import DDIMSampler, SchedulerSampler, draw, sampler_for
from viewfold.errors import InputError
from viewfold.model.condition import Condition
from viewfold.pipeline import MultiViewPipeline, multiview

SHAPE = (2, 3, 4, 5, 5)


def random(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def walk(scheduler: Any, *, steps: int = 10, timesteps: list[int] | None = None, eta: float = 0.0) -> Any:
    return sampler_for(scheduler, steps=steps, timesteps=timesteps, eta=eta, device="cpu")


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


# One step -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("alpha_to_one", [True, False])
def test_every_step_equals_diffusers_own(prediction: str, clip: float | None, alpha_to_one: bool) -> None:
    scheduler = tiny_scheduler(
        prediction_type=prediction,
        set_alpha_to_one=alpha_to_one,
        clip_sample=clip is not None,
        clip_sample_range=0.3,
        beta_schedule="scaled_linear",
    )
    scheduler.set_timesteps(10)
    ours = walk(scheduler)
    assert isinstance(ours, DDIMSampler) and list(ours.timesteps) == scheduler.timesteps.tolist()
    for index, t in enumerate(ours.timesteps):
        x, predicted = random(index), random(100 + index)
        theirs = scheduler.step(predicted, t, x, return_dict=False)[0]
        torch.testing.assert_close(ours.step(predicted, index, x, []), theirs, atol=1e-4, rtol=1e-4)
        assert ours.scale(x, index) is x


def test_a_step_by_hand() -> None:
    """From alpha_bar 0.36 to 0.64 with x 1 and noise 0.5: clean (1 - 0.8 x 0.5) / 0.6 = 1, so 0.8 + 0.6 x 0.5 = 1.1.

    With eta 1 the fresh noise has the variance (0.36 / 0.64) (1 - 0.36 / 0.64) = 0.246: the rest keeps 0.36 - 0.246.
    """
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.alphas_cumprod = torch.tensor([0.64, 0.36])
    x, noise, fresh = torch.ones(1, 1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 0.5), 0.24609375
    level = DDIMSampler(scheduler, [1, 0], eta=0.0)
    torch.testing.assert_close(level.step(noise, 0, x, []), torch.full_like(x, 1.1))
    torch.testing.assert_close(level.add_noise(x, noise, 0), torch.full_like(x, 0.6 + 0.8 * 0.5))
    torch.testing.assert_close(level.add_noise(x, noise, 1), torch.full_like(x, 0.8 + 0.6 * 0.5))
    drawn = draw((1, 1, 1, 1), generators(7))
    for eta in (1.0, 0.5):
        var = fresh * eta**2
        expected = 0.8 + (0.36 - var) ** 0.5 * 0.5 + var**0.5 * drawn
        torch.testing.assert_close(DDIMSampler(scheduler, [1, 0], eta=eta).step(noise, 0, x, generators(7)), expected)


def test_fresh_noise_has_the_variance_of_ddpm() -> None:
    scheduler = tiny_scheduler(prediction_type="epsilon", beta_schedule="scaled_linear")
    t = [500, 499]
    ours = walk(scheduler, timesteps=t, eta=1.0)
    x, predicted = random(0), random(1)
    steps = torch.stack([ours.step(predicted, 0, x, generators(i, i + 1000)) for i in range(300)])
    ddpm = DDPMScheduler.from_config(scheduler.config, variance_type="fixed_small", clip_sample=False)
    expected = float(ddpm._get_variance(500, torch.empty(0)))
    assert float(steps.var(0).mean()) == pytest.approx(expected, rel=0.02)
    still = walk(scheduler, timesteps=t).step(predicted, 0, x, [])
    assert float((steps.mean(0) - still).abs().max()) < 5 * (expected / 300) ** 0.5 + 1e-4


def test_the_last_step_ends_clean_or_at_the_first_trained_level() -> None:
    noise, clean = random(0), random(1)
    for alpha_to_one in (True, False):
        scheduler = tiny_scheduler(
            prediction_type="epsilon", set_alpha_to_one=alpha_to_one, beta_schedule="scaled_linear"
        )
        ours = walk(scheduler, timesteps=[300])
        end = ours.step(noise, 0, compose(clean, noise, scheduler.alphas_cumprod[300:301]), [])
        expected = clean if alpha_to_one else compose(clean, noise, scheduler.alphas_cumprod[:1])
        torch.testing.assert_close(end, expected, atol=1e-4, rtol=1e-4)


def test_noise_is_one_draw_a_generator_whoever_else_is_there() -> None:
    both = draw((3, 4), generators(1, 2))
    assert both.dtype == torch.float32 and torch.equal(both[1], draw((3, 4), generators(2))[0])
    assert float(draw((100, 100), generators(1)).std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("spacing", "offset", "levels"),
    [
        ("trailing", 0, [999, 749, 499, 249]),
        ("leading", 0, [750, 500, 250, 0]),
        ("leading", 1, [751, 501, 251, 1]),
        ("linspace", 0, [999, 666, 333, 0]),
    ],
)
def test_four_levels_by_hand(spacing: str, offset: int, levels: list[int]) -> None:
    assert list(walk(tiny_scheduler(timestep_spacing=spacing, steps_offset=offset), steps=4).timesteps) == levels


def test_an_unknown_spacing_and_numbers_at_the_bounds() -> None:
    scheduler = tiny_scheduler()
    with pytest.raises(InputError, match="trailing, leading or linspace; got 'random'"):
        walk(tiny_scheduler(timestep_spacing="random"))
    assert len(walk(scheduler, steps=1).timesteps) == 1 and len(walk(scheduler, steps=1000).timesteps) == 1000
    assert list(walk(scheduler, timesteps=[999, 0], eta=1.0).timesteps) == [999, 0]
    for bad in ([5, 5], [0, 1], [-1], [1000]):
        with pytest.raises(InputError, match="`timesteps`"):
            walk(scheduler, timesteps=bad)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="`eta`"):
            walk(scheduler, eta=eta)


# The scheduler is not the run's ---------------------------------------------------------------------------------------


def state(scheduler: Any) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in vars(scheduler).items()}


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("kind", [DDIMScheduler, *SCHEDULERS])
def test_a_run_does_not_change_the_scheduler(model: MultiViewPipeline, kind: Any) -> None:
    scheduler = kind.from_config(tiny_scheduler(beta_schedule="scaled_linear").config)
    before = state(scheduler)
    swapped = MultiViewPipeline(**{**model.components, "scheduler": scheduler})
    first = swapped("a mug", Cameras.orbit(2), steps=3, output_type="latent")
    assert swapped.scheduler is scheduler
    for name, value in state(scheduler).items():
        assert torch.equal(value, before[name]) if isinstance(value, Tensor) else value == before[name], name
    assert torch.equal(swapped("a mug", Cameras.orbit(2), steps=3, output_type="latent"), first)


@pytest.mark.filterwarnings(OLD_NUMPY)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_other_schedulers_walk_as_they_do_alone(kind: Any) -> None:
    scheduler = kind.from_config(tiny_scheduler(beta_schedule="scaled_linear").config)
    ours, alone = walk(scheduler, steps=4), copy.deepcopy(scheduler)
    assert isinstance(ours, SchedulerSampler)
    alone.set_timesteps(4, device="cpu")
    assert ours.noise_level == pytest.approx(float(alone.init_noise_sigma))
    x = y = random(0) * ours.noise_level
    random_step = {"generator": generators(1, 2)} if kind.__name__ == "EulerAncestralDiscreteScheduler" else {}
    mine = generators(1, 2)
    for index, t in enumerate(alone.timesteps):
        assert ours.timesteps[index] == t
        torch.testing.assert_close(ours.scale(x, index), alone.scale_model_input(y, t))
        clean, noise = random(50), random(51)
        torch.testing.assert_close(
            ours.add_noise(clean, noise, index), alone.add_noise(clean, noise, t.expand(2)), atol=1e-5, rtol=1e-5
        )
        x = ours.step(x.sin(), index, x, mine)
        y = alone.step(y.sin(), t, y, return_dict=False, **random_step)[0]
        torch.testing.assert_close(x, y)


def test_a_ddim_that_thresholds_is_diffusers_own_and_hears_of_eta() -> None:
    scheduler = tiny_scheduler(thresholding=True)
    ours = walk(scheduler, eta=1.0)
    assert isinstance(ours, SchedulerSampler)
    one, two = (ours.step(random(0), 0, random(1), generators(seed, 9)) for seed in (1, 2))
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    listed = walk(DDPMScheduler(), timesteps=[900, 41, 7])
    assert list(listed.timesteps) == [900, 41, 7]
    with pytest.raises(InputError, match="UniPCMultistepScheduler, which takes no list"):
        walk(UniPCMultistepScheduler(), timesteps=[9, 3])


# What the network's answer becomes ------------------------------------------------------------------------------------


def answering(model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch, without: Tensor, given: Tensor) -> None:
    """Let the network answer with two fixed predictions, in its own number type."""
    both = torch.cat([without, given])
    monkeypatch.setattr(model.unet, "forward", lambda x, *_: both[-len(x) :].to(x.dtype))


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_guidance_goes_from_without_to_with_the_prompt_and_is_rescaled_to_the_latter(
    model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    without, given = random(0) * 3, random(1) * 0.5
    answering(model, monkeypatch, without, given)
    told, cameras = Condition({"tokens": torch.zeros(4, 3, 32)}), Cameras.orbit(3)
    x = torch.zeros(2, 3, 4, 5, 5)
    expected = rescale(guide(given, without, scale=4.0), given, strength=strength)
    torch.testing.assert_close(model._predict(x, 7, told, cameras, 4.0, strength), expected)
    torch.testing.assert_close(model._predict(x, 7, told[:2], cameras, 1.0, strength), given)


def test_guidance_is_computed_in_float32_whatever_the_network_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 7.5 / 128 has more bits than bfloat16."""
    model = tiny_model()
    model.unet.to(torch.bfloat16)
    one = torch.ones(1, 2, 4, 4, 4)
    answering(model, monkeypatch, one, one * (1 + 1 / 128))
    seen: list[torch.dtype] = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, *rest: (seen.append(x.dtype), forward(x, *rest))[1])
    predicted = model._predict(one, 7, Condition({"tokens": torch.zeros(2, 3, 32)}), None, 7.5, 0.0)
    assert predicted.dtype == torch.float32 and seen == [torch.bfloat16]
    torch.testing.assert_close(predicted, one * (1 + 7.5 / 128))


def test_the_network_sees_noise_first_and_the_texts_and_cameras_of_each_half(
    model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor, Cameras]] = []

    def forward(x: Tensor, t: Tensor, told: Condition, cameras: Cameras) -> Tensor:
        seen.append((x.clone(), t, told.part("tokens"), cameras))
        return torch.zeros_like(x)

    monkeypatch.setattr(model.unet, "forward", forward)
    cameras = Cameras.orbit(3, elevation_deg=[0.0, 10.0, 20.0])
    model(["a red mug", "a car"], cameras, steps=2, seeds=[4, 9], negative_prompt=["a duck", "a robot"], guidance=3.0)
    x, t, text, told_cameras = seen[0]
    noise = draw((3, 4, 4, 4), generators(4, 9))
    torch.testing.assert_close(x, torch.cat([noise, noise]))
    assert t.tolist() == [999] * 4
    torch.testing.assert_close(text, model.text.encode(["a duck", "a robot", "a red mug", "a car"]).part("tokens"))
    assert torch.equal(told_cameras.world_from_camera, cameras.world_from_camera), "one set for all rows"
    seen.clear()
    model("a car", cameras, steps=1, guidance=1.0, negative_prompt="a duck")
    torch.testing.assert_close(seen[0][2], model.text.encode(["a car"]).part("tokens"))


def test_defaults_come_from_the_model_and_arguments_win(model: MultiViewPipeline) -> None:
    own = MultiViewPipeline(**model.components, guidance=3.0, steps=2)
    cameras = Cameras.orbit(2)
    drawn = own("a mug", cameras, output_type="latent")
    explicit = model("a mug", cameras, steps=2, guidance=3.0, seeds=0, rescale=0.0, eta=0.0, output_type="latent")
    assert torch.equal(drawn, explicit)
    assert not torch.equal(drawn, own("a mug", cameras, guidance=4.0, output_type="latent"))
    assert not torch.equal(drawn, own("a mug", cameras, steps=3, output_type="latent"))
    assert not torch.equal(drawn, own("a mug", cameras, rescale=0.7, output_type="latent"))
    assert not torch.equal(drawn, own("a mug", cameras, seeds=1, output_type="latent"))


def test_pictures_are_decoded_a_few_at_a_time_and_come_out_the_same(
    model: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = random(3, (5, 4, 4, 4))
    expected, calls = model.decode(latents), []
    decode = model.vae.decode
    monkeypatch.setattr(model.vae, "decode", lambda x, **rest: (calls.append(len(x)), decode(x, **rest))[1])
    monkeypatch.setattr(multiview, "PIXELS_AT_ONCE", 2 * 16 * 16)
    torch.testing.assert_close(model.decode(latents), expected, atol=1e-5, rtol=1e-5)
    assert calls == [2, 2, 1]
    monkeypatch.setattr(multiview, "PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(model.decode(latents), expected, atol=1e-5, rtol=1e-5)
