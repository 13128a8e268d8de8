"""Multi-view DreamBooth: what a step is made of, by hand; what changes and what stays; stopping, forgetting, words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model, tiny_unet
from tiny_training import recorder
from torch import Tensor, nn

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.model.lowrank import LowRankWeights, copy_with_low_rank
from viewfold.personalization import check_subject
from viewfold.training.dreambooth import Learned, learn_subject, low_rank_change, mean_change
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.settings import LoopSettings
from viewfold.training.subject import HELD_BACK, Posed, PriorSamples, Subject, SubjectSettings

LOOP = LoopSettings(steps=2, optimizer="adamw", lr=1e-2, warmup=0, precision="fp32", ema=0.0, check_steps=1000)
SETTINGS = SubjectSettings(
    rank=2,
    pictures=3,
    posed=1,
    prior=2,
    forgetting=None,
    objective=ObjectiveSettings(prediction="v_prediction", share_2d=0.0, drop_text=0.0),
    loop=LOOP,
)
WHOLE = replace(SETTINGS, rank=None)
ORBIT = Cameras.orbit(8, elevation_deg=15)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subject(**changes: Any) -> Subject:
    given = {
        "text": "a zorb mug",
        "pictures": numbers(5, 4, 4, 4),
        "posed": Posed(latents=numbers(8, 4, 4, 4, seed=1), cameras=ORBIT),
        "posed_text": "a zorb mug, of",
    }
    return Subject(**(given | changes))


def prior(n: int = 3) -> PriorSamples:
    prompts = ["a red car"] * n + ["a blue chair"] * HELD_BACK
    latents = numbers(len(prompts), 4, 4, 4, 4, seed=2)
    return PriorSamples(prompts=prompts, latents=latents, cameras=Cameras.orbit(4, elevation_deg=15))


def learn(
    out: Path, settings: SubjectSettings = SETTINGS, network: Any = None, own: Subject | None = None, **options: Any
) -> Learned:
    model = tiny_model()
    options.setdefault("prior", prior())
    return learn_subject(
        network or model.unet,
        model.text,
        model.alphas_cumprod,
        out,
        subject=own or subject(),
        settings=settings,
        **options,
    )


def logged(out: Path) -> list[dict[str, float]]:
    import json

    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_views_are_taken_evenly_in_their_order_around_the_object() -> None:
    shuffled = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    posed = Posed(latents=torch.arange(8.0)[shuffled, None, None, None], cameras=ORBIT[shuffled])
    starts = set()
    for seed in range(30):
        latents, cameras = posed.take(4, torch.Generator().manual_seed(seed))
        places = latents.flatten().long()
        assert set(((places - places[0]) % 8).tolist()) == {0, 2, 4, 6}
        assert torch.equal(cameras.world_from_camera, ORBIT.world_from_camera[places]), "each keeps its own camera"
        starts.add(int(places[0]))
    assert starts == set(range(8))
    few, _ = Posed(latents=numbers(3, 1, 1, 1), cameras=ORBIT[:3]).take(4, torch.Generator().manual_seed(0))
    assert len(few) == 3, "no view twice"


def test_pictures_go_in_alone_and_without_cameras_posed_views_and_the_prior_together_with_theirs(
    tmp_path: Path,
) -> None:
    network = recorder()
    learn(tmp_path, replace(WHOLE, loop=replace(LOOP, steps=1)), network)
    training = [call for call in network.calls if call["training"]]
    pictures, posed, known = training
    assert pictures["latents"].shape[:2] == (3, 1) and pictures["cameras"] is None
    assert posed["latents"].shape[:2] == (1, 4) and len(posed["cameras"]) == 4
    assert known["latents"].shape[:2] == (2, 4) and len(known["cameras"]) == 8
    texts = tiny_model().text.states(["a zorb mug", "a zorb mug, of", "a red car"])
    for call, states in zip(training, texts, strict=True):
        assert torch.allclose(call["text"], states.expand_as(call["text"]), atol=1e-2), "kept in half precision"


def test_the_loss_is_the_mean_of_the_subjects_terms_the_weighted_prior_and_the_weighted_change(tmp_path: Path) -> None:
    settings = replace(SETTINGS, prior_weight=0.25, preservation=8.0, loop=replace(LOOP, steps=3))
    learn(tmp_path, settings)
    for row in logged(tmp_path)[:3]:
        own = (row["pictures"] + row["posed"]) / 2
        assert row["loss"] == pytest.approx(own + 0.25 * row["prior"] + 8 * row["change"], rel=1e-5)
    assert logged(tmp_path)[0]["change"] == 0 < logged(tmp_path)[2]["change"]


def test_the_papers_term_is_the_mean_distance_of_a_weight() -> None:
    network = nn.Linear(3, 2)
    start = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        network.weight[0, 0] += 3.0
        network.bias[1] -= 5.0
    assert mean_change(network, start).item() == pytest.approx(8 / 8)
    layers = LowRankWeights(copy_with_low_rank(tiny_unet(), rank=1, cameras=False))
    assert low_rank_change(layers).item() == 0.0
    with torch.no_grad():
        layers.down[0].fill_(2.0)
        layers.up[0].fill_(-0.5)
    moved = layers.down[0].numel() * layers.up[0].numel()  # each entry of B A is -1
    total = sum(a.numel() * b.numel() for a, b in zip(layers.down, layers.up, strict=True))
    assert low_rank_change(layers).item() == pytest.approx(moved / total)


def test_the_papers_term_holds_the_weights(tmp_path: Path) -> None:
    def distance(settings: SubjectSettings, out: Path) -> float:
        network = tiny_model().unet
        start = [p.detach().clone() for p in network.parameters()]
        return mean_change(learn(out, settings, network).network, start).item()

    long = replace(WHOLE, prior=0, loop=replace(LOOP, steps=20, lr=1e-3))
    free = distance(long, tmp_path / "free")
    held = distance(replace(long, preservation=1e4), tmp_path / "held")
    assert held < 0.5 * free


def test_a_lora_learns_and_the_network_stays_bit_for_bit(tmp_path: Path) -> None:
    network = tiny_model().unet
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learned = learn(tmp_path, replace(SETTINGS, loop=replace(LOOP, steps=30)), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert learned.low_rank is not None
    assert all(bool((up != 0).any()) for _, up in learned.low_rank.factors().values()), "every layer has learned"
    assert not any("class_embedding" in name for name in learned.low_rank.names), "a camera means what it meant"
    rows = [row["loss"] for row in logged(tmp_path) if "loss" in row]
    assert sum(rows[-5:]) < sum(rows[:5])


def test_only_what_is_learned_is_kept_in_a_checkpoint(tmp_path: Path) -> None:
    learned = learn(tmp_path)
    assert learned.low_rank is not None
    kept = sum(file.stat().st_size for file in (tmp_path / "checkpoint-00000002").glob("*.safetensors"))
    assert kept < 10 * 4 * sum(p.numel() for p in learned.low_rank.parameters())


@pytest.mark.parametrize("settings", [SETTINGS, replace(WHOLE, preservation=1.0)], ids=["lora", "all weights"])
def test_a_stopped_run_goes_on_exactly(settings: SubjectSettings, tmp_path: Path) -> None:
    settings = replace(settings, loop=replace(LOOP, steps=6, ema=0.5))
    straight = learn(tmp_path / "straight", settings).network.state_dict()
    learn(tmp_path / "stopped", replace(settings, loop=replace(settings.loop, steps=3)))
    resumed = learn(tmp_path / "stopped", settings).network.state_dict()
    assert all(torch.equal(straight[name], value) for name, value in resumed.items())


def test_another_subject_prior_or_setting_is_refused_in_its_folder(tmp_path: Path) -> None:
    learn(tmp_path)
    for changes in (
        {"own": subject(text="a red mug")},
        {"own": subject(pictures=numbers(5, 4, 4, 4, seed=9))},
        {"prior": prior(5)},
        {"settings": replace(SETTINGS, prior_weight=2.0)},
    ):
        with pytest.raises(InputError, match="resumed"):
            learn(tmp_path, **changes)


def test_a_run_that_forgets_ends_says_why_and_stays_ended(tmp_path: Path) -> None:
    settings = replace(SETTINGS, prior=0, forgetting=0.01, loop=replace(LOOP, steps=200, lr=0.05, check_steps=5))
    odd = subject(pictures=torch.full((1, 4, 4, 4), 6.0), posed=None)  # as no other thing is
    first = learn(tmp_path, settings, own=odd)
    report = first.trained.report
    assert report["step"] < 200 and "rose from" in report["ended"]
    checks = [row for row in logged(tmp_path) if "held_back" in row]
    assert checks[-1]["held_back"] > 1.01 * report["before"]["held_back"]
    assert all(row["held_back"] <= 1.01 * report["before"]["held_back"] for row in checks[:-1]), "no sooner"
    again = learn(tmp_path, settings, own=odd)
    assert again.trained.report["step"] == report["step"]
    assert again.low_rank is not None and first.low_rank is not None
    assert all(torch.equal(a, b) for a, b in zip(first.low_rank.up, again.low_rank.up, strict=True))


def test_what_is_held_back_is_not_trained_on() -> None:
    samples = prior(2)
    drawn = [samples.draw(4, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {caption for batch in drawn for caption in batch.captions} == {"a red car"}
    assert samples.held_back.captions == ["a blue chair"] * HELD_BACK


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`prior`"):
        learn(tmp_path, prior=None)
    with pytest.raises(InputError, match="`pictures`"):
        subject(pictures=None, posed=None)
    with pytest.raises(InputError, match="`prior`"):
        PriorSamples(prompts=["a mug"] * 4, latents=numbers(4, 4, 4, 4, 4), cameras=ORBIT[:4])
    for bad in ({"rank": 0}, {"views": 0}, {"preservation": -1.0}, {"forgetting": 0.0}, {"prior_weight": float("nan")}):
        with pytest.raises(InputError, match=f"`{next(iter(bad))}`"):
            replace(SETTINGS, **bad)
    with pytest.raises(InputError, match="`parallel`"):
        learn(tmp_path, replace(SETTINGS, loop=replace(LOOP, parallel="fsdp")))


def test_a_subject_is_its_class_with_a_word_of_its_own() -> None:
    model = tiny_model()
    assert check_subject(model, "a zorb mug", "mug") == []
    (note,) = check_subject(model, "a red mug", "mug")
    assert "'red'" in note and "zorb" in note, "a clash is said, with a word to use instead"
    for words, kind in (("a mug", "mug"), ("a zorb mug", "car"), ("a zorb mug", "")):
        with pytest.raises(InputError, match="`subject`"):
            check_subject(model, words, kind)
