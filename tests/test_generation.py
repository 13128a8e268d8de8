"""The verbs of flow 1: a model loads strictly, a prompt becomes views with a record, a list of prompts is resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fakes import tiny_model
from safetensors.torch import load_file, save_file

from viewfold.camera import Cameras
from viewfold.diffusion.sampler import named_scheduler
from viewfold.errors import AssetError, InputError, WeightsError
from viewfold.pipeline import MultiViewPipeline, generate, generate_batch, load
from viewfold.pipeline.batch import folder_name, read_prompts
from viewfold.pipeline.generation import weights_hash
from viewfold.views import Views
from viewfold.weights.components import read_components

CAMERAS = Cameras.orbit(4)


@pytest.fixture(scope="module")
def model() -> MultiViewPipeline:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(path)
    return path


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


@pytest.mark.filterwarnings("ignore:bfloat16 is emulated")
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


def test_a_batch_does_not_go_on_with_what_was_made_in_another_way(tmp_path):
    """The folders of the other scheduler, weights or type have the same names; nothing may be drawn beside them."""
    model = tiny_model()
    (made,) = generate_batch(model, ["a red mug"], tmp_path, steps=1).done
    both = ["a blue car", "a red mug"]
    own, model.scheduler = model.scheduler, named_scheduler("euler", like=model.scheduler)
    with pytest.raises(InputError, match=r"`out`.*a-red-mug.*with scheduler DDIMScheduler, now EulerDiscreteScheduler"):
        generate_batch(model, both, tmp_path, steps=1)
    model.scheduler = own
    bias = model.unet.conv_in.bias.detach().clone()
    with torch.no_grad():
        model.unet.conv_in.bias += 1
    with pytest.raises(InputError, match=r"with weights [0-9a-f]{8}, now [0-9a-f]{8}\. Name another"):
        generate_batch(model, both, tmp_path, steps=1)
    with torch.no_grad():
        model.unet.conv_in.bias.copy_(bias)
    assert generate_batch(model, both[1:], tmp_path, steps=1).skipped == [made]
    (made / "run.json").write_text("{}")
    with pytest.raises(AssetError, match=r"run\.json` must tell how the views were made"):
        generate_batch(model, both, tmp_path, steps=1)
    assert list(tmp_path.iterdir()) == [made]


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


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="toybox, mvdream-sd21, mvdream-sd15"):
        load("toybocks")


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
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.conv_in.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="missing 1 .encoder.conv_in.weight"):
        load(copy, device="cpu")


def test_a_model_recommends_its_guidance(tmp_path: Path) -> None:
    model = tiny_model()
    model.register_to_config(guidance=1.0)
    model.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    views = generate(again, "a mug", cameras=Cameras.orbit(2), steps=2)
    assert views.run["settings"]["guidance"] == 1.0
    assert torch.equal(views.rgb, generate(again, "a mug", cameras=Cameras.orbit(2), steps=2, guidance=1.0).rgb)


@pytest.mark.parametrize("scale", ["high", None, -1, True])
def test_a_guidance_that_is_no_scale_is_refused(tmp_path: Path, scale: object) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({**index, "guidance": scale}))
    with pytest.raises(WeightsError, match="guidance"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("part", "library", "name"),
    [
        ("text_encoder", "transformers", "CLIPVisionModel"),
        ("text_encoder", "transformers", "BertForMaskedLM"),
        ("text_encoder", "transformers", "RagModel"),
        ("text_encoder", "transformers", "Trainer"),
        ("vae", "diffusers", "UNet2DConditionModel"),
    ],
)
def test_a_class_that_does_another_parts_work_is_refused(folder, tmp_path, part, library, name):
    index = json.loads((folder / "model_index.json").read_text())
    shutil.copytree(folder / part, tmp_path / part)
    (tmp_path / "model_index.json").write_text(json.dumps(index | {part: [library, name]}))
    with pytest.raises(WeightsError, match=rf"must name a {part} that this program knows; got {library}\.{name}"):
        read_components(tmp_path, given={"vae", "text_encoder", "tokenizer", "unet", "scheduler"} - {part})
