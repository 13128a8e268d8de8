"""Files of weights: strict, atomic, and harmless whoever made them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from viewfold.errors import InputError, OutputError, WeightsError
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21, UNetLayout
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.convert import convert, write_scheduler
from viewfold.weights.folder import check_folder
from viewfold.weights.keymap import original_name, read_unet_layout, unet_modules
from viewfold.weights.network import load_unet
from viewfold.weights.original import split, unet_from_original

DATA = Path(__file__).parent / "parity"


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    """The small network of the parity data, in the original's names (float16 as stored)."""
    stored = load_file(DATA / "unet_small.safetensors")
    return {key.removeprefix("weights."): value for key, value in stored.items() if key.startswith("weights.")}


def small_vae() -> dict[str, Tensor]:
    shapes = json.loads((DATA / "vae.json").read_text())["shapes"]
    return {key: torch.full(shape, 0.01) for key, shape in shapes.items()}


def call(unet: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 2, 4, 8, 8, generator=generator), torch.randn(1, 7, 32, generator=generator)
    with torch.no_grad():
        return unet(latents, 10, text, torch.ones(1, 2, 16))


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_unet_converts_from_every_wrapping(
    small: dict[str, Tensor], tmp_path: Path, prefix: str, suffix: str
) -> None:
    path = tmp_path / f"released{suffix}"
    tensors = {prefix + key: value for key, value in small.items()}
    if suffix == ".pt":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    else:
        save_file(tensors, path)
    written = convert(path, to=tmp_path / "model", head_channels=8)
    assert written == {"unet": tmp_path / "model" / "unet"}
    direct = unet_from_original({key: value.float() for key, value in small.items()}, head_channels=8)
    assert torch.equal(call(load_unet(tmp_path / "model")), call(direct))
    assert torch.equal(call(load_unet(tmp_path / "model" / "unet")), call(direct))


