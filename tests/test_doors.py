"""Small cruelties at the doors: pipes, NULs, the root of the disk, factors in other shapes and numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import tiny_unet
from PIL import Image
from safetensors.torch import save_file

from viewfold.camera import Cameras
from viewfold.data.assets import write_assets
from viewfold.data.inventory import alone
from viewfold.errors import AssetError, InputError, OutputError
from viewfold.picture import read_image
from viewfold.pipeline.batch import read_prompts
from viewfold.store import check_output
from viewfold.store.claims import Claims
from viewfold.views import Views
from viewfold.weights.lora import read_lora


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="folder|pipe|device"):
        read_prompts(tmp_path / "pipe")
    with pytest.raises(AssetError, match="folder|pipe|device"):
        read_image(tmp_path / "pipe")


def test_the_root_of_the_disk_is_no_place_for_results() -> None:
    with pytest.raises(OutputError, match="it is the root of a disk"):
        check_output("/", holds=r"\d+\.png")


def test_a_nul_in_the_name_of_a_place_for_results_is_named(tmp_path: Path) -> None:
    place, message = str(tmp_path / "a\0b"), "no file can have a NUL in its name. Name another place"
    with pytest.raises(OutputError, match=message):
        write_assets(place, count=1)
    with pytest.raises(OutputError, match=message), alone(place):
        pass
    with pytest.raises(OutputError, match=message), Claims(place):
        pass


def test_a_nul_in_the_name_of_a_picture_is_named(tmp_path: Path) -> None:
    folder = Views(rgb=torch.rand(1, 3, 8, 8), cameras=Cameras.orbit(1)).save(tmp_path / "views")
    text = (folder / "transforms.json").read_text().replace("000.png", "000\\u0000.png")
    (folder / "transforms.json").write_text(text)
    with pytest.raises(AssetError, match="must have a `file_path`; got .*x00"):
        Views.load(folder)


@pytest.mark.parametrize("kind", ["1x1", "float8", "nan alpha"])
def test_lora_files_of_other_programs(kind: str, tmp_path: Path) -> None:
    """Kohya's 1 x 1 convolutions for linear layers, and eight-bit floats, are the factors that they stand for."""
    unet = tiny_unet()
    name, layer = next((n, m) for n, m in unet.named_modules() if n.endswith("attn1.to_q"))
    down, up = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2)
    alpha = torch.tensor(float("nan") if kind == "nan alpha" else 2.0)
    stem = "lora_unet_" + name.replace(".", "_")
    stored = {"lora_down.weight": down, "lora_up.weight": up}
    if kind == "1x1":
        stored = {key: tensor[:, :, None, None].contiguous() for key, tensor in stored.items()}
    if kind == "float8":
        stored = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in stored.items()}
        down, up = (tensor.float() for tensor in stored.values())
    file = tmp_path / "a.safetensors"
    save_file({**{f"{stem}.{key}": tensor for key, tensor in stored.items()}, f"{stem}.alpha": alpha}, file)
    if kind == "nan alpha":
        with pytest.raises(Exception, match="do not fit"):
            read_lora(file, unet=unet, text_encoder=None)
        return
    read = read_lora(file, unet=unet, text_encoder=None)["unet"]
    torch.testing.assert_close(read[f"unet.{name}.lora_A.weight"], down)
    torch.testing.assert_close(read[f"unet.{name}.lora_B.weight"], up)


def _grey16(path: Path) -> None:
    Image.fromarray(np.array([[0, 32768], [65535, 16384]], np.uint16)).save(path)


def _palette(path: Path) -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    picture.save(path, transparency=1)


def _turned(path: Path) -> None:
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    picture.save(path, exif=exif)


@pytest.mark.parametrize(("write", "expected"), [
    (_grey16, [[[0.0, 0.5], [1.0, 0.25]]] * 3),
    (_palette, [[[1.0, 0], [1, 1]], [[0, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [1, 1]]]),
    (_turned, [[[1.0], [0.0]], [[0.0], [0.0]], [[0.0], [1.0]]]),
    (lambda path: Image.new("LA", (1, 1), (51, 102)).save(path), [[[0.2]], [[0.2]], [[0.2]], [[0.4]]]),
])  # fmt: skip
def test_pictures_of_every_kind_are_scaled_and_the_right_way_up(write: Any, expected: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    torch.testing.assert_close(read_image(tmp_path / "a.png"), torch.tensor(expected), atol=1e-4, rtol=0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red = read_image(tmp_path / "a.jpg")[:, 4, 4]
    assert red[0] > 0.9 and float(red[1:].max()) < 0.15
