"""3D Gaussians on pictures: a closed form, and a slow rasteriser that agrees in values and gradients."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from clouds import NUMBERS, cloud, single
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.gaussian import tiles
from viewfold.scene.gaussian.cloud import C0, C1, Gaussians
from viewfold.scene.gaussian.cuda import draw_with_gsplat, has_gsplat
from viewfold.scene.gaussian.projection import LOW_PASS, project
from viewfold.scene.gaussian.reference import draw_slowly
from viewfold.scene.gaussian.tiles import draw_gaussians
from viewfold.scene.rendering import Rendering

CAMERAS = Cameras.orbit(2, elevation_deg=20)


def strange() -> Gaussians:
    """The usual ones, and one each: behind the camera, across its plane, huge, tiny, outside, faint, not finite."""
    at = CAMERAS.position[0]
    odd = [
        single(mean=(1.5 * at).tolist()),
        single(mean=(at - 0.005 * at / at.norm()).tolist()),
        single(mean=(0.97 * at + torch.tensor([0.05, 0, 0])).tolist(), log_scale=[math.log(0.02)] * 3),
        single(log_scale=[math.log(3.0)] * 3, opacity_logit=-2.0),
        single(log_scale=[math.log(2.0), math.log(1e-4), math.log(1e-4)], rotation=[0.9, 0.1, 0.4, 0.2]),
        single(log_scale=[math.log(1e-5)] * 3, mean=[0.1, 0, 0.1]),
        single(mean=[0.62, 0.1, 0.1]),
        single(mean=[30.0, 0.1, 0.1]),
        single(opacity_logit=-20.0),
        single(opacity_logit=20.0, mean=[0.0, 0.2, -0.1]),
    ]
    usual = cloud(30, degree=0)
    return Gaussians(**{n: torch.cat([getattr(g, n) for g in (usual, *odd)]) for n in NUMBERS})


def gradients(drawn: Rendering, of: Gaussians) -> dict[str, Tensor]:
    """Of a sum of all pixels with weights of their own."""
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (
            (torch.randn(picture.shape, generator=generator).to(picture) * picture).sum()
            for picture in (drawn.rgb, drawn.alpha, drawn.depth * drawn.alpha, drawn.normal)
        ),
        torch.zeros(()),
    )
    found = torch.autograd.grad(total, [getattr(of, name) for name in NUMBERS])
    return dict(zip(NUMBERS, found, strict=True))


def learned(gaussians: Gaussians) -> Gaussians:
    return Gaussians(**{name: getattr(gaussians, name).detach().clone().requires_grad_() for name in NUMBERS})


# Drawing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [draw_slowly, draw_gaussians])
def test_a_round_one_on_the_axis_is_drawn_as_its_formula_says(draw) -> None:
    """alpha = opacity exp(-r^2 / (2 sigma^2)), with sigma = 0.1 focal / distance pixels and the low pass."""
    camera = Cameras.orbit(1, fov_deg=50, distance=2.0)
    size = 33
    drawn = draw(single(opacity_logit=1.0), camera, size=size)
    focal = size / 2 / math.tan(math.radians(25))
    variance = (0.1 * focal / 2.0) ** 2 + 0.3  # as released
    at = torch.arange(size) - 16.0
    squared = at[:, None] ** 2 + at**2
    expected = torch.tensor(1.0).sigmoid() * torch.exp(-squared / (2 * variance))
    expected = torch.where(expected < 1 / 255, 0.0, expected)
    torch.testing.assert_close(drawn.alpha[0, 0], expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(drawn.rgb[0], 0.5 * drawn.alpha[0].expand(3, -1, -1), atol=1e-6, rtol=0)
    covered = drawn.alpha[0, 0] > 0
    torch.testing.assert_close(drawn.depth[0, 0][covered], torch.full([int(covered.sum())], 2.0), atol=1e-4, rtol=0)
    assert 0 < int(covered.sum()) < size**2


@pytest.mark.parametrize("opacity", [1.5 / 255, 0.4])
def test_a_box_ends_where_its_gaussian_absorbs_too_little_to_be_drawn(opacity: float) -> None:
    camera, size = Cameras.orbit(1, fov_deg=50, distance=2.0), 64
    splats = project(single(opacity_logit=math.log(opacity / (1 - opacity))), camera, size=size)
    variance = (0.1 * size / 2 / math.tan(math.radians(25)) / 2.0) ** 2 + 0.3
    at_the_edge = opacity * torch.exp(-splats.reach[0, 0].square() / (2 * variance))
    torch.testing.assert_close(at_the_edge, torch.full((2,), 1 / 255), rtol=1e-3, atol=0)
    assert splats.features.shape == (1, 1, 4), "colour and depth; a normal is work that nobody asked for"


def test_the_nearer_hides_the_farther_whatever_their_order() -> None:
    near, far = single(mean=[0.0, -0.3, 0], opacity_logit=2.0), single(mean=[0.0, 0.3, 0], opacity_logit=2.0)
    white = Gaussians(**{n: getattr(far, n) if n != "sh" else torch.full((1, 1, 3), 0.5 / C0) for n in NUMBERS})
    camera, share = Cameras.orbit(1, elevation_deg=0), float(torch.tensor(2.0).sigmoid())
    for pair in ((near, white), (white, near)):
        both = Gaussians(**{n: torch.cat([getattr(g, n) for g in pair]) for n in NUMBERS})
        middle = draw_gaussians(both, camera, size=65).rgb[0, 0, 32, 32]
        assert float(middle) == pytest.approx(share * 0.5 + (1 - share) * share, abs=2e-4)


def test_a_colour_depends_on_the_side_as_released_files_have_it() -> None:
    made = single()
    made = Gaussians(**{n: getattr(made, n) for n in NUMBERS if n != "sh"}, sh=torch.zeros(1, 4, 3))
    made.sh[0, 3, 0] = -0.4  # grows with x of the direction of sight
    from_left, from_right = (
        draw_gaussians(made, Cameras.orbit(1, elevation_deg=0, azimuth_deg=a), size=9) for a in (270.0, 90.0)
    )
    for drawn, sign in ((from_left, 1), (from_right, -1)):
        color = drawn.rgb[0, :, 4, 4] / drawn.alpha[0, 0, 4, 4]
        torch.testing.assert_close(color, torch.tensor([0.5 + sign * 0.4 * C1, 0.5, 0.5]), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="`sh` must hold 1 coefficient"):
        Gaussians(**{n: getattr(made, n) for n in NUMBERS if n != "sh"}, sh=torch.zeros(1, 9, 3))


@pytest.mark.parametrize("kind", ["usual", "strange", "large", "small"])
def test_the_fast_one_draws_what_the_slow_one_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In values and in the gradient of every number; at a size that no tile divides, in small portions."""
    made = {"strange": strange(), "large": cloud(3, size=1.0), "small": cloud(size=0.004)}.get(kind, cloud())
    monkeypatch.setattr(tiles, "AT_ONCE", 2000)
    fast, slow = learned(made), learned(made.double())
    drawn, expected = (
        draw(of, CAMERAS, size=21, normals=True) for draw, of in ((draw_gaussians, fast), (draw_slowly, slow))
    )
    for name in ("rgb", "alpha", "normal"):
        torch.testing.assert_close(getattr(drawn, name).double(), getattr(expected, name), atol=3e-5, rtol=0)
    depths = ((r.depth * r.alpha).double() for r in (drawn, expected))
    torch.testing.assert_close(*depths, atol=1e-4, rtol=0)
    assert float(expected.alpha.detach().max()) > 0.1
    truth = gradients(expected, slow)
    for name, found in gradients(drawn, fast).items():
        scale = float(truth[name].abs().max())
        torch.testing.assert_close(found.double(), truth[name], atol=2e-4 * scale, rtol=2e-3, msg=name)


