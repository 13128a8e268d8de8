"""What the prior is asked in a step of distillation, and how its answer counts: recorded, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from fakes import tiny_model
from lift_fakes import BETAS, ball
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.camera import Cameras
from viewfold.errors import FitError
from viewfold.lifting.critic import Critic, Opinion
from viewfold.lifting.score import Reconstruction
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.studio import Shot
from viewfold.lifting.viewpoint import draw_cameras
from viewfold.scene.rendering import Rendering


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder:
    """A prior that knows a ball, is told cameras for each object, and writes down what it is asked.

    Latents are pictures from -1 to 1; of the posterior a sample strays by 0.1.
    """

    device, image_size, alphas_cumprod = torch.device("cpu"), 16, (1 - BETAS).cumprod(0).float()

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []
        self.t: list[Tensor] = []
        self.sizes: list[int] = []
        self.sampled: list[bool] = []

    def condition(self, prompts: Sequence[str]) -> list[str]:
        self.prompts.append(list(prompts))
        return list(prompts)

    def encode(self, images: Tensor, **sampling: torch.Generator) -> Tensor:
        self.sizes.append(images.shape[-1])
        self.sampled.append("generator" in sampling)
        latents = images * 2 - 1
        if not sampling:
            return latents
        return latents + 0.1 * torch.randn(latents.shape, generator=sampling["generator"])

    def predict_noise(self, x: Tensor, t: Tensor, condition: list[str], cameras: Cameras | None) -> Tensor:
        assert cameras is not None and len(condition) == len(x) == len(t)
        self.t.append(t)
        known = ball(cameras.per_object(*x.shape[:2]), size=self.image_size)[0].unflatten(0, x.shape[:2])
        level = self.alphas_cumprod[t][:, None, None, None, None]
        return (x - level.sqrt() * (2 * known - 1)) / (1 - level).sqrt()


def shot(n_objects: int = 2, *, size: int = 16, seed: int = 0, pictures: Tensor | None = None) -> Shot:
    """Return true pictures of the ball, or any others."""
    cameras = draw_cameras(n_objects, n_views=4, elevation_deg=(0, 30), lens=(40.0, 1.7), generator=seeded(seed))
    pictures = ball(cameras, size=size)[0] if pictures is None else pictures
    flat = torch.zeros_like(pictures)
    rendered = Rendering(rgb=flat, alpha=flat[:, :1], depth=flat[:, :1], normal=flat)
    return Shot(pictures=pictures, rendered=rendered, cameras=cameras, n_objects=n_objects)


def test_every_object_is_asked_with_the_prompt_before_any_with_the_negative() -> None:
    prior = Recorder()
    critic = Critic(prior, "a ball", DistilSettings(negative="ugly, blurry"))
    for n_objects in (2, 2, 1):
        critic.judge(shot(n_objects), step=0, generator=seeded())
    assert prior.prompts == [["a ball"] * 2 + ["ugly, blurry"] * 2, ["a ball", "ugly, blurry"]], "once for each size"


def test_one_noise_level_is_drawn_for_the_whole_batch() -> None:
    prior, generator = Recorder(), seeded()
    critic = Critic(prior, "a ball", DistilSettings())
    opinions = [critic.judge(shot(3), step=0, generator=generator) for _ in range(30)]
    assert all(len(t) == 6 and bool((t == t[0]).all()) for t in prior.t)
    assert len({int(t[0]) for t in prior.t}) > 15, "and another one in another step"
    assert all(opinion.t.tolist() == t[:3].tolist() for opinion, t in zip(opinions, prior.t, strict=True))


def test_noise_anneals_over_absolute_steps_however_long_the_run_is() -> None:
    """8,000 of 10,000 steps, and halfway through a run of 100 it has hardly begun."""
    levels = {"noise_at_start": (0.98, 0.98), "noise_at_end": (0.02, 0.5), "anneal_steps": 8000}
    for steps in (100, 10_000):
        prior, generator, pictures = Recorder(), seeded(), shot(1)
        critic = Critic(prior, "a ball", DistilSettings(steps=steps, **levels))
        for step, low, high in ((0, 980, 980), (50, 974, 977), (4000, 500, 740), (8000, 20, 500), (9999, 20, 500)):
            drawn = torch.cat([critic.judge(pictures, step=step, generator=generator).t for _ in range(25)])
            assert low <= drawn.min() and drawn.max() <= high
            assert drawn.max() - drawn.min() >= 0.6 * (high - low), "the whole range is drawn from"


def test_latents_are_the_mean_unless_a_sample_is_asked_for() -> None:
    prior, picture = Recorder(), shot(1)
    mean = Critic(prior, "a ball", DistilSettings()).judge(picture, step=0, generator=seeded()).latents
    torch.testing.assert_close(mean[0], picture.pictures * 2 - 1)
    sampling = Critic(prior, "a ball", DistilSettings(sample_posterior=True))
    first, again, other = (sampling.judge(picture, step=0, generator=seeded(s)).latents for s in (0, 0, 1))
    assert prior.sampled == [False, True, True, True]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float((first - mean).std()) == pytest.approx(0.1, rel=0.1)


def test_a_model_samples_its_own_posterior() -> None:
    model, picture = tiny_model(), shot(1, size=16)
    settings = DistilSettings(sample_posterior=True)
    latents = Critic(model, "a red mug", settings).judge(picture, step=0, generator=seeded(5)).latents
    size = (model.image_size, model.image_size)
    stretched = interpolate(picture.pictures, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(latents[0], model.encode(stretched, generator=seeded(5)))
    assert not torch.allclose(latents[0], model.encode(stretched))


@pytest.mark.parametrize("size", [4, 16, 40])
def test_pictures_are_stretched_to_the_priors_size_and_keep_their_gradient(size: int) -> None:
    prior, pictures = Recorder(), torch.rand(4, 3, size, size, generator=seeded()).requires_grad_()
    opinion = Critic(prior, "a ball", DistilSettings()).judge(shot(1, pictures=pictures), step=0, generator=seeded())
    assert prior.sizes == [16]
    by_hand = interpolate(pictures, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(opinion.latents[0], by_hand * 2 - 1)
    opinion.loss.backward()
    assert pictures.grad is not None and bool(pictures.grad.any())


def test_each_object_is_judged_from_its_own_cameras() -> None:
    """True pictures of two objects cost nothing; the same with the objects' pictures exchanged do."""
    critic = Critic(Recorder(), "a ball", DistilSettings(guidance=3.0))
    true = shot(2)
    assert float(critic.judge(true, step=0, generator=seeded()).loss) < 1e-6
    exchanged = shot(2, pictures=true.pictures.roll(4, dims=0))
    assert float(critic.judge(exchanged, step=0, generator=seeded()).loss) > 1e-4


