"""The distillation losses equal the original's, and pull renders towards what the prior believes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewfold.camera import Cameras
from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.errors import InputError
from viewfold.lifting.presets import MVDREAM_NOISE
from viewfold.lifting.prior import Prior
from viewfold.lifting.score import reconstruction_loss, sds_loss
from viewfold.weights.original import unet_from_original

PARITY = Path(__file__).parent / "parity"
TABLE = json.loads((PARITY / "guidance.json").read_text())
SCALED_LINEAR = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64).square()
ALPHAS_CUMPROD = (1 - SCALED_LINEAR).cumprod(0).float()


class KnownTarget:
    """A prior that believes every picture is `target`; its latents are the pictures, from -1 to 1."""

    image_size = 8
    device = torch.device("cpu")

    def __init__(self, target: torch.Tensor, *, broken: bool = False) -> None:
        self.target, self.broken = target, broken
        self.alphas_cumprod = ALPHAS_CUMPROD

    def condition(self, prompts):
        return [len(prompt) > 0 for prompt in prompts]

    def encode(self, images):
        return images * 2 - 1

    def predict_noise(self, x, t, condition, cameras):
        a = self.alphas_cumprod[t][:, None, None, None, None]
        noise = (x - a.sqrt() * self.target) / (1 - a).sqrt()
        return noise * float("nan") if self.broken else noise


class Replay:
    """A prior that returns noises chosen by the test: conditional for the first half of the batch."""

    image_size = 64
    device = torch.device("cpu")
    alphas_cumprod = ALPHAS_CUMPROD

    def __init__(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> None:
        self.answer = torch.cat([conditional, unconditional])

    def condition(self, prompts):
        raise AssertionError("not asked for")

    def encode(self, images):
        raise AssertionError("not asked for")

    def predict_noise(self, x, t, condition, cameras):
        return self.answer


def fold(x: torch.Tensor, n_views: int = 4) -> torch.Tensor:
    return x.reshape(-1, n_views, *x.shape[1:])


@pytest.fixture(scope="module")
def parity() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "guidance.safetensors")


def test_fakes_satisfy_the_protocol() -> None:
    assert isinstance(KnownTarget(torch.zeros(1)), Prior)


def test_sds_and_reconstruction_of_the_original_are_the_same_direction(parity) -> None:
    """Both come from one guided noise: read it off one recorded gradient, predict the other."""
    case = TABLE["cases"]["sds"]
    t = torch.full((2,), case["t"])
    a = ALPHAS_CUMPROD[case["t"]].double()
    x, noise = fold(parity["latents"]), fold(parity["noise"])
    guided = (noise.double() + fold(parity["sds.grad"]).double() * 8 / (1 - a)).float()
    prior = Replay(guided, guided)
    common = {"prior": prior, "condition": None, "cameras": None, "t": t}
    for loss_of, name in [(sds_loss, "sds"), (reconstruction_loss, "recon_rescale0")]:
        latents = x.clone().requires_grad_()
        loss = loss_of(latents, noise=noise, **common)
        (grad,) = torch.autograd.grad(loss, latents)
        expected = fold(parity[f"{name}.grad"])
        assert (grad - expected).norm() / expected.norm() < 1e-4
        assert loss.item() == pytest.approx(TABLE["cases"][name]["loss"], rel=1e-4)


class SmallNetwork:
    """The network that the recorded gradients come from."""

    image_size = 64
    device = torch.device("cpu")
    alphas_cumprod = ALPHAS_CUMPROD

    def __init__(self) -> None:
        weights = load_file(PARITY / "unet_small.safetensors")
        named = {k.removeprefix("weights."): v.float() for k, v in weights.items() if k.startswith("weights.")}
        self.unet = unet_from_original(named, head_channels=TABLE["unet_config"]["num_head_channels"])

    def condition(self, prompts):
        raise AssertionError("not asked for")

    def encode(self, images):
        raise AssertionError("not asked for")

    def predict_noise(self, x, t, condition, cameras):
        if cameras is not None:
            return self.unet(x, t, condition, cameras)
        n_views = x.shape[1]  # as released: without cameras the guidance leaves the fold out too, one view at a time
        alone = self.unet(x.flatten(0, 1)[:, None], t.repeat_interleave(n_views), condition.flatten(0, 1), None)
        return alone.unflatten(0, x.shape[:2]).squeeze(2)


@pytest.fixture(scope="module")
def small_network() -> SmallNetwork:
    return SmallNetwork()


@pytest.mark.parity
@pytest.mark.parametrize("name", TABLE["cases"])
def test_loss_and_gradient_equal_the_original(name, parity, small_network) -> None:
    case = TABLE["cases"][name]
    config = case["config"]
    cameras = Cameras(world_from_camera=parity["c2w"], fov_deg=torch.full((8,), 40.0))
    latents = fold(parity["latents"]).clone().requires_grad_()
    options = {"rescale": config["recon_std_rescale"]} if config["recon_loss"] else {}
    loss = (reconstruction_loss if config["recon_loss"] else sds_loss)(
        latents,
        prior=small_network,
        condition=torch.cat([fold(parity["cond"]), fold(parity["uncond"])]),
        cameras=cameras if case["camera"] else None,
        t=torch.full((2,), case["t"]),
        noise=fold(parity["noise"]),
        guidance=config["guidance_scale"],
        **options,
    )
    (grad,) = torch.autograd.grad(loss, latents)
    expected = fold(parity[f"{name}.grad"])
    assert (grad - expected).norm() / expected.norm() < 1e-5
    assert abs(loss.item() / parity[f"{name}.loss"].item() - 1) < 1e-5


def test_rescale_scales_each_object_by_its_own_contrast() -> None:
    """Hand-worked: guided x0 is k times the conditional one for object k, so full rescale restores it exactly."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 2, 3, 3, generator=g)
    noise = torch.randn(x.shape, generator=g)
    t = torch.tensor([500, 500])
    a = ALPHAS_CUMPROD[500]
    alpha, sigma = a.sqrt(), (1 - a).sqrt()
    noisy = alpha * x + sigma * noise
    clean = torch.randn(x.shape, generator=g)
    gain = torch.tensor([2.0, 5.0])[:, None, None, None, None]
    conditional = (noisy - alpha * clean) / sigma
    # guidance 2: guided = 2 c - u, and the guided x0 shall be gain * clean
    unconditional = 2 * conditional - (noisy - alpha * gain * clean) / sigma
    latents = x.clone().requires_grad_()
    loss = reconstruction_loss(
        latents,
        prior=Replay(conditional, unconditional),
        condition=None,
        cameras=None,
        t=t,
        noise=noise,
        guidance=2.0,
        rescale=1.0,
    )
    loss.backward()
    assert latents.grad is not None
    assert torch.allclose(latents.grad, (x - clean) / 8, atol=1e-4)


