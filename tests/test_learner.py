"""The copy of a network that VSD trains: what it shares, what is its own, and what it can learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from fakes import TinyDiT, tiny_model
from lift_fakes import ball_views
from second_device import move, on, second_device
from torch import nn

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.lifting.prior import Learnable, Learner
from viewfold.lifting.score import ISM, SCORES, SDI, VSD, Score, begin
from viewfold.lifting.score.variational import Variational
from viewfold.model.lowrank import LowRank, LowRankWeights, copy_with_low_rank
from viewfold.pipeline import MultiViewPipeline
from viewfold.pipeline.placement import Placement
from viewfold.scene.grid import GridSettings

CAMERAS = Cameras.orbit(4)
T = torch.tensor([400])


@pytest.fixture
def model() -> MultiViewPipeline:
    model = tiny_model()
    for part in (model.unet, model.vae, model.text_encoder):
        part.requires_grad_(False)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents() -> torch.Tensor:
    return torch.randn(1, 4, 4, 4, 4, generator=generator(9))


def teach(learner: Learner) -> None:
    """Give the second factors numbers, so that the copy differs."""
    for number, p in enumerate(learner.parameters()):
        p.data = torch.randn(p.shape, generator=generator(number)) * 0.3


def test_a_layer_adds_a_product_of_two_factors_by_hand() -> None:
    base = nn.Linear(2, 2)
    base.weight.data, base.bias.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, 0.0])
    layer = LowRank(base, rank=1, generator=generator())
    x = torch.tensor([[3.0, 4.0]])
    assert layer(x).tolist() == [[3.5, 8.0]], "nothing is added at first"
    layer.down.data, layer.up.data = torch.tensor([[1.0, 1.0]]), torch.tensor([[10.0], [-1.0]])
    assert layer(x).tolist() == [[3.5 + 70.0, 8.0 - 7.0]]
    wide = LowRank(nn.Linear(400, 3), rank=5, generator=generator())
    assert (wide.down.shape, wide.up.shape) == ((5, 400), (3, 5))
    assert float(wide.down.detach().std()) == pytest.approx(1 / 5, rel=0.05) and not bool(wide.up.any())
    assert torch.equal(wide.down, LowRank(nn.Linear(400, 3), rank=5, generator=generator()).down), "from its generator"
    half = LowRank(nn.Linear(2, 2).to(torch.bfloat16), rank=1)
    assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16 and half.down.dtype == half.up.dtype == torch.float32


def test_those_of_the_attention_learn_or_of_whole_transformer_blocks(model: MultiViewPipeline) -> None:
    layers = {name for name, module in model.unet.named_modules() if isinstance(module, nn.Linear)}
    attention = {name for name in layers if ".attn" in name}
    feed_forward = {name for name in layers if ".ff." in name}
    cameras = {"class_embedding.linear_1", "class_embedding.linear_2"}
    assert cameras <= layers and feed_forward and len(attention) % 4 == 0

    def chosen(**options: Any) -> set[str]:
        return set(LowRankWeights(copy_with_low_rank(model.unet, rank=1, **options)).names)

    assert chosen() == attention | cameras and chosen(cameras=False) == attention
    assert chosen(layers="transformer") == attention | feed_forward | cameras
    assert chosen(layers="transformer", cameras=False) == attention | feed_forward


def test_a_pipeline_can_learn_and_its_copy_begins_as_it_is(model: MultiViewPipeline) -> None:
    assert isinstance(model, Learnable)
    learner, condition = model.learner(rank=2, generator=generator()), model.condition(["a red mug"])
    assert isinstance(learner, Learner)
    inputs = (latents(), T, condition, CAMERAS)
    assert torch.equal(learner.predict_noise(*inputs), model.predict_noise(*inputs))
    teach(learner)
    assert not torch.allclose(learner.predict_noise(*inputs), model.predict_noise(*inputs), atol=1e-3)
    assert not any(isinstance(module, LowRank) for module in model.unet.modules()), "the model stays as it is"


def test_every_attention_and_the_camera_embedding_have_layers_of_their_own(model: MultiViewPipeline) -> None:
    learner = model.learner(rank=3)
    attentions = [m for m in learner.network.modules() if isinstance(m, Attention)]
    layers = [m for m in learner.network.modules() if isinstance(m, LowRank)]
    assert attentions and len(layers) == 4 * len(attentions) + 2
    for attention in attentions:
        own = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
        assert all(isinstance(layer, LowRank) for layer in own)
    assert isinstance(learner.network.class_embedding.linear_1, LowRank)
    assert [tuple(p.shape) for p in learner.parameters()[:2]] == [
        (3, layers[0].base.in_features),
        (layers[0].base.out_features, 3),
    ]
    assert len(learner.parameters()) == 2 * len(layers) and all(p.requires_grad for p in learner.parameters())


def test_what_the_copy_thinks_of_cameras_is_learnt_too(model: MultiViewPipeline) -> None:
    learner, condition = model.learner(rank=2), model.condition(["a red mug"])
    front, side = CAMERAS[[0, 0, 0, 0]], CAMERAS[[1, 1, 1, 1]]

    def turn() -> torch.Tensor:
        given = latents(), T, condition
        return learner.predict_noise(*given, side) - learner.predict_noise(*given, front)

    before = turn()
    learner.network.class_embedding.linear_2.up.data += 1.0
    assert not torch.allclose(before, turn(), atol=1e-4)


def test_weights_are_shared_and_training_changes_none_of_them(model: MultiViewPipeline) -> None:
    before = copy.deepcopy(model.unet.state_dict())
    run = Variational(
        VSD(learning_rate=0.01), prior=model, prompts=["a red mug"], negatives=[""], generator=generator()
    )
    network = run.learner.network  # type: ignore[attr-defined]
    own = {id(p) for p in run.learner.parameters()}
    shared = {id(p) for p in model.unet.parameters()}
    assert {id(p) for p in network.parameters()} == own | shared and not own & shared
    model.unet.requires_grad_(True)  # even of a network that could be trained, only the copy's own layers are
    condition, levels, noise = model.condition(["a red mug"]), range(50, 1000, 100), latents().flip(-1)

    def error() -> float:
        a = model.alphas_cumprod
        noisy = [a[t].sqrt() * latents() + (1 - a[t]).sqrt() * noise for t in levels]
        asked = zip(noisy, levels, strict=True)
        seen = [run.learner.predict_noise(x, torch.tensor([t]), condition, CAMERAS) for x, t in asked]
        return float((torch.cat(seen) - noise).square().mean().detach())

    at_first = error()
    for _ in range(40):
        run.train(latents(), cameras=CAMERAS)
    assert error() < 0.95 * at_first, "it learns these latents"
    assert all(torch.equal(before[name], now) for name, now in model.unet.state_dict().items())
    assert all(p.grad is None for p in model.unet.parameters())


def test_networks_that_cannot_learn_are_refused_by_name(model: MultiViewPipeline) -> None:
    with pytest.raises(InputError, match="`rank` must be at least 1; got 0"):
        model.learner(rank=0)
    with pytest.raises(InputError, match="attention layers of diffusers.*TinyDiT has none"):
        copy_with_low_rank(TinyDiT(), rank=2)
    model.__dict__["placement"] = Placement(int8=True)
    with pytest.raises(InputError, match="`unet` must lie whole on its device.*8 bits"):
        model.learner(rank=2)
    model.__dict__["placement"] = Placement()
    assert model.learner(rank=2).parameters()
    model.unet.conv_in._hf_hook = object()
    with pytest.raises(InputError, match="`unet` must lie whole on its device.*offloaded"):
        model.learner(rank=2)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)
def test_every_score_distils_a_field_against_a_network(score: Score, model: MultiViewPipeline) -> None:
    observed = observe(ball_views(size=16))
    grid = GridSettings(resolution=16, samples=16, area_weight=0.0, color_weight=0.0)
    fitted = fit(observed, representation=grid, settings=FitSettings(steps=4), generator=generator())
    before = fitted.representation.snapshot()
    settings = DistilSettings(score=score, steps=2, photometric_weight=0.0, negative="a blue car")
    refined = distil(fitted, model, "a red mug", settings=settings, generator=generator())
    assert refined.representation.is_finite() and refined.rollbacks == 0
    assert not torch.equal(refined.representation.snapshot(), before)
    assert not any(p.requires_grad or p.grad is not None for p in model.unet.parameters())


@pytest.mark.parametrize("score", [SDI(), ISM(), VSD()], ids=lambda score: score.kind)
def test_a_score_stays_where_the_model_is(score: Score, model: MultiViewPipeline) -> None:
    def step(device: torch.device) -> torch.Tensor:
        x = latents().to(device).requires_grad_()
        told = {"prompts": ["a red mug"], "negatives": [""], "guidance": 3.0, "generator": generator()}
        loss_of = begin(score, prior=model, **told)  # type: ignore[arg-type]
        for _ in range(2):
            loss = loss_of(x, cameras=CAMERAS.to(device), t=T.to(device))
        (found,) = torch.autograd.grad(loss, x)
        assert on(device, found)
        return found.to("cpu")

    here = step(torch.device("cpu"))
    with second_device() as device:
        move(model, device)
        torch.testing.assert_close(step(device), here, rtol=1e-3, atol=1e-5)