class Torn(Recorder):
    """Believes in black for a prompt and in middle grey for nothing, at as many noise levels as one likes."""

    def __init__(self, n_levels: int = 1000) -> None:
        super().__init__()
        self.alphas_cumprod = torch.linspace(0.99, 0.01, n_levels)

    def predict_noise(self, x: Tensor, t: Tensor, condition: list[str], cameras: Cameras | None) -> Tensor:
        self.t.append(t)
        level = self.alphas_cumprod[t][:, None, None, None, None]
        known = torch.tensor([0.0 if text == "" else -1.0 for text in condition])[:, None, None, None, None]
        return (x - level.sqrt() * known) / (1 - level).sqrt()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
def test_guidance_goes_as_far_beyond_what_the_negative_believes_in(guidance: float) -> None:
    """From grey, 0, towards 0 + guidance (-1 - 0): half its square."""
    settings = DistilSettings(guidance=guidance, score=Reconstruction(rescale=0.0))
    grey = shot(1, pictures=torch.full((4, 3, 16, 16), 0.5))
    loss = Critic(Torn(), "a ball", settings).judge(grey, step=0, generator=seeded()).loss
    assert float(loss) == pytest.approx(guidance**2 / 2, rel=1e-3, abs=1e-6)


def test_noise_levels_are_shares_of_those_that_the_prior_has() -> None:
    prior, generator = Torn(n_levels=200), seeded()
    critic = Critic(prior, "a ball", DistilSettings(steps=9, noise_at_start=(0.5, 0.9), noise_at_end=(0.02, 0.02)))
    drawn = [int(critic.judge(shot(1), step=0, generator=generator).t) for _ in range(60)]
    assert 100 <= min(drawn) < 110 and 170 < max(drawn) <= 180
    assert int(critic.judge(shot(1), step=9, generator=generator).t) == 4


def test_the_score_is_a_mean_over_latents_or_over_views_alone() -> None:
    grey = shot(2, pictures=torch.full((8, 3, 16, 16), 0.5))
    by_latents, by_views = (
        float(
            Critic(Recorder(), "a ball", DistilSettings(score_mean=mean)).judge(grey, step=0, generator=seeded()).loss
        )
        for mean in ("latents", "views")
    )
    assert by_views == pytest.approx(by_latents * 3 * 16 * 16)
    true = shot(2).pictures
    # x0 is what is known, whatever the noise: 0.5 |x - x0|^2 / (b v), with x = 0; nearly no guidance is left to rescale
    assert by_views == pytest.approx(float(0.5 * (2 * true - 1).square().sum() / 8), rel=1e-3)


NAN, ONE = torch.tensor(float("nan")), torch.zeros(1, 4, 3, 2, 2)


@pytest.mark.parametrize(
    ("loss", "latents", "pictures", "blamed"),
    [
        (NAN, ONE, 0.0, r"finite noise; got NaN or infinity at t = \[7\]"),
        (NAN, ONE * NAN, 0.0, "its VAE gave NaN"),
        (NAN, ONE * NAN, float("nan"), None),
        (torch.tensor(1.0), ONE, 0.0, None),
    ],
)
def test_what_failed_first_is_blamed(loss: Tensor, latents: Tensor, pictures: float, blamed: str | None) -> None:
    """Pictures that are not finite are the representation's own fault, and a finite step is nobody's."""
    opinion = Opinion(loss=loss, latents=latents, t=torch.tensor([7]))
    with nullcontext() if blamed is None else pytest.raises(FitError, match=blamed):
        opinion.blame(shot(1, pictures=torch.full((4, 3, 2, 2), pictures)))


def test_a_critic_that_goes_on_has_begun_the_scores_of_the_one_before() -> None:
    before = Critic(Recorder(), "a ball", DistilSettings())
    for n_objects in (2, 1):
        before.judge(shot(n_objects), step=0, generator=seeded())
    prior = Recorder()
    after = Critic(prior, "a ball", DistilSettings())
    after.resume(before.state())
    assert [len(prompts) for prompts in prior.prompts] == [4, 2]
    after.judge(shot(2), step=0, generator=seeded())
    assert len(prior.prompts) == 2 and after.state() == before.state()
