"""`viewfold personalize`: from pictures to a file that --lora takes; the prior, the samples, stops and refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from fakes import tiny_model
from safetensors.torch import load_file, save_file

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.cli.command import VERBS
from viewfold.cli.personalize import _poses
from viewfold.data.photos import Photo, Photos, framed_alike
from viewfold.errors import InputError
from viewfold.model.weights_hash import weights_hash
from viewfold.personalization import (
    CLEAR,
    COPIES,
    OF_CLASS,
    OTHERS,
    POSED_NAME,
    PRIOR_NAME,
    SHARES,
    draw_prior,
    latents_of,
    pose,
)
from viewfold.picture import to_pil
from viewfold.pipeline.generation import load
from viewfold.pipeline.posing import Poses
from viewfold.scene.meshfile import load_mesh
from viewfold.training.subject import HELD_BACK
from viewfold.views import Views
from viewfold.weights.lora_file import LORA_NAME, read_record

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed (extra `lora`)")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and posed views of a thing."""
    folder = tmp_path_factory.mktemp("personal")
    tiny_model(folder / "model")
    cameras = Cameras.orbit(4, elevation_deg=15)
    rgb = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    Views(rgb=rgb, cameras=cameras, prompt="a mug").save(folder / "views", turntable=False)
    return folder


