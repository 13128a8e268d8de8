"""The networks of benchmarks/claims.py: views meet, or do not, as each arm says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from claims import turned  # noqa: E402
from claims_network import CrossView, Frame, Meeting, Told, Variant  # noqa: E402

FOUR = Cameras.orbit(4, elevation_deg=15)
SMALL = {
    "sample_size": 4, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 8,
    "class_embed_type": None, "projection_class_embeddings_input_dim": None,
}  # fmt: skip


def network(views: Meeting = "fold", camera: Told = "time", frame: Frame = "world") -> Variant:
    """Return a network whose new parts have an effect."""
    torch.manual_seed(0)
    unet = Variant(**SMALL).vary(views=views, camera=camera, frame=frame).eval().requires_grad_(False)
    for parameter in unet.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.3)
    return unet


def drawn(unet: Variant, latents: torch.Tensor, cameras: Cameras = FOUR) -> torch.Tensor:
    text = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(1))
    return unet(latents, torch.tensor([500]), text, cameras)


@pytest.mark.parametrize(("views", "meet"), [("fold", True), ("pixel", True), ("new", True), ("alone", False)])
def test_a_view_sees_the_others_where_its_arm_says_so(views: Meeting, meet: bool) -> None:
    """diffusers passes a processor only the arguments that its signature names: `n_views` was once lost so."""
    unet, latents = network(views), torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    changed = latents.clone()
    changed[:, 3] += 1
    assert torch.equal(drawn(unet, latents)[:, :3], drawn(unet, changed)[:, :3]) is not meet


@pytest.mark.parametrize("views", ["pixel", "new"])
def test_new_attention_begins_without_effect_and_leaves_single_pictures_alone(views: Meeting) -> None:
    torch.manual_seed(0)
    plain = Variant(**SMALL).vary(views="alone", camera="none", frame="world").eval().requires_grad_(False)
    torch.manual_seed(0)
    fresh = Variant(**SMALL).vary(views=views, camera="none", frame="world").eval().requires_grad_(False)
    latents = torch.randn(1, 4, 4, 4, 4)
    assert torch.allclose(drawn(plain, latents), drawn(fresh, latents), atol=1e-6)
    moved = network(views, camera="none")
    one = drawn(moved, latents[:, :1], FOUR[[0]])
    for block in moved.modules():
        if isinstance(block, CrossView):
            for parameter in block.parameters():
                parameter.add_(1)
    assert torch.equal(one, drawn(moved, latents[:, :1], FOUR[[0]]))


@pytest.mark.parametrize(("camera", "told"), [("time", True), ("text", True), ("none", False)])
def test_a_camera_is_told_as_its_arm_says(camera: Told, told: bool) -> None:
    unet, latents = network(camera=camera), torch.randn(1, 4, 4, 4, 4)
    other = Cameras.orbit(4, elevation_deg=30)
    assert torch.equal(drawn(unet, latents), drawn(unet, latents, other)) is not told


def test_relative_cameras_do_not_say_where_the_first_one_stands() -> None:
    latents, turned = torch.randn(1, 4, 4, 4, 4), Cameras.orbit(4, elevation_deg=15, azimuth_deg=70)
    relative = network(frame="first")
    assert torch.allclose(drawn(relative, latents), drawn(relative, latents, turned), atol=1e-4)
    absolute = network()
    assert not torch.allclose(drawn(absolute, latents), drawn(absolute, latents, turned), atol=1e-4)


def test_views_that_turn_are_told_from_views_that_all_show_one_side() -> None:
    """A box of 4 x 1 x 2: broad sides at 0 and 180 degrees, with a handle on the right at 0; small ends between."""
    truth = torch.full((4, 3, 32, 32), 0.5)
    for view, (left, right) in enumerate(((4, 28), (13, 19), (4, 28), (13, 19))):
        truth[view, :, 8:24, left:right] = 1.0
    truth[0, :, 12:16, 28:31], truth[2, :, 12:16, 1:4] = 1.0, 1.0
    assert turned(truth, truth) == 1.0
    assert turned(truth[[0, 0, 0, 0]], truth) == 0.25
    assert turned(truth[[2, 1, 0, 3]], truth) == 0.5, "the handle tells front from back; the ends are alike"
    assert turned(truth[[1, 2, 3, 0]], truth) == 0.0
