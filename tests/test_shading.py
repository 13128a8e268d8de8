"""The light that an object is distilled in: lamps that follow the cameras, drawn by law, lighting samples by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sphere import Sphere

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.shading import Lighting, Shading, draw_lighting, shade
from viewfold.lifting.studio import Studio
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.rendering import RaySamples, Rendering

LENS, GROUND = (40.0, 1.7), torch.tensor([0.2, 0.4, 0.6])
GRID = GridSettings(resolution=16, samples=16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def studio(**settings) -> Studio:
    return Studio(DistilSettings(**settings), lens=LENS, ground=GROUND, generator=seeded())


def ball() -> GridField:
    return GridField(resolution=16, settings=GRID)


# Light ----------------------------------------------------------------------------------------------------------------

CAMERAS = Cameras.cat([Cameras.orbit(4), Cameras.orbit(4, azimuth_deg=10, elevation_deg=25)])
LIT = Shading(albedo_steps=0, shaded_share=1.0)


def light(shading: Shading = LIT, *, step: int = 0, generator: torch.Generator | None = None) -> Lighting | None:
    return draw_lighting(shading, CAMERAS, step=step, n_views=4, generator=generator or seeded())


def test_colours_are_without_light_until_their_steps_are_over() -> None:
    shading = Shading(albedo_steps=7, shaded_share=1.0)
    assert light(shading, step=6) is None and light(shading, step=7) is not None


def test_three_steps_of_four_are_lit_and_half_of_those_have_no_colour() -> None:
    generator = seeded()
    drawn = [light(Shading(albedo_steps=0), generator=generator) for _ in range(2000)]
    lit = [each for each in drawn if each is not None]
    assert len(lit) / 2000 == pytest.approx(0.75, abs=0.03)
    assert sum(each.textureless for each in lit) / len(lit) == pytest.approx(0.5, abs=0.04)
    ambient = torch.tensor([each.ambient for each in lit])
    assert ambient.min() < 0.02 and ambient.max() > 0.98 and float(ambient.mean()) == pytest.approx(0.5, abs=0.03)


def test_each_camera_has_a_lamp_of_its_own_that_follows_it() -> None:
    drawn = light(replace(LIT, light_spread=0.0))
    assert drawn is not None
    torch.testing.assert_close(
        torch.nn.functional.normalize(drawn.position, dim=-1),
        torch.nn.functional.normalize(CAMERAS.position, dim=-1),
    )
    distance = drawn.position.norm(dim=-1)
    torch.testing.assert_close(distance[:4], distance[:1].expand(4))
    assert abs(float(distance[0] - distance[4])) > 1e-3, "another object's lamps have another distance"
    assert len(drawn.position.unique(dim=0)) == 8


def test_a_lamp_strays_from_its_camera_as_far_as_it_says() -> None:
    """The stray is one vector for the views of an object: it is found again from any two of them."""
    generator, strays, distances = seeded(), [], []
    for _ in range(400):
        drawn = light(generator=generator)
        assert drawn is not None
        distances.append(drawn.position.norm(dim=-1))
        # s = (camera + stray) / |camera + stray|: two views meet in one stray
        s = torch.nn.functional.normalize(drawn.position[:2], dim=-1).double()
        c = CAMERAS.position[:2].double()
        lengths = torch.linalg.lstsq(torch.stack([s[0], -s[1]], dim=1), (c[0] - c[1])[:, None]).solution[:, 0]
        one, two = lengths[0] * s[0] - c[0], lengths[1] * s[1] - c[1]
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
        strays.append(one)
    assert float(torch.stack(strays).std()) == pytest.approx(0.5, rel=0.08)
    assert float(torch.stack(strays).mean()) == pytest.approx(0.0, abs=0.06)
    far = torch.cat(distances)
    assert 0.4 <= far.min() < 0.41 and 0.74 < far.max() <= 0.7501


def two_pixels(**lighting) -> tuple[torch.Tensor, torch.Tensor]:
    """Light one sample each of two pictures of one pixel; return the pictures and the colours' gradient."""
    rgb = torch.tensor([[0.8, 0.4, 0.2], [0.8, 0.4, 0.2]], requires_grad=True)
    samples = RaySamples(
        pixel=torch.tensor([0, 1]),
        weight=torch.tensor([0.5, 0.5]),
        rgb=rgb,
        position=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]),
        distance=torch.ones(2),
        normal=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]).requires_grad_(),
        direction=torch.zeros(2, 3),
        n_rays=2,
    )
    flat = torch.zeros(2, 1, 1, 1)
    rendered = Rendering(
        rgb=flat.expand(2, 3, 1, 1), alpha=flat + 0.5, depth=flat, normal=flat.expand(-1, 3, -1, -1), samples=samples
    )
    lamps = torch.tensor([[0.0, 0.3, 0.4], [0.0, 0.0, -0.5]])
    lit = shade(rendered, Lighting(position=lamps, **lighting))
    lit.rgb.sum().backward()
    return lit.rgb[:, :, 0, 0].detach(), torch.zeros_like(rgb) if rgb.grad is None else rgb.grad