@pytest.fixture(autouse=True)
def few_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model cannot tell sides apart, and need not be asked for long."""
    monkeypatch.setattr("viewfold.pipeline.posing.AZIMUTHS", 4)


def command(place: Path, out: Path, *flags: str) -> list[str]:
    return ["personalize", str(place / "views"), "--subject", "a zorb mug", "--class", "mug", "--device", "cpu",
            "--model", str(place / "model"), "--out", str(out), "--steps", "2", *flags]  # fmt: skip


def test_every_flag_reaches_its_setting() -> None:
    words = ["personalize", "p", "--subject", "a zorb mug", "--class", "mug", "--out", "o"]
    flags = {"--steps": "7", "--minutes": "1.5", "--lr": "0.5", "--rank": "3", "--prior": "2", "--preservation": "0.25",
             "--forgetting": "0.75", "--check-steps": "9", "--precision": "fp32", "--seed": "5"}  # fmt: skip
    verb: Any = tyro.cli(VERBS, args=[*words, *(word for pair in flags.items() for word in pair)])  # type: ignore[call-overload]
    found = verb._settings()
    assert (found.rank, found.prior, found.preservation, found.forgetting) == (3, 2, 0.25, 0.75)
    loop, told = found.loop, (7, 1.5, 0.5, 9, "fp32", 5)
    assert (loop.steps, loop.minutes, loop.lr, loop.check_steps, loop.precision, loop.seed) == told
    never: Any = tyro.cli(VERBS, args=[*words, "--forgetting", "0", "--all-weights"])  # type: ignore[call-overload]
    assert never._settings().forgetting is None and never._settings().rank is None
    assert never._settings().loop.lr == 1.5e-4, "a rate for a LoRA would wreck all weights"
    faster: Any = tyro.cli(VERBS, args=[*words, "--all-weights", "--lr", "0.5"])  # type: ignore[call-overload]
    assert faster._settings().loop.lr == 0.5
    paper: Any = tyro.cli(VERBS, args=[*words, "--preset", "paper"])  # type: ignore[call-overload]
    assert (paper._settings().rank, paper._settings().preservation, paper._settings().loop.steps) == (None, 1.0, 600)
    assert never._settings().pose and not paper._settings().pose
    alone: Any = tyro.cli(VERBS, args=[*words, "--no-pose"])  # type: ignore[call-overload]
    assert not alone._settings().pose
    both: Any = tyro.cli(VERBS, args=[*words, "--all-weights", "--rank", "4"])  # type: ignore[call-overload]
    with pytest.raises(InputError, match="`rank`"):
        both._settings()


def test_the_file_says_what_it_is_and_samples_and_figures_are_kept(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "my", "--sheet", "a zorb mug", "a red car", "--check-steps", "1")) == 0
    said = capsys.readouterr()
    assert f'viewfold generate "a zorb mug" --lora {tmp_path / "my"}' in said.out and "2 steps" in said.out
    told = read_record(tmp_path / "my" / LORA_NAME)
    assert told is not None and (told["subject"], told["class"]) == ("a zorb mug", "mug")
    assert told["settings"]["rank"] == 8 and told["settings"]["loop"]["steps"] == 2
    report = json.loads((tmp_path / "my" / "run.json").read_text())
    assert set(report["before"]) == {"subject", "held_back"} and report["ended"] == ""
    assert len(list((tmp_path / "my" / "samples").glob("*.png"))) == 4
    before = load_file(tmp_path / "my" / LORA_NAME)
    assert main(command(place, tmp_path / "my", "--sheet", "a zorb mug", "a red car", "--check-steps", "1")) == 0
    after = load_file(tmp_path / "my" / LORA_NAME)
    assert all(torch.equal(after[name], before[name]) for name in before), "done once, it is done"


@needs_peft
def test_generate_takes_it_and_another_model_does_not(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "my", "--lr", "0.1")) == 0
    draw = ["generate", "a zorb mug", "--steps", "1", "--device", "cpu", "--lora", str(tmp_path / "my")]
    assert main([*draw, "--model", str(place / "model"), "--out", str(tmp_path / "drawn")]) == 0
    run = json.loads((tmp_path / "drawn" / "run.json").read_text())
    assert run["lora"][0]["subject"] == "a zorb mug" and "does not name" not in capsys.readouterr().err
    draw[1] = "a mug"
    assert main([*draw, "--model", str(place / "model"), "--out", str(tmp_path / "drawn")]) == 0
    assert 'has learned "a zorb mug", which the prompt does not name' in capsys.readouterr().err
    tiny_model(tmp_path / "other", seed=1)
    assert main([*draw, "--model", str(tmp_path / "other"), "--out", str(tmp_path / "not")]) == 3
    assert "made for" in capsys.readouterr().err and not (tmp_path / "not").exists()


def test_all_weights_make_a_model(place: Path, tmp_path: Path) -> None:
    assert main(command(place, tmp_path / "my", "--all-weights", "--lr", "0.01")) == 0
    assert not (tmp_path / "my" / LORA_NAME).exists()
    made, base = load(tmp_path / "my" / "model", device="cpu"), load(place / "model", device="cpu")
    assert weights_hash(made) != weights_hash(base)
    assert all(torch.equal(a, b) for a, b in zip(made.vae.parameters(), base.vae.parameters(), strict=True))


def test_the_prior_is_drawn_once_and_again_if_anything_else_is_asked(place: Path, tmp_path: Path) -> None:
    model, path, calls = load(place / "model", device="cpu"), tmp_path / PRIOR_NAME, []
    prompts = ["a mug"] * (HELD_BACK + 1)

    def draw(words: list[str] = prompts, seed: int = 0, which: Any = model) -> Any:
        return draw_prior(which, words, path, seed=seed, stage=lambda name, done, total: calls.append(done))

    first = draw()
    assert calls == list(range(HELD_BACK + 2)) and first.latents.shape == (HELD_BACK + 1, 4, 4, 4, 4)
    assert not torch.equal(first.latents[0], first.latents[1]), "each from a seed of its own"
    calls.clear()
    assert torch.equal(draw().latents, first.latents) and not calls
    for changed in ({"words": ["a car"] * (HELD_BACK + 1)}, {"seed": 1}, {"which": tiny_model(seed=1)}):
        calls.clear()
        assert not torch.equal(draw(**changed).latents, first.latents) and calls
    draw()
    for damage in (b"", b"no file", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        assert torch.equal(draw().latents, first.latents), "a damaged file is made again"
    latents = load_file(path)["latents"]
    save_file({"latents": latents * float("nan")}, path)
    assert torch.equal(draw().latents, first.latents)
    with pytest.raises(InputError, match="`prior_prompts`"):
        draw(["a mug"])


def test_posed_views_are_learned_together_and_one_by_one(place: Path) -> None:
    model = load(place / "model", device="cpu")
    found = latents_of(model, Views.load(place / "views"), text="a zorb mug", seed=0)
    assert found.posed is not None and found.pictures is not None
    assert found.posed.latents.shape == (4, 4, 4, 4) and len(found.posed.cameras) == 4
    assert len(found.pictures) == 4 * COPIES
    assert len({tuple(one.flatten().tolist()) for one in found.pictures}) == len(found.pictures), "each copy moved"


def test_what_is_see_through_is_learned_as_the_models_own_grey(place: Path) -> None:
    model = load(place / "model", device="cpu")
    clear = Photo(rgba=torch.cat([torch.ones(3, 16, 16), torch.zeros(1, 16, 16)]), path=Path("a.png"))
    found = latents_of(model, Photos(photos=(clear,), failed=[], notes=[]), text="a zorb mug", seed=0)
    with torch.no_grad():
        grey = model.encode(torch.full((1, 3, 16, 16), 0.5))
    assert found.posed is None and found.pictures is not None
    assert torch.allclose(found.pictures, grey.expand_as(found.pictures), atol=1e-5)


def test_a_folder_of_photographs_is_learned_from_and_what_was_left_out_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        noise = torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(number))
        to_pil(noise).save(photos / f"{number}.jpg")
    (photos / "broken.png").write_bytes(b"no picture")
    words = command(place, tmp_path / "my")
    words[1] = str(photos)
    words += ["--prior", "0", "--forgetting", "0"]
    before_training: list[bool] = []

    def found(told: Views, out: Path) -> list[str]:
        before_training.append(not (out / "log.jsonl").exists())
        return _poses(told, out)

    monkeypatch.setattr("viewfold.cli.personalize._poses", found)
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "broken.png" in said and "2.jpg: seen from azimuth" in said and before_training == [True]
    assert read_record(tmp_path / "my" / LORA_NAME) is not None
    posed = Views.load(tmp_path / "my" / POSED_NAME)
    assert posed.run["pictures"] == ["0.jpg", "1.jpg", "2.jpg"] and len(posed.run["clarity"]) == 3
    words[1] = str(tmp_path / "my" / POSED_NAME)
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words) == 0, "what was found is a source of its own"
    words[1], words[words.index("--out") + 1] = str(photos), str(tmp_path / "alone")
    assert main([*words, "--no-pose"]) == 0
    assert not (tmp_path / "alone" / POSED_NAME).exists() and "seen from" not in capsys.readouterr().err


def test_cameras_are_asked_for_once_and_those_put_right_stay(place: Path, tmp_path: Path) -> None:
    model, path, calls = load(place / "model", device="cpu"), tmp_path / POSED_NAME, []
    shots = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    shots[:, 3] = 1.0
    photos = Photos(
        photos=tuple(Photo(rgba=p, path=Path(f"{i}.png")) for i, p in enumerate(shots)), failed=[], notes=[]
    )

    def ask(prompt: str = "a mug", seed: int = 0, shown: Photos = photos) -> Views:
        calls.clear()
        return pose(model, shown, prompt, path, seed=seed, stage=lambda name, done, total: calls.append(name))

    first = ask()
    assert set(calls) == {"poses"} and torch.allclose(first.rgb, shots[:, :3], atol=1 / 255)
    assert first.alpha is None, "nothing was cut out: where the thing ends is not known"
    again = ask()
    assert not calls and torch.equal(again.cameras.world_from_camera, first.cameras.world_from_camera)
    for changed in (
        lambda: ask("a car"),
        lambda: ask(seed=1),
        lambda: ask(shown=Photos(photos=photos.photos[:1], failed=[], notes=[])),
    ):
        changed()
        assert calls
    ask()
    (path / "transforms.json").write_text("{}")
    assert torch.equal(ask().cameras.world_from_camera, first.cameras.world_from_camera) and calls, "damaged: made anew"
    right = Cameras.at(azimuth_deg=[33.0, 66.0], elevation_deg=3.0)
    replace(Views.load(path), cameras=right).save(path, turntable=False)
    assert torch.allclose(ask().cameras.azimuth_deg, right.azimuth_deg) and not calls


def test_what_is_cut_out_is_learned_in_the_framing_that_the_model_found(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = torch.zeros(2, 4, 16, 16)
    shots[0, :, 4:12, 6:10], shots[1, :, 5:11, 2:14] = 1.0, 1.0
    photos = Photos(
        photos=tuple(Photo(rgba=p, path=Path(f"{i}.png")) for i, p in enumerate(shots)), failed=[], notes=[]
    )
    model, asked = load(place / "model", device="cpu"), []

    def find(_model: Any, latents: Any, _prompt: str, **_: Any) -> Poses:
        asked.append(tuple(latents.shape))
        return Poses(framing=3, cameras=Cameras.orbit(2, elevation_deg=5), clarity=torch.ones(2))

    monkeypatch.setattr("viewfold.personalization.find_cameras", find)
    found = pose(model, photos, "a mug", tmp_path / "posed", seed=0)
    assert asked == [(len(SHARES), 2, 4, 4, 4)]
    alike = framed_alike(shots, share=SHARES[3])
    assert alike is not None and found.alpha is not None
    assert torch.allclose(torch.cat([found.rgb, found.alpha], dim=1), alike, atol=1 / 255)


def test_pictures_whose_side_the_model_cannot_tell_are_named() -> None:
    run = {"pictures": ["a.png", "b.png"], "clarity": [CLEAR / 2, 2 * CLEAR]}
    views = Views(rgb=torch.zeros(2, 3, 8, 8), cameras=Cameras.orbit(2, elevation_deg=5), run=run)
    first, second, note = _poses(views, Path("my"))
    assert first == "a.png: seen from azimuth 0, elevation 5" and second == "b.png: seen from azimuth 180, elevation 5"
    assert "a.png" in note and "b.png" not in note and "put the cameras right in my/posed/transforms.json" in note
    assert len(_poses(replace(views, run=run | {"clarity": [1.0, 1.0]}), Path("my"))) == 2


def test_a_folder_of_something_else_is_not_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "thesis.txt").write_text("years")
    assert main(command(place, tmp_path / "my", "--all-weights")) == 4
    assert (tmp_path / "my" / "model" / "thesis.txt").read_text() == "years"


def test_the_default_prior_is_of_the_class_and_of_other_things() -> None:
    assert OF_CLASS + len(OTHERS) > 2 * HELD_BACK and len(set(OTHERS)) == len(OTHERS)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--subject", "a mug"), "`--subject` must have a word of its own"),
        (("--class", "car"), "`--subject` must end with its class"),
        (("--rank", "0"), "`--rank` must be at least 1"),
        (("--all-weights", "--rank", "2"), "`--rank` must be left out"),
        (("--no-pose",), "`--no-pose` must be left out"),
        (("--background", "remove"), "`--background` must be left out"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    flags: tuple[str, ...], says: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, tmp_path / "my", *flags)) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "my").exists()


def test_a_place_without_pictures_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (tmp_path / "nothing", tmp_path):
        words = command(place, tmp_path / "my")
        words[1] = str(source)
        assert main(words) in (2, 3)
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_goes_on_to_the_same_file(how: signal.Signals, place: Path, tmp_path: Path) -> None:
    def run(out: Path) -> list[str]:
        words = command(place, out, "--check-steps", "1000", "--seed", "3")
        words[words.index("--steps") + 1] = "60"
        return words

    assert main(run(tmp_path / "straight")) == 0
    command_line = [sys.executable, "-m", "viewfold.cli", *run(tmp_path / "killed")]
    process = subprocess.Popen(command_line, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    log = tmp_path / "killed" / "log.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (log.is_file() and len(log.read_text().splitlines()) >= 5):
        time.sleep(0.02)
    process.send_signal(how)
    process.wait()
    assert not (tmp_path / "killed" / LORA_NAME).exists()
    assert main(run(tmp_path / "killed")) == 0
    straight, again = (load_file(tmp_path / name / LORA_NAME) for name in ("straight", "killed"))
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@needs_peft
@pytest.mark.slow
def test_the_recipe_goes_from_pictures_to_an_asset(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path / "out")}
    root = Path(__file__).parents[1]
    subprocess.run(["bash", "recipes/personalize.sh", "--quick"], cwd=root, env=environment, check=True, timeout=600)
    assert len(Views.load(tmp_path / "out" / "subject" / "posed")) == 4
    assert len(load_mesh(tmp_path / "out" / "subject.glb").faces) > 100
    assert len(Views.load(tmp_path / "out" / "views")) == 4
