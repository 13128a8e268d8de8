"""One meaning of colour beside alpha: straight, as PNG files hold it; every reader and writer agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lift_fakes import ball

from viewfold.camera import Cameras
from viewfold.lifting.observation import observe
from viewfold.lifting.photometric import Photometric
from viewfold.picture import read_image
from viewfold.pipeline.anchors import around
from viewfold.scene.rendering import Rendering
from viewfold.views import GROUND, Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)


def edge() -> Views:
    """Two pictures of a red object: its left half covered, then a column half covered, the rest empty (and black)."""
    alpha = torch.zeros(2, 1, 8, 8)
    alpha[..., :4], alpha[..., 4] = 1, 0.5
    red = torch.tensor([1.0, 0, 0])[None, :, None, None]
    return Views(rgb=red * (alpha > 0), alpha=alpha, cameras=CAMERAS[[0, 1]])


def ball_with_alpha(size: int = 32) -> Views:
    """The ball as a renderer that knows coverage gives it: straight colour, black where there is nothing."""
    over_black, alpha = ball(CAMERAS, size=size, ground=0.0)
    return Views(
        rgb=(over_black / alpha.clamp_min(1e-6)).clamp(0, 1), alpha=alpha, cameras=CAMERAS, prompt="a red ball"
    )


def test_a_half_covered_red_edge_is_red_on_disk_and_after(tmp_path: Path) -> None:
    edge().save(tmp_path / "edge")
    on_disk = read_image(tmp_path / "edge" / "000.png")
    torch.testing.assert_close(on_disk[:, 3, 4], torch.tensor([1.0, 0, 0, 128 / 255]))
    again = Views.load(tmp_path / "edge")
    assert again.alpha is not None
    torch.testing.assert_close(again.rgb, edge().rgb)
    torch.testing.assert_close(again.over(0.0)[0, :, 3, 4], torch.tensor([128 / 255, 0, 0]))


def test_views_lie_over_a_grey_or_a_colour_each() -> None:
    torch.testing.assert_close(edge().over()[0, :, 0, 4], torch.tensor([0.5 + GROUND / 2, GROUND / 2, GROUND / 2]))
    grounds = torch.tensor([[0.0, 0, 1], [0.0, 1, 0]])
    torch.testing.assert_close(edge().over(grounds)[:, :, 0, 4], 0.5 * grounds + torch.tensor([0.5, 0, 0]))
    opaque = Views(rgb=edge().rgb, cameras=CAMERAS[[0, 1]])
    assert torch.equal(opaque.over(0.0), opaque.rgb), "without alpha a picture has its own ground"


def test_sheets_and_turntables_show_the_ground_and_not_what_is_under_it(tmp_path: Path) -> None:
    views = edge()
    views.rgb[..., 5:] = 1.0  # colour where nothing is: no picture may show it
    views.save(tmp_path / "edge")
    sheet = read_image(tmp_path / "edge" / "contact.png")
    torch.testing.assert_close(sheet[:, 3, 4], torch.tensor([0.75, 0.25, 0.25]), atol=3e-3, rtol=0)
    torch.testing.assert_close(sheet[:, 3, 7], torch.full((3,), GROUND), atol=3e-3, rtol=0)
    turntable = read_image(tmp_path / "edge" / "turntable.webp")
    torch.testing.assert_close(turntable[:3, 3, 7], torch.full((3,), GROUND), atol=0.1, rtol=0)


def test_given_views_and_a_lift_see_the_same_pictures() -> None:
    views = ball_with_alpha()
    observed = observe(views)
    foreground, target = observed.foreground, Photometric.of(observed).shrunk(32)
    expected = ball(CAMERAS, size=32, ground=GROUND)[0]
    torch.testing.assert_close(target.rgb, expected, atol=1e-5, rtol=0)
    assert torch.equal(foreground.background, torch.full((4, 3), GROUND))
    fixed, _ = around(views, CAMERAS, encode=lambda pictures: pictures, size=32)
    torch.testing.assert_close(fixed.rgb, expected, atol=1e-5, rtol=0)


def test_a_render_of_the_truth_costs_nothing_over_any_ground() -> None:
    """What stands at an edge is compared over random grounds: premultiplied or straight colours would be off there."""
    views = ball_with_alpha()
    observed = observe(views)
    foreground, target = observed.foreground, Photometric.of(observed).shrunk(32)
    ground = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    behind, background = ground[:, :, None, None], foreground.background[:, :, None, None]
    expected = target.rgb + (1 - target.alpha) * (behind - background)
    torch.testing.assert_close(expected, views.over(ground), atol=1e-5, rtol=0)


class Flat:
    """Draws one grey and one coverage everywhere."""

    def __init__(self, grey: float, covers: float) -> None:
        self.grey, self.covers = grey, covers

    def render(self, cameras: Cameras, *, size: int, **how: object) -> Rendering:
        flat = torch.ones(len(cameras), 1, size, size)
        colors = self.covers * self.grey * flat.expand(-1, 3, -1, -1)
        return Rendering(rgb=colors, alpha=self.covers * flat, depth=flat, normal=flat.expand(-1, 3, -1, -1))


def plain(*, grey: float = 0.5, alpha: float = 1.0, certain: float = 1.0, **known: Any) -> Photometric:
    """Pictures of one grey pixel each, over white, from many sides."""
    n_views = 256
    one = torch.ones(n_views, 1, 1, 1)
    return Photometric(
        rgb=(alpha * grey + 1 - alpha) * one.expand(-1, 3, -1, -1),
        alpha=alpha * one,
        certainty=certain * one,
        background=torch.ones(n_views, 3),
        cameras=Cameras.orbit(n_views),
        **known,
    )


def test_a_hole_in_the_grounds_colour_is_no_object() -> None:
    """Over one ground nothing would be wrong; over any it is off by a variance of 1 / 12 and (1/2 - 1)^2 for white."""
    seeded = torch.Generator().manual_seed(0)
    for grey, expected in ((0.5, 1 / 12), (1.0, 1 / 12 + 1 / 4)):
        loss = plain(grey=grey, alpha_weight=0.0).loss(Flat(0.0, 0.0), generator=seeded)
        assert float(loss) == pytest.approx(expected, rel=0.1)
    there = plain(grey=0.3, alpha=0.5).loss(Flat(0.3, 0.5), generator=seeded)
    assert float(there) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("certain", [1.0, 0.2])
def test_colour_and_coverage_count_as_they_are_certain(certain: float) -> None:
    """A grey is off by 0.2; half a coverage by 0.5, beside its colour."""
    assert float(plain(certain=certain).loss(Flat(0.7, 1.0))) == pytest.approx(0.04 * certain, rel=1e-4)
    thin = plain(certain=certain, alpha_weight=1e4).loss(Flat(0.5, 0.5))
    assert float(thin) == pytest.approx(1e4 * 0.25 * certain, rel=1e-3)
    one = plain(certain=certain).loss(Flat(0.5, 0.5), generator=torch.Generator().manual_seed(0))
    assert float(one) == pytest.approx((0.25 + 0.25 / 12) * certain, rel=0.02), "unless it is said, one counts as one"
    for known, weighs in ((True, 2.0), (False, 0.0)):  # 0.5 over white where half is covered is off by 0.25
        opaque = plain(certain=certain, alpha_weight=2.0, alpha_known=known).opaque_loss(Flat(0.5, 0.5))
        assert float(opaque) == pytest.approx((0.0625 + weighs * 0.25) * certain, rel=1e-4)


def test_views_that_a_step_is_compared_with_are_drawn_whole_and_by_the_seed() -> None:
    """Each view's number is in all that is known of it."""
    numbered, every = plain(), torch.arange(256.0)
    known = {name: every.reshape(-1, *[1] * (getattr(numbered, name).ndim - 1)).expand_as(getattr(numbered, name))
             for name in ("rgb", "alpha", "certainty", "background")}  # fmt: skip
    numbered = replace(numbered, **known, cameras=replace(numbered.cameras, fov_deg=10 + every / 8))
    drawn = [numbered.some(8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for each in drawn:
        chosen = each.alpha.flatten()
        assert len(chosen.unique()) == 8
        assert all(torch.equal(getattr(each, name)[:, 0].flatten(), chosen) for name in known)
        torch.testing.assert_close(each.cameras.fov_deg, 10 + chosen / 8)
    first, again, other = (each.alpha.flatten().tolist() for each in drawn)
    assert first == again != other
    assert numbered.some(256) is numbered


@pytest.mark.parametrize("alpha", [False, True])
def test_views_move_whole(alpha: bool) -> None:
    views = edge() if alpha else Views(rgb=edge().rgb, cameras=CAMERAS[[0, 1]], prompt="a", run={"seed": 1})
    moved = views.to("meta")
    assert moved.rgb.device.type == moved.cameras.fov_deg.device.type == "meta"
    assert (moved.alpha is None) == (not alpha) and (moved.prompt, moved.run) == (views.prompt, views.run)
