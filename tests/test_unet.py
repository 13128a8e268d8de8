"""The view fold obeys its laws, and survives what diffusers and torch do to a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.model.attention import ViewFold
from viewfold.model.condition import Condition
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21, UNetLayout
from viewfold.model.unet import MultiViewUNet

LAYOUT = UNetLayout(
    channels=(32, 64), attention=(True, False), n_resnets=1, latent_channels=4, text_dim=24, heads=4, latent_size=8
)
ROUNDING = 2e-5


def network(seed: int = 0) -> MultiViewUNet:
    torch.manual_seed(seed)
    return LAYOUT.build().eval()


def inputs(n_objects: int = 2, n_views: int = 4, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    timesteps = torch.randint(0, 1000, (n_objects,), generator=generator)
    return normal(n_objects, n_views, 4, 8, 8), timesteps, normal(n_objects, 5, 24), normal(n_objects, n_views, 16)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= ROUNDING)


@torch.no_grad()
def test_permuting_views_permutes_outputs() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    order = torch.tensor([2, 0, 3, 1])
    assert close(unet(x[:, order], t, text, cameras[:, order]), unet(x, t, text, cameras)[:, order])


@torch.no_grad()
def test_views_of_one_object_see_each_other_and_objects_do_not() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    changed = x.clone()
    changed[0, 1] += 1
    before, after = unet(x, t, text, cameras), unet(changed, t, text, cameras)
    moved = (after - before).abs().amax(dim=(2, 3, 4))
    assert (moved[0] > 1e-4).all()
    assert (moved[1] <= ROUNDING).all()


@torch.no_grad()
def test_one_view_without_camera_is_the_plain_2d_network() -> None:
    unet, (x, t, text, _) = network(), inputs(n_objects=3, n_views=1)
    config = {**LAYOUT.config(), "class_embed_type": None, "projection_class_embeddings_input_dim": None}
    plain = UNet2DConditionModel(**config).eval()
    plain.load_state_dict({k: v for k, v in unet.state_dict().items() if not k.startswith("class_embedding")})
    assert close(unet(x, t, text)[:, 0], plain(x[:, 0], t, text).sample)


@torch.no_grad()
def test_identical_views_without_camera_stay_identical_to_one_view() -> None:
    # Keys that are repeated v times leave the softmax average as it was.
    unet, (x, t, text, _) = network(), inputs(n_views=1)
    assert close(unet(x.expand(-1, 4, -1, -1, -1), t, text), unet(x, t, text).expand(-1, 4, -1, -1, -1))


@torch.no_grad()
def test_no_camera_is_not_a_camera_of_zeros() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    assert not close(unet(x, t, text), unet(x, t, text, torch.zeros_like(cameras)))


@torch.no_grad()
def test_cameras_are_told_as_16_numbers_a_view_shared_or_each_objects_own() -> None:
    unet, (x, t, text, _) = network(), inputs()
    one, other = Cameras.orbit(4), Cameras.orbit(4, elevation_deg=50, distance=9.0)
    told = Condition({"tokens": text})
    own = unet(x, t, told, Cameras.cat([one, other]))
    assert torch.equal(own, unet(x, t, text, torch.stack([one.code(), other.code()])))
    assert close(unet(x, t, told, one), unet(x, t, told, Cameras.cat([one, one])))
    assert not close(own[1], unet(x, t, told, one)[1])
    with pytest.raises(InputError, match="`cameras` must be 4, the same for all objects, or 8, those of each"):
        unet(x, t, told, one[:3])


@torch.no_grad()
def test_text_per_object_equals_the_same_text_for_each_view() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    per_view = text[:, None].expand(-1, 4, -1, -1)
    assert close(unet(x, t, text, cameras), unet(x, t, per_view, cameras))


@torch.no_grad()
def test_text_may_differ_from_view_to_view() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    per_view = text[:, None].repeat(1, 4, 1, 1)
    per_view[0, 2] += 1
    assert not close(unet(x, t, text, cameras)[0], unet(x, t, per_view, cameras)[0])
    assert close(unet(x, t, text, cameras)[1], unet(x, t, per_view, cameras)[1])


@torch.no_grad()
def test_one_timestep_serves_all_objects() -> None:
    unet, (x, _, text, cameras) = network(), inputs()
    assert close(unet(x, 500, text, cameras), unet(x, torch.tensor([500, 500]), text, cameras))


@torch.no_grad()
def test_an_object_does_not_depend_on_its_batch() -> None:
    unet, (x, t, text, cameras) = network(), inputs(n_objects=3)
    assert close(unet(x, t, text, cameras)[1:2], unet(x[1:2], t[1:2], text[1:2], cameras[1:2]))


def test_the_fold_is_attention_over_all_tokens_of_the_views() -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=16, heads=2, dim_head=8)
    attention.set_processor(ViewFold())  # type: ignore[arg-type]
    tokens = torch.randn(6, 5, 16)
    folded = AttnProcessor2_0()(attention, tokens.reshape(2, 15, 16)).reshape(6, 5, 16)
    assert torch.equal(attention(tokens, n_views=3), folded)
    assert torch.equal(attention(tokens, n_views=1), AttnProcessor2_0()(attention, tokens))


@torch.no_grad()
def test_the_network_survives_saving_and_loading(tmp_path: Path) -> None:
    unet, data = network(), inputs()
    unet.save_pretrained(tmp_path)
    assert close(MultiViewUNet.from_pretrained(tmp_path).eval()(*data), unet(*data))


@torch.no_grad()
def test_a_folder_that_names_the_stock_class_loads_with_the_fold(tmp_path: Path) -> None:
    unet, data = network(), inputs()
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    assert close(MultiViewUNet.from_pretrained(tmp_path).eval()(*data), unet(*data))


def gradients(unet: MultiViewUNet) -> list[Tensor]:
    x, t, text, cameras = inputs()
    flat, flat_t, flat_text, _ = inputs(n_objects=3, n_views=1, seed=2)
    loss = unet(x, t, text, cameras).square().mean() + unet(flat, flat_t, flat_text).square().mean()
    loss.backward()
    return [p.grad for p in unet.parameters() if p.grad is not None]


def test_gradient_checkpointing_keeps_2d_and_3d_batches_apart_in_one_backward() -> None:
    plain, frugal = network().train(), network().train()
    frugal.enable_gradient_checkpointing()
    expected, found = gradients(plain), gradients(frugal)
    assert len(expected) == len(found) == len(list(plain.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_single(dtype: torch.dtype) -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    expected = unet(x, t, text, cameras)
    torch.nn.Module.to(unet, dtype)
    out = unet(x.to(dtype), t, text, cameras)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() / expected.norm() < 0.05


def test_a_foreign_self_attention_is_refused_and_the_way_back_works() -> None:
    unet, data = network(), inputs()
    for replace in (lambda: unet.set_attn_processor(AttnProcessor2_0()), lambda: unet.set_attention_slice(1)):
        replace()
        with pytest.raises(InputError, match="must fold the views"):
            unet(*data)
        unet.set_default_attn_processor()
        unet(*data)


def test_fused_projections_are_refused() -> None:
    unet = network()
    unet.fuse_qkv_projections()
    with pytest.raises(InputError, match="FusedAttnProcessor"):
        unet(*inputs())


@torch.no_grad()
def test_a_foreign_cross_attention_gets_one_text_per_view() -> None:
    class Foreign:
        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, n_views=1):
            assert len(hidden_states) == len(encoder_hidden_states)
            return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)

    unet, data = network(), inputs()
    expected = unet(*data)
    processors = {name: Foreign() if "attn2" in name else fold for name, fold in unet.attn_processors.items()}
    unet.set_attn_processor(processors)  # type: ignore[arg-type]
    assert close(unet(*data), expected)


def test_shapes_that_do_not_fit_are_named() -> None:
    unet, (x, t, text, cameras) = network(), inputs()
    for argument, arguments in {
        "latents": (x[:, :, :3], t, text, cameras),
        "timesteps": (x, torch.tensor([1, 2, 3]), text, cameras),
        "text": (x, t, text[:1], cameras),
        "text` must have 24": (x, t, text[..., :5], cameras),
        "cameras": (x, t, text, cameras[:, :3]),
    }.items():
        with pytest.raises(InputError, match=f"`{argument}"):
            unet._check(*arguments)


def test_cameras_for_a_plain_2d_network_are_refused() -> None:
    config = {**LAYOUT.config(), "class_embed_type": None, "projection_class_embeddings_input_dim": None}
    with pytest.raises(InputError, match="must have a camera embedding"):
        MultiViewUNet(**config)(*inputs())


@pytest.mark.parametrize(("layout", "millions"), [(MVDREAM_SD21, 867.57), (MVDREAM_SD15, 861.18)])
def test_the_released_layouts_have_the_released_size(layout: UNetLayout, millions: float) -> None:
    with torch.device("meta"):
        unet = layout.build()
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 2) == millions
    assert len(unet.state_dict()) == 690


def test_a_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="`heads` or `head_channels`"):
        UNetLayout(channels=(32,), attention=(True,))
    with pytest.raises(InputError, match="`head_channels` must divide"):
        UNetLayout(channels=(32,), attention=(True,), head_channels=5)


COMPILED = """
import test_unet as here, torch
unet, batch = here.network(), here.inputs()
compiled = torch.compile(unet, backend="aot_eager", fullgraph=True)
with torch.no_grad():
    assert here.close(compiled(*batch), unet(*batch))
    told = (*batch[:2], here.Condition({"tokens": batch[2]}), here.Cameras.orbit(4))
    assert here.close(compiled(*told), unet(*told))
    unet.set_attn_processor(here.AttnProcessor2_0())
    try:
        compiled(*batch)
    except Exception as error:
        print("refused", type(error).__name__)
"""


@pytest.mark.slow
def test_the_compiled_network_is_the_same_function() -> None:
    # In a process of its own: torch cannot trace through the shape checks that this suite installs.
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "src")])}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "refused" in done.stdout, done.stderr
