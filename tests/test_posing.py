"""Cameras of pictures, found by the network's own error: on a network that is known in closed form, and the shipped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TinyDiT, tiny_model
from safetensors.torch import load_file
from second_device import move, second_device

from viewfold.camera import Cameras
from viewfold.data.photos import Photo, Photos
from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError, PromptError
from viewfold.personalization import personalize
from viewfold.pipeline import MultiViewPipeline, load
from viewfold.pipeline.posing import ROUNDS, Poses, Round, _spread, find_cameras
from viewfold.scene.rasterize import rasterize
from viewfold.training.subject import SubjectSettings
from viewfold.weights.lora_file import LORA_NAME

Tensor = torch.Tensor


def seen_from(cameras: Cameras) -> Tensor:
    """Return latents "v 4 4 4" of a thing that looks different from each side, smoothly."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.nn.functional.normalize(cameras.position.to("cpu"), dim=-1)
    first = torch.tanh(1.5 * directions @ torch.randn(3, 64, generator=generator))
    return first.reshape(-1, 4, 4, 4)


class Knows(MultiViewPipeline):
    """A model whose network takes every picture for the thing, from the camera that it is told."""

    same_all_round = False
    same_from_behind = False
    """Where one view is seen alone."""
    asked = 0
    together: list[Cameras]
    """Of each call with several views."""

    def predict_noise(self, x: Tensor, t: Tensor, condition: Any, cameras: Cameras | None, **_: Any) -> Tensor:
        b, v = x.shape[:2]
        assert len(condition) == b and (cameras is None or len(cameras) == b * v)
        self.asked += b * v
        alpha, clean = self.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1), torch.zeros_like(x)
        if cameras is not None and not self.same_all_round:
            clean = seen_from(cameras).reshape(x.shape)
            if v == 1 and self.same_from_behind:
                behind = Cameras.at(azimuth_deg=cameras.azimuth_deg + 180, elevation_deg=cameras.elevation_deg)
                other = seen_from(behind).reshape(x.shape)
                nearer = (x - other).square().sum(dim=(1, 2, 3, 4)) < (x - clean).square().sum(dim=(1, 2, 3, 4))
                clean = torch.where(nearer[:, None, None, None, None], other, clean)
        if v > 1 and cameras is not None:
            self.together.append(cameras)
        return (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()


@pytest.fixture
def knows() -> Knows:
    model = Knows(**tiny_model().components)
    model.together = []
    return model


def off_deg(found: Poses, true: Cameras) -> tuple[Tensor, Tensor]:
    """Return how far azimuths and elevations are from the true ones."""
    azimuth = (found.cameras.azimuth_deg - true.azimuth_deg + 180) % 360 - 180
    return azimuth.abs(), (found.cameras.elevation_deg - true.elevation_deg).abs()


def test_each_picture_gets_the_camera_that_explains_it(knows: Knows) -> None:
    generator = torch.Generator().manual_seed(0)
    azimuths, elevations = 360 * torch.rand(12, generator=generator), 40 * torch.rand(12, generator=generator) - 5
    true = Cameras.at(azimuth_deg=azimuths, elevation_deg=elevations)
    calls: list[tuple[int, int]] = []
    found = find_cameras(knows, seen_from(true)[None], "a mug", progress=lambda *told: calls.append(told))
    azimuth, elevation = off_deg(found, true)
    assert azimuth.max() <= 11.5 and azimuth.mean() < 5, "half a step of 15 degrees, and what noise there is"
    assert elevation.max() <= 11.5 and elevation.mean() < 5
    assert (found.clarity > 0.3).all()
    assert calls == [(done, 24) for done in range(25)]
    assert 12 * (180 + 192) < knows.asked <= 12 * (228 + 192), "what the module says it costs"
    assert found.cameras.fov_deg.unique().tolist() == true.fov_deg.unique().tolist()


def test_what_looks_the_same_from_everywhere_is_not_clear(knows: Knows) -> None:
    knows.same_all_round = True
    found = find_cameras(knows, torch.randn(1, 2, 4, 4, 4), "a mug")
    assert found.clarity.abs().max() < 1e-6


def test_of_several_framings_it_takes_the_one_that_the_model_draws(knows: Knows) -> None:
    true = Cameras.at(azimuth_deg=[10.0, 130.0], elevation_deg=[5.0, 25.0])
    right = seen_from(true)
    empty, other = 0.05 * right.flip(-1), right.roll(1, dims=-1)  # next to nothing is easy whatever one is told
    calls: list[tuple[int, int]] = []
    framings = torch.stack([other, empty, right])
    found = find_cameras(knows, framings, "a mug", progress=lambda *told: calls.append(told))
    assert found.framing == 2
    alone = find_cameras(knows, right[None], "a mug")
    assert torch.equal(found.cameras.world_from_camera, alone.cameras.world_from_camera)
    assert calls == [(done, 10) for done in range(11)]


def test_how_easy_a_framing_is_without_camera_and_prompt_is_allowed_for(
    knows: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    framings = torch.stack([torch.full((1, 4, 4, 4), 0.0), torch.full((1, 4, 4, 4), 1.0)])

    def errors(_: Any, picture: Tensor, candidates: Tensor | None, **__: Any) -> Tensor:
        told, untold = ((0.2, 0.25), (0.5, 1.0))[int(picture.mean())]
        return torch.full((1, 2), untold) if candidates is None else torch.full((len(candidates), 2), told)

    monkeypatch.setattr("viewfold.pipeline.posing.Search.errors", errors)
    assert find_cameras(knows, framings, "a mug").framing == 1, "half of the error is explained, not a fifth"


def test_all_levels_count_alike_in_the_ranking(knows: Knows, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(_: Any, picture: Tensor, candidates: Tensor, **__: Any) -> Tensor:
        best = {30: (0.7, 1.3), 90: (1.3, 0.7), 195: (0.9, 0.9)}
        of = [best.get(round(azimuth), (1.0, 1.0)) for azimuth in candidates[:, 0].tolist()]
        return torch.tensor(of, dtype=torch.float64) * torch.tensor([1.0, 100.0])

    monkeypatch.setattr("viewfold.pipeline.posing.Search.errors", errors)
    found = find_cameras(knows, torch.zeros(1, 1, 4, 4, 4), "a mug")
    assert found.cameras.azimuth_deg.tolist() == pytest.approx([195.0])


def test_a_picture_that_could_be_of_two_sides_fits_the_others_from_one(knows: Knows) -> None:
    knows.same_from_behind = True
    true = Cameras.at(azimuth_deg=[0.0, 45.0, 90.0, 135.0, 200.0], elevation_deg=[15.0] * 5)
    alone = [find_cameras(knows, seen_from(true)[None, [row]], "a mug") for row in range(5)]
    off = torch.cat([(one.cameras.azimuth_deg - true.azimuth_deg[row]) % 360 for row, one in enumerate(alone)])
    assert ((off - 180).abs() < 16).any(), "alone, some are taken for their back"
    azimuth, _ = off_deg(find_cameras(knows, seen_from(true)[None], "a mug"), true)
    assert azimuth.max() < 16


def test_a_picture_is_looked_at_beside_the_clearest_others(knows: Knows) -> None:
    true = Cameras.at(azimuth_deg=[0.0, 75.0, 150.0, 225.0, 300.0], elevation_deg=[15.0] * 5)
    pictures = seen_from(true)
    pictures[1] = 0.0
    found = find_cameras(knows, pictures[None], "a mug")
    assert found.clarity.argmin() == 1
    for cameras in knows.together:
        each = cameras.azimuth_deg.reshape(-1, 4)
        assert len(each) == 12 and (each[:, 1:] == each[:1, 1:]).all(), "the others stay where they are"
        assert each[:, 0].unique().numel() == 12, "all round, in steps of 30 degrees"
    first = knows.together[0].azimuth_deg.reshape(-1, 4)[0]
    assert (((first[1:, None] - true.azimuth_deg + 180) % 360 - 180).abs().argmin(dim=1) != 1).all()
    assert len(knows.together) == 5 * 4, "two noises at two levels each"


def test_the_least_clear_goes_first_beside_the_clearest_and_all_levels_count(
    knows: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = (0.3, 0.1, 0.5, 0.2, 0.4)
    asked: list[tuple[int, list[int]]] = []

    def errors(
        _: Any, picture: Tensor, candidates: Tensor, *, draws: int, beside: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        number, azimuth = int(picture.mean()), candidates[:, 0]
        both = torch.ones(len(candidates), 2, dtype=torch.float64)
        if beside is None:
            both[azimuth == 0] -= clear[number]
            return both
        if not asked or asked[-1][0] != number:
            asked.append((number, beside[0].mean(dim=(1, 2, 3)).int().tolist()))
        both[azimuth == 90], both[azimuth == 210] = torch.tensor([0.9, 0.9]).double(), torch.tensor([1.3, 0.7]).double()
        return both * torch.tensor([1.0, 100.0])

    monkeypatch.setattr("viewfold.pipeline.posing.Search.errors", errors)
    pictures = torch.arange(5.0)[:, None, None, None].expand(5, 4, 4, 4)
    found = find_cameras(knows, pictures[None], "a mug")
    assert asked == [(1, [2, 4, 0]), (3, [2, 4, 0]), (0, [2, 4, 3]), (4, [2, 0, 3]), (2, [4, 0, 3])]
    assert found.cameras.azimuth_deg.tolist() == pytest.approx([90.0] * 5)


def test_a_search_is_the_same_again_for_the_same_seed() -> None:
    latents, model = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1)), tiny_model()
    first, again = find_cameras(model, latents, "a mug"), find_cameras(model, latents, "a mug")
    assert torch.equal(first.cameras.world_from_camera, again.cameras.world_from_camera)
    assert torch.equal(first.clarity, again.clarity)
    other = find_cameras(model, latents, "a mug", seed=1)
    assert not torch.equal(first.clarity, other.clarity), "other noises"


def test_candidates_go_round_and_are_never_overhead() -> None:
    turn = Round(azimuth_deg=(-15.0, 0.0), elevation_deg=(0.0, 15.0), draws=1, keep=1)
    around = _spread(torch.tensor([[0.0, 80.0], [345.0, 80.0]], dtype=torch.float64), turn)
    assert around.tolist() == [[0, 80], [0, 85], [330, 80], [330, 85], [345, 80], [345, 85]]
    assert ROUNDS[-1].keep == 1


def test_a_second_device_finds_what_this_one_finds() -> None:
    latents = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    here = find_cameras(tiny_model(), latents, "a mug")
    with second_device() as device:
        there = find_cameras(move(tiny_model(), device), latents, "a mug")
    assert there.framing == here.framing and there.cameras.fov_deg.device.type == "cpu"
    assert torch.equal(there.cameras.world_from_camera, here.cameras.world_from_camera)


def test_a_network_of_another_kind_is_asked_as_well() -> None:
    model = tiny_model(unet=TinyDiT())
    latents = torch.randn(2, 1, *model.unet.example_inputs(1, Cameras.orbit(1))[0].shape[2:])
    assert len(find_cameras(model, latents, "a mug").cameras) == 1


@pytest.mark.slow
def test_a_subject_is_learned_from_pictures_on_a_second_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfold.pipeline.posing.AZIMUTHS", 4)
    shots = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    photos = Photos(
        photos=tuple(Photo(rgba=p, path=Path(f"{i}.png")) for i, p in enumerate(shots)), failed=[], notes=[]
    )
    settings = SubjectSettings(
        prior=0, forgetting=None, loop=replace(SubjectSettings().loop, steps=2, precision="fp32")
    )
    learn = partial(personalize, source=photos, subject="a zorb mug", class_name="mug", settings=settings)
    learn(tiny_model(), out=tmp_path / "here")
    with second_device() as device:
        learn(move(tiny_model(), device), out=tmp_path / "there")
    here, there = (load_file(tmp_path / name / LORA_NAME) for name in ("here", "there"))
    assert here.keys() == there.keys() and max(float((here[k] - there[k]).abs().max()) for k in here) < 1e-4


def test_it_is_refused_where_it_cannot_be_told() -> None:
    model = tiny_model()
    with pytest.raises(PromptError):
        find_cameras(model, torch.zeros(1, 1, 4, 4, 4), " ")
    model.unet.class_embedding = None
    with pytest.raises(InputError, match="plain 2D network"):
        find_cameras(model, torch.zeros(1, 1, 4, 4, 4), "a mug")


@pytest.mark.slow
def test_the_shipped_model_knows_the_sides_of_toys_that_it_never_saw() -> None:
    model = load("toybox", device="cpu", dtype=torch.float32)
    true = Cameras.at(azimuth_deg=[20.0, 140.0, 265.0], elevation_deg=[5.0, 25.0, 15.0])
    toy = next(
        t for t in (sample_asset(seed, held_out=True) for seed in range(80_000_000, 80_000_900)) if t.kind == "mug"
    )
    rgb = rasterize(toy.mesh(), true, size=model.image_size).over(0.5)
    with torch.no_grad():
        latents = model.encode(rgb)
    azimuth, elevation = off_deg(find_cameras(model, latents[None], "a mug"), true)
    assert azimuth.max() <= 15 and elevation.max() <= 15
