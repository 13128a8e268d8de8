"""Flow 1 on tiny models: the original's runs, laws of sampling, closed forms, round trips, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from fakes import GaussianDenoiser, TinyTransformer, tiny_model, tiny_scheduler
from safetensors.torch import load_file

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, PromptError, WeightsError
from viewfold.image import Views
from viewfold.lift.prior import Prior
from viewfold.model.weights import build_unet
from viewfold.pipeline import MultiViewPipeline, generate, generate_batch, load
from viewfold.pipeline.batch import folder_name, read_prompts
from viewfold.pipeline.generation import weights_hash
from viewfold.pipeline.sampler import sampler_for

CAMERAS = Cameras.orbit(4)
OLD_NUMPY = "ignore:__array__ implementation:DeprecationWarning"
"""diffusers' schedulers make NumPy arrays of tensors in a way that NumPy 2 will stop supporting."""

SCHEDULERS = [
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
]


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(path)
    return path


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
        **{**model.components, "unet": build_unet(tensors, head_channels=8), "scheduler": scheduler}
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", ["cfg", "nocfg", "uneven"])
def test_sampling_equals_the_original_at_every_step(original, parity, monkeypatch, name):
    saved, run = load_file(parity / "ddim.safetensors"), json.loads((parity / "ddim.json").read_text())["runs"][name]
    tokens = {"": saved["uncond"][:1], "a prompt": saved["context"][:1]}
    assert all(torch.equal(saved[key], saved[key][:1].expand(4, -1, -1)) for key in ("uncond", "context"))
    monkeypatch.setattr(MultiViewPipeline, "embed", lambda self, texts: torch.cat([tokens[text] for text in texts]))
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


def test_a_run_does_not_change_the_scheduler(model):
    before = model.scheduler.timesteps.clone()
    model("a mug", CAMERAS, steps=3)
    assert torch.equal(model.scheduler.timesteps, before) and model.scheduler.num_inference_steps is None


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
    assert model.alphas_cumprod.shape == (1000,) and model.embed(["", "a mug", ""]).shape[0] == 3


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
    text, codes = model.embed(["a mug"]), CAMERAS.code()[None]
    with torch.no_grad():
        noise, v = model.predict_noise(x, t, text, codes), model.unet(x, t, text, codes)
    alpha_bar = model.alphas_cumprod[300]
    torch.testing.assert_close(noise, alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * x)


def test_another_kind_of_network_goes_through_unchanged(tmp_path):
    pipeline = tiny_model(tmp_path / "transformer", unet=TinyTransformer().eval())
    pictures = pipeline(["a red mug", "a car"], CAMERAS, steps=2)
    assert pictures.shape == (2, 4, 3, 16, 16) and pictures.isfinite().all()
    again = MultiViewPipeline.from_pretrained(
        tmp_path / "transformer", unet=TinyTransformer.from_pretrained(tmp_path / "transformer" / "unet")
    )
    torch.testing.assert_close(pictures, again(["a red mug", "a car"], CAMERAS, steps=2))


# Round trips ----------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_and_draws_the_same(model, folder):
    again = load(folder, device="cpu")
    assert torch.equal(model("a red mug", CAMERAS, steps=2), again("a red mug", CAMERAS, steps=2))
    assert weights_hash(model) == weights_hash(again)


def test_the_hash_follows_the_weights(folder):
    pipeline = load(folder, device="cpu")
    before = weights_hash(pipeline)
    with torch.no_grad():
        pipeline.unet.conv_in.bias += 1
    assert weights_hash(pipeline) != before


def test_a_model_moves_to_half_precision_and_still_draws(folder):
    pipeline = load(folder, device="cpu", dtype=torch.bfloat16)
    pictures = pipeline("a red mug", CAMERAS, steps=2)
    assert pipeline.unet.dtype == torch.bfloat16 and pictures.dtype == torch.float32 and pictures.isfinite().all()


def test_generate_returns_views_with_the_record_of_the_run(model, tmp_path):
    steps = []
    views = generate(model, "a red mug", seed=4, steps=3, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)] and len(views) == 4 and views.prompt == "a red mug"
    assert views.run["settings"]["seed"] == 4 and len(views.run["weights_sha256"]) == 64
    again = Views.load(views.save(tmp_path / "mug"))
    assert again.run == json.loads(json.dumps(views.run))


