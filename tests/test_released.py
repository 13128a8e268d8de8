"""Whole models from the layouts in which they were published: what is written, what it draws, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from released import LAYOUTS, VAE, heads_of, open_clip_tower, released, unet_tensors
from safetensors.torch import load_file, save_file

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import InputError, OutputError, WeightsError
from viewfold.model import defaults
from viewfold.model.defaults import T2I, Defaults, released_defaults
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21, TOYBOX, UNetLayout
from viewfold.pipeline import MultiViewPipeline, generate, load
from viewfold.weights import keymap
from viewfold.weights.convert import convert
from viewfold.weights.keymap import original_name, read_unet_layout, read_vae_config, unet_modules, vae_modules
from viewfold.weights.network import load_unet
from viewfold.weights.original import unet_from_original, vae_from_original
from viewfold.weights.tokenizer import END_ID, clip_tokenizer

PARTS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}


@pytest.fixture(scope="module", params=["sd21", "sd15"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("released")
    paths = {kind: folder / f"{kind}.pt" for kind in LAYOUTS}
    for kind, path in paths.items():
        torch.save(released(kind), path)
    return paths


@pytest.fixture(scope="module")
def folders(files: dict[str, Path]) -> dict[str, Path]:
    folders = {kind: path.with_suffix("") for kind, path in files.items()}
    for kind, folder in folders.items():
        convert(files[kind], to=folder, **heads_of(kind))
    return folders


def opened(folder: Path) -> MultiViewPipeline:
    """A model that draws 16 px, which is quick."""
    model = load(folder, device="cpu")
    model.unet.register_to_config(sample_size=8)
    return model


def copied(folder: Path, to: Path, **index: Any) -> Path:
    shutil.copytree(folder, to)
    described = json.loads((to / "model_index.json").read_text())
    (to / "model_index.json").write_text(json.dumps({**described, **index}))
    return to


# Whole files ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_released_file_becomes_a_model_that_draws(folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    assert {path.name for path in folder.iterdir()} == PARTS | {"model_index.json"}
    model = opened(folder)
    views = generate(model, "a red mug!", steps=2)
    assert len(views) == 4 and views.rgb.isfinite().all() and views.rgb.std() > 0
    assert model.tokenizer.pad_token_id == (0 if kind == "sd21" else END_ID)
    assert model.condition([""]).part("tokens").shape == (1, 77, 64)
    assert (model.scheduler.config["steps_offset"], model.scheduler.config["beta_schedule"]) == (1, "scaled_linear")


@pytest.mark.slow
def test_the_text_states_are_those_of_the_original_tower(folders: dict[str, Path]) -> None:
    model, tower = load(folders["sd21"], device="cpu"), open_clip_tower()
    ids = clip_tokenizer()("a red mug, 3d asset")["input_ids"]
    with torch.no_grad():
        expected = tower(torch.tensor([ids + [0] * (77 - len(ids))]))
    assert (model.condition(["a red mug, 3d asset"]).part("tokens") - expected).abs().max() < 2e-5


@pytest.mark.slow
def test_the_type_of_the_weights_can_be_chosen(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    told = ["--head-channels", "16", "--dtype", "fp16"]
    assert main(["weights", "convert", str(files["sd21"]), "--to", str(tmp_path / "half"), *told]) == 0
    assert "use it with --model" in capsys.readouterr().out
    for part in ("unet", "vae", "text_encoder"):
        (path,) = (tmp_path / "half" / part).glob("*.safetensors")
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert load(tmp_path / "half", device="cpu", dtype=torch.float32).unet.dtype == torch.float32


@pytest.mark.slow
def test_large_networks_are_written_as_several_files(
    files: dict[str, Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewfold.weights.convert.SHARD_BYTES", 400_000)
    convert(files["sd21"], to=tmp_path / "model", head_channels=16)
    assert len(list((tmp_path / "model" / "unet").glob("*.safetensors"))) > 1
    whole, sharded = load_unet(folders["sd21"]).state_dict(), load_unet(tmp_path / "model").state_dict()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.slow
def test_a_whole_file_is_loaded_directly_and_converted_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFOLD_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"head_channels` 64.*weights convert.*--to FOLDER"):
        load(files["sd21"], device="cpu")
    monkeypatch.setattr(keymap, "KNOWN", tuple(LAYOUTS.values()))
    with pytest.warns(UserWarning, match=r"sd21\.pt was converted to .*models/sd21-"):
        first = load(files["sd21"], device="cpu")
    assert first.unet.config["attention_head_dim"] == [2, 4]
    assert load(str(files["sd21"]), device="cpu").unet.config["attention_head_dim"] == [2, 4]
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_a_file_that_lacks_a_part_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFOLD_HOME", str(tmp_path))
    save_file({f"model.diffusion_model.{k}": v for k, v in unet_tensors("sd21").items()}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="missing: text_encoder, vae"):
        load(tmp_path / "bare.safetensors", device="cpu")


def test_what_a_folder_holds_besides_is_not_lost(
    files: dict[str, Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    save_file(unet_tensors("sd21"), tmp_path / "bare.safetensors")
    with pytest.raises(OutputError, match="would be lost"):
        convert(tmp_path / "bare.safetensors", to=folders["sd21"], head_channels=16)
    assert (folders["sd21"] / "vae").is_dir()


# Full size, without storage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "millions"), [(MVDREAM_SD21, 867.57), (MVDREAM_SD15, 861.18)])
@pytest.mark.parametrize("camera", [True, False])
def test_networks_of_released_sizes_need_no_heads(layout: UNetLayout, millions: float, camera: bool) -> None:
    with torch.device("meta"):
        state = layout.build().state_dict()
    names = {original_name(name, unet_modules(layout)): tensor for name, tensor in state.items()}
    assert len(names) == len(state) == 690
    assert round(sum(tensor.numel() for tensor in names.values()) / 1e6, 2) == millions
    sample = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "camera_embed.0.weight": (1280, 16),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, layout.text_dim),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "out.2.bias": (4,),
    }
    assert {name: tuple(names[name].shape) for name in sample} == sample
    kept = {name: tensor for name, tensor in names.items() if camera or not name.startswith("camera_embed")}
    shapes = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    found = read_unet_layout(shapes, heads=None, head_channels=None)
    assert (found.heads, found.head_channels) == (layout.heads, layout.head_channels)
    assert (found == layout) is camera
    assert len(unet_from_original(kept).state_dict()) == len(kept)
    assert released_defaults(found) == (T2I if camera else Defaults())


def test_every_tensor_of_the_full_vae_has_its_place() -> None:
    config = {**VAE, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        state = AutoencoderKL(**config).state_dict()
    named = {original_name(name, vae_modules(config)): tensor for name, tensor in state.items()}
    assert len(named) == len(state) == 248
    sample = {
        "encoder.down.3.block.1.conv2.bias",
        "decoder.up.3.upsample.conv.weight",
        "decoder.mid.attn_1.proj_out.bias",
    }
    assert sample | {"quant_conv.weight", "encoder.down.2.block.0.nin_shortcut.weight"} <= set(named)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    assert read_vae_config(shapes)["block_out_channels"] == (128, 256, 512, 512)
    assert round(sum(tensor.numel() for tensor in vae_from_original(named).state_dict().values()) / 1e6, 2) == 83.65


# Other folders --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_community_folder_draws_what_ours_draws(folders: dict[str, Path], tmp_path: Path) -> None:
    """Original names, its own configuration and class names; transformers' former names in the text tower."""
    folder = copied(
        folders["sd21"],
        tmp_path / "port",
        _class_name="MVDreamPipeline",
        unet=["mv_unet", "MultiViewUNetModel"],
        feature_extractor=[None, None],
        image_encoder=[None, None],
        requires_safety_checker=False,
    )
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k not in asdict(T2I)}))
    shutil.rmtree(folder / "unet")
    (folder / "unet").mkdir()
    save_file(unet_tensors("sd21"), folder / "unet" / "diffusion_pytorch_model.safetensors")
    described = {"_class_name": "MultiViewUNetModel", "model_channels": 32, "context_dim": 64, "num_head_channels": 16}
    (folder / "unet" / "config.json").write_text(json.dumps({**described, "num_heads": -1}))
    text = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(text).items()}
    save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]}, text, {"format": "pt"})

    ours, theirs = opened(folders["sd21"]), opened(folder)
    assert theirs.defaults == T2I
    options: dict[str, Any] = {
        "cameras": Cameras.orbit(4),
        "steps": 2,
        "guidance": 5.0,
        "suffix": "",
        "origin": None,
    }
    assert torch.equal(generate(theirs, "a mug", **options).rgb, generate(ours, "a mug", **options).rgb)
    (folder / "unet" / "config.json").write_text(json.dumps({**described, "num_head_channels": -1, "num_heads": -1}))
    with pytest.raises(WeightsError, match=r"unet/config\.json` must give the heads"):
        load(folder, device="cpu")