def test_two_samples_are_lit_by_hand_each_by_its_own_lamp() -> None:
    """The first lamp stands at a cosine of 0.8, the second behind the surface, which it leaves in ambient light."""
    pictures, gradient = two_pixels(ambient=0.25, textureless=False)
    factor = torch.tensor([[0.25 + 0.75 * 0.8], [0.25]])
    torch.testing.assert_close(pictures, 0.5 * factor * torch.tensor([0.8, 0.4, 0.2]))
    torch.testing.assert_close(gradient, (0.5 * factor).expand(2, 3))
    white, gradient = two_pixels(ambient=0.25, textureless=True)
    torch.testing.assert_close(white, (0.5 * factor).expand(2, 3))
    assert not bool(gradient.any()), "no colour is learned from what has none"


def test_the_lamp_is_a_point_and_not_a_direction() -> None:
    """From 0.1 above the middle, a lamp at (0, 0.3, 0.4) stands at a cosine of 0.3 / |(0.3, 0.3)|."""
    rgb = torch.ones(1, 3)
    samples = RaySamples(
        pixel=torch.tensor([0]), weight=torch.ones(1), rgb=rgb, position=torch.tensor([[0.0, 0.0, 0.1]]),
        distance=torch.ones(1), normal=torch.tensor([[0.0, 0.0, 1.0]]), direction=rgb, n_rays=1,
    )  # fmt: skip
    flat = torch.zeros(1, 1, 1, 1)
    rendered = Rendering(
        rgb=flat.expand(1, 3, 1, 1), alpha=flat, depth=flat, normal=flat.expand(-1, 3, -1, -1), samples=samples
    )
    lit = shade(rendered, Lighting(position=torch.tensor([[0.0, 0.3, 0.4]]), ambient=0.0, textureless=False))
    torch.testing.assert_close(lit.rgb.flatten(), torch.full((3,), math.sqrt(0.5)))


def test_ambient_light_alone_changes_nothing_and_a_lamp_lights_its_own_side() -> None:
    made, cameras = ball(), Cameras.orbit(4, elevation_deg=10)
    plain = made.render(cameras, size=16, normals=True)
    same = shade(plain, Lighting(position=cameras.position, ambient=1.0, textureless=False))
    torch.testing.assert_close(same.rgb, plain.rgb)
    right = cameras.world_from_camera[:, :3, 0]
    lit = shade(plain, Lighting(position=3 * right, ambient=0.0, textureless=True)).rgb.detach()
    assert float(lit[:, :, :, 8:].mean()) > 5 * float(lit[:, :, :, :8].mean())


def test_what_has_no_samples_cannot_be_lit_nor_judged_by_them() -> None:
    sphere = Sphere(0.3, torch.tensor([0.5, 0.5, 0.5]))
    with pytest.raises(InputError, match="`shading` must be None"):
        studio(shading=LIT).shoot(sphere, step=0, image_size=8, generator=seeded())
    with pytest.raises(InputError, match="`orientation` and `z_variance` must be 0"):
        Regularizer(z_variance=1.0).loss(sphere.render(Cameras.orbit(1), size=8), step=0)
    studio(shading=replace(LIT, albedo_steps=5)).shoot(sphere, step=4, image_size=8, generator=seeded())