def test_a_batch_goes_on_where_it_stopped_and_names_what_failed(model, tmp_path):
    prompts = ["a red mug", "", "a blue car", "a red mug"]
    first = generate_batch(model, prompts[:2], tmp_path, steps=1)
    second = generate_batch(model, prompts, tmp_path, steps=1)
    assert len(first.done) == 1 and list(first.failed) == [""] and second.skipped == first.done
    assert [path.name[:10] for path in second.done] == ["a-blue-car"] and "1 failed" in second.summary()
    other = generate_batch(model, ["a red mug"], tmp_path, steps=1, seed=1)
    assert len(other.done) == 1 and other.done != first.done


def test_folder_names_are_stable_and_never_leave_their_folder():
    name = folder_name("../../etc/passwd \u202e $(rm)", cameras=CAMERAS, seed=0)
    assert name == folder_name("../../etc/passwd \u202e $(rm)", cameras=Cameras.orbit(4), seed=0)
    assert Path(name).name == name and name.startswith("etc-passwd-rm-")
    assert folder_name("a mug", cameras=CAMERAS, seed=0) != folder_name("A mug", cameras=CAMERAS, seed=0)


def test_a_prompt_file_has_a_prompt_a_line(tmp_path):
    (tmp_path / "prompts.txt").write_text("# mine\na red mug\n\n  a car \n")
    assert read_prompts(tmp_path / "prompts.txt") == ["a red mug", "a car"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("empty.txt", "binary.txt", "missing.txt"):
        with pytest.raises(InputError, match=name):
            read_prompts(tmp_path / name)


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


def test_a_scheduler_without_lists_says_so(model):
    swapped = {**model.components, "scheduler": UniPCMultistepScheduler.from_config(tiny_scheduler().config)}
    with pytest.raises(InputError, match="UniPCMultistepScheduler, which takes no list"):
        MultiViewPipeline(**swapped)("a mug", CAMERAS, timesteps=[9, 3])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="toybox, mvdream-sd21, mvdream-sd15"):
        load("toybocks")


def test_a_released_model_that_was_not_converted_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("VIEWFOLD_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="sd-v2.1-base-4view.pt.*--head-channels 64"):
        load("mvdream-sd21")


def damage_index(folder: Path, part: str, entry: list[str]) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, part: entry}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "no index": lambda f: (f / "model_index.json").unlink(),
    "index is a list": lambda f: (f / "model_index.json").write_text("[]"),
    "index is cut": lambda f: truncate(f / "model_index.json"),
    "index names other code": lambda f: damage_index(f, "unet", ["os", "system"]),
    "index names another part": lambda f: damage_index(f, "scheduler", ["diffusers", "AutoencoderKL"]),
    "index names a function": lambda f: damage_index(f, "vae", ["diffusers", "is_torch_available"]),
    "index is no pair": lambda f: damage_index(f, "vae", ["diffusers"]),
    "folder missing": lambda f: (f / "scheduler").rename(f / "elsewhere"),
    "vae truncated": lambda f: truncate(f / "vae" / "diffusion_pytorch_model.safetensors"),
    "unet truncated": lambda f: truncate(f / "unet" / "diffusion_pytorch_model.safetensors"),
    "text truncated": lambda f: truncate(f / "text_encoder" / "model.safetensors"),
    "weights missing": lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
    "weights of another": lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(
        (f / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    ),
    "tokenizer is cut": lambda f: truncate(f / "tokenizer" / "tokenizer.json"),
    "only a pickle": lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(
        f / "vae" / "diffusion_pytorch_model.bin"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_a_clear_error(folder, tmp_path, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    DAMAGES[damage](copy)
    with pytest.raises(WeightsError):
        load(copy, device="cpu")


def test_a_folder_with_a_missing_tensor_names_it(folder, tmp_path):
    from safetensors.torch import save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.conv_in.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="missing 1 .encoder.conv_in.weight"):
        load(copy, device="cpu")