def test_portions_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cloud()
    whole = draw_gaussians(made, CAMERAS, size=24).rgb
    for name, value in (("AT_ONCE", 1), ("TILE", 16)):
        monkeypatch.setattr(tiles, name, value)
        torch.testing.assert_close(draw_gaussians(made, CAMERAS, size=24).rgb, whole, atol=1e-5, rtol=0)


def test_what_touches_no_tile_is_not_asked_there() -> None:
    """A small one on a large picture costs its own tiles: the bound is of the ellipse at 1/255."""
    splats = project(single(log_scale=[math.log(0.02)] * 3), Cameras.orbit(1), size=256)
    _, tile, _, count = tiles._pairs(splats, 32)
    assert 4 <= len(tile) <= 16 and count.tolist() == [1] * len(tile)
    reach = float(splats.reach[0, 0, 0])
    sigma = 1 / math.sqrt(float(splats.conic[0, 0, 0]))
    assert reach == pytest.approx(sigma * math.sqrt(2 * math.log(255 * 0.5)), rel=1e-5)


def test_nothing_in_sight_is_an_empty_picture_and_sizes_are_checked() -> None:
    drawn = draw_gaussians(single(mean=[0.0, -9, 0]), Cameras.orbit(1), size=8, normals=True)
    assert all(not bool(p.any()) for p in (drawn.rgb, drawn.alpha, drawn.depth, drawn.normal))
    with pytest.raises(InputError, match="`size` must lie between 1 and 4096"):
        draw_gaussians(single(), CAMERAS, size=0)


