"""Subjects cut out of photographs: toys over grounds, the largest thing, its holes, and what is no subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from torch.nn.functional import interpolate

from viewfold.camera import Cameras
from viewfold.data.cutout import find_subject
from viewfold.data.photos import PhotoSettings, read_photos
from viewfold.data.toybox import Asset
from viewfold.picture import to_pil
from viewfold.scene.rasterize import Rendering, rasterize

pytest.importorskip("cv2", reason="pip install opencv-python-headless")

GREY, RED, BLUE, GREEN = (204, 204, 204), (220, 30, 30), (30, 30, 220), (30, 160, 60)


def over_ground(drawn: Rendering, name: str) -> torch.Tensor:
    generator, size = torch.Generator().manual_seed(0), drawn.rgb.shape[-1]
    ramp = torch.linspace(0.55, 0.8, size)[None, :, None].expand(3, size, size)
    blotches = interpolate(torch.randn((1, 3, 30, 30), generator=generator), (size, size), mode="bicubic")[0]
    behind = {"plain": torch.full_like(ramp, 0.7), "shaded": ramp, "textured": 0.65 + 0.05 * blotches}[name]
    noise = 0.02 * torch.randn((3, size, size), generator=generator)
    return (drawn.rgb[0] + behind * (1 - drawn.alpha[0]) + noise).clamp(0, 1)


CUT = [("plain", "red", "white"), ("shaded", "purple", "lime"), ("textured", "purple", "lime")]
"""GrabCut alone closes the handle of the first."""


@pytest.mark.parametrize(("name", "main", "accent"), CUT)
def test_a_toy_is_cut_out_of_its_ground_and_its_handle_is_open(
    tmp_path: Path, name: str, main: str, accent: str
) -> None:
    mesh = Asset.of("mug", main, accent, seed=1).mesh()
    drawn = rasterize(mesh, Cameras.orbit(1, elevation_deg=10, azimuth_deg=0, distance=2.0), size=256)
    picture = over_ground(drawn, name)
    mask, again = find_subject(picture), find_subject(picture)
    assert isinstance(mask, torch.Tensor) and torch.equal(mask, again)
    found, true = mask > 0.5, drawn.alpha[0] > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.95
    hole = torch.from_numpy(binary_fill_holes(true[0].numpy())) & ~true[0]
    assert hole.sum() > 200 and (found[0] & hole).sum() < 0.2 * hole.sum()
    to_pil(picture).save(tmp_path / "a.png")
    photos = read_photos(tmp_path, size=64, settings=PhotoSettings(background="remove"))
    assert photos.photos[0].notes == () and 0.1 < float(photos.rgba[0, 3].mean()) < 0.8


@pytest.mark.parametrize("scene", ["nothing", "close", "speck"])
def test_a_picture_of_which_no_plausible_subject_is_found_is_kept_whole_and_said(tmp_path: Path, scene: str) -> None:
    picture = Image.new("RGB", (200, 200), GREEN)
    if scene == "close":
        picture.paste(RED, (8, 8, 192, 192))
    elif scene == "speck":
        picture.paste(RED, (100, 100, 110, 110))
    picture.save(tmp_path / "a.png")
    photos = read_photos(tmp_path, size=64, settings=PhotoSettings(background="remove"))
    assert bool((photos.rgba[0, 3] == 1).all())
    assert any(note.startswith("a.png: its background is kept, since what was cut out") for note in photos.notes)


def test_the_largest_thing_is_cut_out_with_its_hole_and_without_specks() -> None:
    picture = Image.new("RGB", (200, 200), GREY)
    picture.paste(RED, (30, 30, 160, 150))
    picture.paste(GREY, (70, 60, 120, 120))  # what shows through a handle
    picture.paste(GREY, (40, 40, 45, 45))  # a spot
    picture.paste(BLUE, (170, 170, 185, 185))  # another thing
    rgb = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).permute(2, 0, 1)
    mask = find_subject((rgb + 0.02 * torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1))
    expected = torch.zeros(1, 200, 200)
    expected[:, 30:150, 30:160] = 1
    expected[:, 60:120, 70:120] = 0
    assert isinstance(mask, torch.Tensor) and ((mask > 0.5) != (expected > 0.5)).float().mean() < 0.003
    assert mask[0, 42, 42] > 0.5