@pytest.mark.slow
def test_a_plain_2d_folder_is_where_training_starts(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its own network at first: the camera's MLP adds zero to the time embedding, whatever the camera."""
    path = tmp_path / "plain.safetensors"
    save_file(released("sd15", camera=False), path)
    folder = tmp_path / "plain"
    convert(path, to=folder, **heads_of("sd15"))
    folder = copied(folder, tmp_path / "sd", unet=["diffusers", "UNet2DConditionModel"], safety_checker=[None, None])
    config = json.loads((folder / "unet" / "config.json").read_text())
    old = {k: v for k, v in config.items() if "class_embed" not in k}  # SD 1.5's folder does not have these
    (folder / "unet" / "config.json").write_text(json.dumps({**old, "_class_name": "UNet2DConditionModel"}))
    model = load(folder, device="cpu")
    assert model.unet.class_embedding is None
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 2, 4, 8, 8, generator=generator), torch.randn(2, 77, 64, generator=generator)
    with torch.no_grad():
        before = model.unet(latents, 10, text)
        with pytest.raises(InputError, match="viewfold train"):
            model.unet(latents, 10, text, torch.ones(2, 2, 16))
        model.unet.add_camera_embedding()
        assert torch.equal(model.unet(latents, 10, text, torch.ones(2, 2, 16)), before)
        assert torch.equal(model.unet(latents, 10, text), before)
        model.unet.class_embedding.linear_2.weight.fill_(0.1)  # the layer is in use
        assert not torch.equal(model.unet(latents, 10, text, torch.ones(2, 2, 16)), before)
    model.save_pretrained(tmp_path / "grown")
    assert load(tmp_path / "grown", device="cpu").unet.class_embedding is not None


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image_embed.latents", "input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight"])
def test_imagedreams_networks_are_recognised(name: str) -> None:
    tensors = {**unet_tensors("sd21"), name: torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"ImageDream.*1 tensors.*CLIP image encoder.*sd-v2\.1-base-4view\.pt"):
        unet_from_original(tensors, head_channels=16)
    with pytest.raises(WeightsError, match="ImageDream"):
        keymap.refuse_image_prompt([f"model.diffusion_model.{name}"])