def test_a_disc_faces_the_camera_with_its_shortest_axis() -> None:
    disc = single(log_scale=[math.log(0.2), math.log(0.01), math.log(0.2)])
    for azimuth, y in ((0.0, -1.0), (180.0, 1.0)):
        drawn = draw_gaussians(disc, Cameras.orbit(1, elevation_deg=0, azimuth_deg=azimuth), size=9, normals=True)
        normal = drawn.normal[0, :, 4, 4] / drawn.alpha[0, 0, 4, 4]
        torch.testing.assert_close(normal, torch.tensor([0.0, y, 0.0]), atol=1e-4, rtol=0)


@pytest.mark.skipif(not (torch.cuda.is_available() and has_gsplat()), reason="needs gsplat and CUDA")
def test_gsplat_draws_the_same() -> None:
    made = cloud(degree=0)
    there = Gaussians(**{name: getattr(made, name).cuda() for name in NUMBERS})
    drawn = draw_with_gsplat(there, CAMERAS.to("cuda"), size=48, normals=True).to("cpu")
    expected = draw_gaussians(made, CAMERAS, size=48, normals=True)
    for name in ("rgb", "alpha", "normal"):
        assert float((getattr(drawn, name) - getattr(expected, name)).abs().mean()) < 0.01


def test_gsplat_is_asked_in_its_own_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a fake that projects the means as OpenCV does: they come out where ours do, with what ours composites."""
    made, asked = cloud(), {}

    def rasterization(mean, rotation, scale, opacity, features, camera_from_world, lens, width, height, **options):
        seen = torch.einsum("vij,gj->vgi", camera_from_world[:, :3, :3], mean) + camera_from_world[:, None, :3, 3]
        at = torch.einsum("vij,vgj->vgi", lens, seen)
        asked.update(center=at[..., :2] / at[..., 2:], depth=seen[..., 2], features=features, options=options)
        torch.testing.assert_close(scale, made.log_scale.exp())
        torch.testing.assert_close(opacity, made.opacity_logit.sigmoid())
        assert rotation is made.rotation
        return torch.ones(2, height, width, 7), torch.full((2, height, width, 1), 0.5), {}

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    drawn = draw_with_gsplat(made, CAMERAS, size=20, normals=True)
    splats = project(made, CAMERAS, size=20, normals=True)
    torch.testing.assert_close(asked["center"], splats.center, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(asked["depth"], splats.features[..., 3])
    torch.testing.assert_close(asked["features"], splats.features)
    assert asked["options"] == {"near_plane": 0.01, "eps2d": LOW_PASS, "packed": False}
    assert drawn.rgb.shape == (2, 3, 20, 20) and float(drawn.depth.mean()) == 2.0 and float(drawn.normal.mean()) == 1.0