@pytest.mark.parametrize("loss_of", [reconstruction_loss, sds_loss])
def test_gradient_descent_on_either_loss_reaches_what_the_prior_believes(loss_of) -> None:
    g = torch.Generator().manual_seed(1)
    target = torch.rand(1, 4, 3, 8, 8, generator=g) * 2 - 1
    prior = KnownTarget(target)
    pictures = torch.rand(4, 3, 8, 8, generator=g).requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=0.05)
    schedule = NoiseRange(low=Anneal(start=0.9, end=0.02, steps=100), high=Anneal(start=0.98, end=0.5, steps=100))
    condition = prior.condition(["a ball", ""])
    for step in range(150):
        latents = prior.encode(pictures)[None]
        loss = loss_of(
            latents,
            prior=prior,
            condition=condition,
            cameras=None,
            t=schedule.draw(step, n_objects=1, generator=g),
            noise=torch.randn(latents.shape, generator=g),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (prior.encode(pictures)[None] - target).abs().max() < 0.05


@pytest.mark.parametrize("loss_of", [reconstruction_loss, sds_loss])
def test_a_nan_from_the_prior_is_seen_in_the_loss(loss_of) -> None:
    """Nobody waits for the device to look at the noise; `distil` looks at the loss (tests/test_lift_device.py)."""
    x = torch.zeros(1, 2, 3, 8, 8)
    prior, t = KnownTarget(x, broken=True), torch.tensor([500])
    assert not loss_of(x, prior=prior, condition=None, cameras=None, t=t, noise=x).isfinite()


@pytest.mark.parametrize(("n_cameras", "told"), [(2, 2), (6, 12)])
def test_cameras_that_objects_share_are_told_once_and_their_own_for_both_halves(n_cameras: int, told: int) -> None:
    cameras, seen = Cameras.orbit(n_cameras), []

    class Listening(KnownTarget):
        def predict_noise(self, x, t, condition, cameras):
            seen.append((len(x), condition, cameras.per_object(*x.shape[:2]).position))
            assert len(cameras) == told
            return super().predict_noise(x, t, condition, cameras)

    x = torch.zeros(3, 2, 3, 8, 8)
    sds_loss(x, prior=Listening(x[:1]), condition="told", cameras=cameras, t=torch.tensor([5, 5, 5]), noise=x)
    ((n_rows, condition, position),) = seen
    assert n_rows == 6 and condition == "told", "the condition is passed on unread"
    assert torch.equal(position[:6], position[6:]) and torch.equal(position[:n_cameras], cameras.position)


def test_a_rescale_outside_its_range_is_refused() -> None:
    x = torch.zeros(1, 2, 3, 8, 8)
    with pytest.raises(InputError, match="rescale"):
        reconstruction_loss(
            x,
            prior=KnownTarget(x),
            condition=None,
            cameras=None,
            t=torch.tensor([500]),
            noise=x,
            rescale=1.5,
        )


@pytest.mark.parametrize("row", TABLE["schedule"]["rows"], ids=lambda row: f"step{row['step']}")
def test_the_schedule_equals_the_original_row_by_row(row) -> None:
    assert MVDREAM_NOISE.at(row["step"]) == (row["min_step"], row["max_step"])
    orient = Anneal(start=10.0, end=1000.0, steps=5000)
    assert orient.at(row["step"]) == pytest.approx(row["lambda_orient"])


def test_an_anneal_is_monotone_and_stays_between_its_ends() -> None:
    values = [Anneal(start=0.98, end=0.02, steps=50).at(step) for step in range(-5, 80)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.98 and values[-1] == 0.02
    assert Anneal(start=1.0, end=3.0, steps=0).at(0) == 3.0


def test_one_noise_level_is_shared_by_all_objects_and_lies_in_the_interval() -> None:
    g = torch.Generator().manual_seed(0)
    low, high = MVDREAM_NOISE.at(4000)
    drawn = torch.stack([MVDREAM_NOISE.draw(4000, n_objects=3, generator=g) for _ in range(200)])
    assert (drawn == drawn[:, :1]).all()
    assert low <= drawn.min() and drawn.max() <= high
    assert drawn.unique().numel() > 50


def test_a_noise_range_that_leaves_the_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="NoiseRange"):
        NoiseRange(low=Anneal(start=0.5, end=0.5, steps=1), high=Anneal(start=1.2, end=1.2, steps=1)).at(0)