def test_integers_in_place_of_weights_are_named() -> None:
    tensors = {**unet_tensors("sd21"), "out.2.bias": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(WeightsError, match=r"out\.2\.bias of int64 instead of floating point"):
        unet_from_original(tensors, head_channels=16)


def test_a_released_model_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFOLD_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"weights fetch mvdream-sd21, or .*sd-v2\.1-base-4view\.pt --to"):
        load("mvdream-sd21")


# Defaults -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_draws_as_its_index_says_unless_told(folders: dict[str, Path], tmp_path: Path) -> None:
    stated = {"guidance": 3.0, "steps": 2, "azimuth_deg": 90.0, "elevation_deg": 10.0, "suffix": ", 3d asset"}
    model = opened(copied(folders["sd21"], tmp_path / "model", **stated))
    assert model.defaults == Defaults(**stated)
    read: list[str] = []
    original = MultiViewPipeline.condition

    class Watched(MultiViewPipeline):
        def condition(self, prompts: Any) -> Any:
            read.extend(prompts)
            return original(self, prompts)

    model.__class__ = Watched
    views = generate(model, "a mug")
    assert read == ["", "a mug, 3d asset"] and views.prompt == "a mug"
    assert {k: views.run["settings"][k] for k in ("steps", "guidance", "suffix")} == {
        "steps": 2,
        "guidance": 3.0,
        "suffix": ", 3d asset",
    }
    position = views.cameras.world_from_camera[0, :3, 3]
    assert position[0] > 0 and position[1].abs() < 1e-5 * position[0].abs() + 1e-5  # azimuth 90 is +x
    read.clear()
    generate(model, "a mug", suffix="", steps=1, guidance=1.0)
    generate(model, "a mug, 3d asset", steps=1, guidance=1.0)
    assert read == ["a mug", "a mug, 3d asset"]
    model.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again", device="cpu").defaults == Defaults(**stated)


def test_the_shipped_model_keeps_its_ways() -> None:
    assert load("toybox", device="cpu").defaults == defaults.TOYBOX
    assert released_defaults(TOYBOX) == Defaults()


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("steps", 2.5), ("guidance", -1), ("guidance", "7"), ("suffix", 3), ("elevation_deg", 100)],
)
def test_settings_that_cannot_be_used_are_named(
    folders: dict[str, Path], tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(WeightsError, match=rf"model_index\.json` must give settings.*`{name}`"):
        load(copied(folders["sd21"], tmp_path / "model", **{name: value}), device="cpu")
