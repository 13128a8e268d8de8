"""A network of another kind, another text and another idea of cameras goes through every flow: nothing knows which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes import TinyDiT, tiny_model, tiny_unet
from lift_fakes import ball_views
from tiny_shards import write_shards
from torch import Tensor

import viewfold
from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.distillation import DistilSettings
from viewfold.lifting.fit import FitSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import LiftSettings, MeshSettings
from viewfold.model.backbone import Backbone, PromptReader
from viewfold.model.condition import Condition
from viewfold.pipeline import MultiViewPipeline, estimate
from viewfold.scene.grid import GridSettings
from viewfold.training.diffusion import DiffusionSettings, train_diffusion
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.settings import LoopSettings

CAMERAS = Cameras.orbit(4)


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    torch.manual_seed(0)
    return tiny_model(unet=TinyDiT().eval())


def draw(model: MultiViewPipeline, prompt: str = "a red mug", cameras: Cameras = CAMERAS) -> Tensor:
    return model(prompt, cameras, steps=2, output_type="latent")


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def test_both_networks_and_their_readers_keep_to_the_protocols(model: MultiViewPipeline) -> None:
    for network in (TinyDiT(), tiny_unet()):
        assert isinstance(network, Backbone)
        assert isinstance(network.reader(model.tokenizer, model.text_encoder), PromptReader)
        assert network(*network.example_inputs(2, CAMERAS)).shape == (2, 4, 4, 4, 4)


# Flow 1: generate -----------------------------------------------------------------------------------------------------


def test_it_draws_and_comes_back_from_its_folder(model: MultiViewPipeline, tmp_path: Path) -> None:
    views = viewfold.generate(model, "a red mug", steps=2)
    assert views.rgb.shape == (4, 3, 16, 16) and views.run["warnings"] == []
    model.save_pretrained(tmp_path / "dit")
    network = TinyDiT.from_pretrained(tmp_path / "dit" / "unet")
    again = MultiViewPipeline.from_pretrained(tmp_path / "dit", unet=network)
    torch.testing.assert_close(viewfold.generate(again, "a red mug", steps=2).rgb, views.rgb)


def test_it_is_told_cameras_and_lenses_and_views_have_no_order(model: MultiViewPipeline) -> None:
    x = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    told, t, order = model.condition(["a red mug"]), torch.tensor([500]), [2, 0, 3, 1]
    with torch.no_grad():
        noise = model.predict_noise(x, t, told, CAMERAS)
        turned = model.predict_noise(x, t, told, Cameras.orbit(4, azimuth_deg=30))
        tele = model.predict_noise(x, t, told, Cameras.orbit(4, fov_deg=10))
        permuted = model.predict_noise(x[:, order], t, told, CAMERAS[order])
    assert gap(turned, noise) > 1e-3 and gap(tele, noise) > 1e-3
    assert gap(permuted, noise[:, order]) < 1e-5


def test_its_prompts_matter_and_a_sample_does_not_depend_on_its_batch(model: MultiViewPipeline) -> None:
    together = model(["a red mug", "a car"], CAMERAS, steps=2, seeds=[3, 3], output_type="latent")
    assert gap(together[0], together[1]) > 1e-3
    alone = model("a car", CAMERAS, steps=2, seeds=3, output_type="latent")
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_after_its_release_the_text_network_is_not_missed(model: MultiViewPipeline) -> None:
    own = MultiViewPipeline(**model.components)
    expected = draw(own)
    own.release_text(["a red mug"])
    assert own.text_encoder is None and torch.equal(draw(own), expected)


def test_a_network_that_takes_another_ones_place_reads_prompts_anew(model: MultiViewPipeline) -> None:
    own = MultiViewPipeline(**model.components)
    told = own.condition(["a red mug"])
    own.unet = tiny_unet()
    draw(own)
    with pytest.raises(InputError, match="must hold 'tokens', which this network reads; got words, gist"):
        own.predict_noise(torch.zeros(1, 4, 4, 4, 4), torch.tensor([500]), told, CAMERAS)


@pytest.mark.slow
def test_its_work_is_counted_from_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(tmp_path)
    TinyDiT().save_pretrained(tmp_path / "unet")
    kinds = estimate.read_classes(tmp_path)
    monkeypatch.setattr(estimate, "read_classes", lambda folder: {**kinds, "unet": TinyDiT})
    two, four = (estimate.count_work(tmp_path, n_views=n) for n in (2, 4))
    assert 0 < 1.5 * two.step_flop < four.step_flop
    assert two.parameters["unet"] == sum(p.numel() for p in TinyDiT().parameters())


# Flow 2: lift ---------------------------------------------------------------------------------------------------------


def test_it_is_a_prior_of_a_lift(model: MultiViewPipeline) -> None:
    settings = LiftSettings(
        representation=GridSettings(resolution=16, samples=16),
        fit=FitSettings(steps=12),
        distil=DistilSettings(steps=3),
        mesh=MeshSettings(resolution=24, faces=200, texture_size=32),
        polish=PolishSettings(steps=4),
    )
    asset = viewfold.lift(model, "a red mug", views=ball_views(size=16), settings=settings)
    assert len(asset.mesh.faces) > 100 and asset.report["rollbacks"] == 0


# Flow 3: train --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
def test_it_learns_from_shards_and_draws_what_it_learnt(fold: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_model(unet=TinyDiT())
    before, text = draw(model), model.text
    loop = LoopSettings(steps=60, precision="fp32", warmup=0, optimizer="adamw", lr=3e-3, ema=0.5, check_steps=30)
    trained = train_diffusion(
        model.unet, text, model.alphas_cumprod, tmp_path / "run", objects=write_shards(tmp_path / "objects"),
        pictures=write_shards(tmp_path / "pictures", posed=False, caption="a blue car"),
        held_out=write_shards(tmp_path / "held-out", samples=8),
        settings=DiffusionSettings(batch=4, fold=fold, loop=loop, objective=ObjectiveSettings(share_2d=0.2)),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first, last = (entry["held_out"] for entry in lines if "held_out" in entry)
    assert last < first < sum(entry["loss"] for entry in lines[:5]) / 5
    model.unet = trained.network.eval()
    assert gap(draw(model), before) > 1e-2


# Conditions -----------------------------------------------------------------------------------------------------------


def test_a_condition_is_carried_by_rows_all_parts_together() -> None:
    told = Condition({"words": torch.arange(6.0).reshape(3, 2), "size": torch.tensor([7, 8, 9])})
    again = Condition.cat([told[2:], told[[1, 0]], told[1]])
    assert again.part("size").tolist() == [9, 8, 7, 8] and again.part("words")[:, 0].tolist() == [4, 2, 0, 2]
    assert [row.part("size").tolist() for row in told] == [[7], [8], [9]] and len(told) == 3
    assert told[:2].repeat_interleave(2).part("size").tolist() == [7, 7, 8, 8]
    half = told.to("cpu", torch.float16)
    assert half.part("words").dtype == torch.float16 and half.part("size").dtype == torch.int64
    assert told.to("meta").device.type == "meta" and repr(told) == "Condition(words (3, 2), size (3,))"


@pytest.mark.parametrize(
    "parts", [{}, {"words": torch.tensor(1.0)}, {"words": torch.zeros(2, 3), "size": torch.zeros(3)}]
)
def test_parts_without_a_row_for_each_prompt_are_refused(parts: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="`parts` must be tensors with one row a prompt each"):
        Condition(parts)


def test_conditions_of_two_networks_are_not_joined() -> None:
    with pytest.raises(InputError, match=r"`conditions` must be some of one network; got parts \['gist', 'words'\]"):
        Condition.cat([Condition({"words": torch.zeros(1)}), Condition({"gist": torch.zeros(1)})])