def test_one_file_with_everything_becomes_a_folder_with_its_parts(small: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{key}": value for key, value in small.items()}
    tensors |= {f"first_stage_model.{key}": value for key, value in small_vae().items()}
    tensors |= {"betas": torch.zeros(1000), "model_ema.decay": torch.ones(1)}
    save_file(tensors, tmp_path / "all.safetensors")
    written = convert(tmp_path / "all.safetensors", to=tmp_path / "model", head_channels=8)
    assert set(written) == {"unet", "vae"}
    config = json.loads((tmp_path / "model" / "vae" / "config.json").read_text())
    assert (config["latent_channels"], config["scaling_factor"]) == (4, 0.18215)
    scheduler = json.loads((tmp_path / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["beta_schedule"], scheduler["prediction_type"]) == ("scaled_linear", "epsilon")


@pytest.mark.parametrize("layout", [MVDREAM_SD21, MVDREAM_SD15])
def test_the_layout_of_a_network_is_read_off_its_shapes(layout: UNetLayout) -> None:
    with torch.device("meta"):
        state = layout.build().state_dict()
    shapes = {original_name(name, unet_modules(layout)): tuple(tensor.shape) for name, tensor in state.items()}
    assert len(shapes) == len(state) == 690
    assert read_unet_layout(shapes, heads=layout.heads, head_channels=layout.head_channels) == layout


def test_a_network_without_camera_is_a_plain_2d_one(small: dict[str, Tensor]) -> None:
    unet = unet_from_original({k: v for k, v in small.items() if not k.startswith("camera_embed")}, head_channels=8)
    assert unet.class_embedding is None


def test_missing_and_unexpected_names_are_listed(small: dict[str, Tensor]) -> None:
    tensors = dict(small)
    tensors["input_blocks.1.1.adapter.weight"] = tensors.pop("out.0.bias")
    with pytest.raises(WeightsError, match=r"missing: 1 \(out\.0\.bias\); unexpected: 1 \(input_blocks.1.1.adapter"):
        unet_from_original(tensors, head_channels=8)


def test_a_tensor_of_another_shape_is_named(small: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"out\.2\.bias \(5,\) instead of \(4,\)"):
        unet_from_original({**small, "out.2.bias": torch.zeros(5)}, head_channels=8)


@pytest.mark.parametrize("heads", [{}, {"heads": 4, "head_channels": 8}, {"heads": 7}, {"head_channels": 0}])
def test_heads_must_be_told_and_fit(small: dict[str, Tensor], heads: dict[str, int]) -> None:
    with pytest.raises(InputError, match="head"):
        unet_from_original(small, **heads)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"input_blocks\.0\.0\.weight"):
        unet_from_original({"transformer.h.0.attn.weight": torch.zeros(3)}, heads=8)
    with pytest.raises(WeightsError, match=r"unexpected: 1 \(ip_model"):
        split({"model.diffusion_model.out.2.bias": torch.zeros(4), "ip_model.x": torch.zeros(1)})


class Runs:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pickle_that_runs_code_is_refused_and_named(tmp_path: Path) -> None:
    for name, write in (("zip.pt", torch.save), ("bare.pt", lambda obj, path: path.write_bytes(pickle.dumps(obj, 2)))):
        write({"state_dict": Runs()}, tmp_path / name)
        with pytest.raises(WeightsError, match=rf"{name} would run code.*exec"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    tensors = {"a": torch.ones(1000)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(WeightsError, match="`path` must"):
        read_checkpoint(path)


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "vast.pt")
    with pytest.raises(WeightsError, match="claims 4000000000000 bytes"):
        read_checkpoint(tmp_path / "vast.pt")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_would_inflate_is_refused(method: int, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", method) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(tmp_path / "packed.pt")


@pytest.mark.parametrize("name", ["absent.pt", "folder", "picture.png"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(WeightsError, match="`path` must"):
        read_checkpoint(tmp_path / name)


def test_a_failed_conversion_leaves_nothing(small: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({**small, "stranger": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError):
        convert(tmp_path / "bad.safetensors", to=tmp_path / "model", head_channels=8)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_a_folder_of_something_else_is_not_overwritten(small: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(small, tmp_path / "good.safetensors")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(OutputError, match="other things"):
        convert(tmp_path / "good.safetensors", to=tmp_path / "photos", head_channels=8)
    assert (tmp_path / "photos" / "cat.png").exists()


def test_a_folder_with_missing_or_absurd_contents_is_refused(small: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="config.json"):
        load_unet(tmp_path / "nowhere")
    save_file(small, tmp_path / "good.safetensors")
    convert(tmp_path / "good.safetensors", to=tmp_path / "model", head_channels=8)
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    config = weights.parent / "config.json"
    whole, described = weights.read_bytes(), json.loads(config.read_text())
    tensors = load_file(weights)
    save_file({key: value for key, value in tensors.items() if key != "conv_out.bias"}, weights)
    with pytest.raises(WeightsError, match="conv_out.bias"):
        load_unet(tmp_path / "model")
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load_unet(tmp_path / "model")
    weights.write_bytes(whole)
    config.write_text(json.dumps({**described, "layers_per_block": 10**9}))
    with pytest.raises(WeightsError, match="at most 16; `layers_per_block`"):
        load_unet(tmp_path / "model")
    config.write_text("[")
    with pytest.raises(WeightsError, match="JSON object"):
        load_unet(tmp_path / "model")


def test_tensors_that_the_network_does_not_have_and_those_of_another_shape_are_listed(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(small, tmp_path / "good.safetensors")
    convert(tmp_path / "good.safetensors", to=tmp_path / "model", head_channels=8)
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({**tensors, "stranger.weight": torch.zeros(1)}, weights)
    with pytest.raises(WeightsError, match=r"Net that it describes; unexpected 1 \(stranger\.weight"):
        load_unet(tmp_path / "model")
    save_file({**tensors, "conv_out.bias": torch.zeros(5)}, weights)
    with pytest.raises(WeightsError, match=r"conv_out\.bias"):
        load_unet(tmp_path / "model")


def test_a_network_is_loaded_to_evaluate_in_the_type_that_is_asked_for(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(small, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", to=tmp_path / "model", head_channels=8)
    unet = load_unet(tmp_path / "model")
    assert not unet.training and unet.dtype == torch.float32
    assert load_unet(tmp_path / "model", dtype=torch.bfloat16).dtype == torch.bfloat16
    stored = load_file(next((tmp_path / "model" / "unet").glob("*.safetensors")))
    assert {tensor.dtype for tensor in stored.values()} == {next(iter(small.values())).dtype}
    convert(tmp_path / "a.safetensors", to=tmp_path / "wide", head_channels=8, dtype=torch.float32)
    stored = load_file(next((tmp_path / "wide" / "unet").glob("*.safetensors")))
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("told", "heads"), [({"num_head_channels": 8}, 2), ({"num_heads": 2, "num_head_channels": -1}, 2), ({}, None)]
)
def test_a_folder_in_the_originals_names_is_read(
    small: dict[str, Tensor], tmp_path: Path, told: dict[str, int], heads: int | None
) -> None:
    folder = tmp_path / "port"
    folder.mkdir()
    save_file(small, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_channels": 16, **told}))
    if heads is None:
        with pytest.raises(WeightsError, match=r"config\.json` must give the heads"):
            load_unet(folder)
        return
    channels = {"head_channels": 8} if "num_heads" not in told else {"heads": 2}
    direct = unet_from_original({key: value.float() for key, value in small.items()}, **channels)
    assert torch.equal(call(load_unet(folder)), call(direct))
    save_file(small, folder / "more.safetensors")
    with pytest.raises(WeightsError, match=r"one file of weights .* has 2"):
        load_unet(folder)


def test_the_written_noise_schedule_is_the_originals(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    write_scheduler(tmp_path / "scheduler")
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    saved = load_file(DATA / "ddim.safetensors")["schedule.alphas_cumprod"]
    torch.testing.assert_close(scheduler.alphas_cumprod, saved, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scheduler.final_alpha_cumprod, saved[0], atol=1e-6, rtol=1e-5)
    assert not scheduler.config["clip_sample"] and scheduler.config["steps_offset"] == 1


def test_tensors_are_sorted_by_network_and_what_is_of_the_schedule_or_averages_is_dropped() -> None:
    zero = torch.zeros(1)
    names = ["model.diffusion_model.a", "first_stage_model.b", "cond_stage_model.c"]
    dropped = [
        "betas",
        "alphas_cumprod_prev",
        "sqrt_alphas",
        "log_one_minus_x",
        "posterior_x",
        "logvar",
        "lvlb_weights",
    ]
    dropped += ["scale_factor", "model_ema.decay"]
    parts = split(dict.fromkeys([*names, *dropped], zero))
    assert {part: list(tensors) for part, tensors in parts.items()} == {
        "unet": ["a"],
        "vae": ["b"],
        "text_encoder": ["c"],
    }
    assert list(split({"encoder.x": zero, "betas": zero})) == ["vae"]
    assert list(split({"input_blocks.x": zero})) == ["unet"]


@pytest.mark.parametrize("layers", [17, [2, 17]])
def test_layers_beyond_reason_are_refused_and_sixteen_are_not(tmp_path: Path, layers: object) -> None:
    for name in ("layers_per_block", "transformer_layers_per_block"):
        (tmp_path / "config.json").write_text(json.dumps({name: layers}))
        with pytest.raises(WeightsError, match=f"at most 16; `{name}` is 17"):
            check_folder(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({name: [0, 16]}))
        check_folder(tmp_path)


@pytest.mark.parametrize("layers", [-1, 2.5, "many", None, {}])
def test_layers_that_are_no_number_are_refused(small: dict[str, Tensor], tmp_path: Path, layers: object) -> None:
    save_file(small, tmp_path / "good.safetensors")
    config = convert(tmp_path / "good.safetensors", to=tmp_path / "model", head_channels=8)["unet"] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layers_per_block": layers}))
    with pytest.raises(WeightsError, match="unet` (cannot be read as|must hold)"):
        load_unet(tmp_path / "model")
