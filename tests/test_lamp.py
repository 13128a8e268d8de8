"""Light by hand: sky, ground and lamp on matt surfaces; Fresnel, horizon and lobe on smooth ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.light import MATT, SMOOTH, Light
from viewfold.scene.rendering import Rendering

UP, DOWN, FRONT, RIGHT = [0.0, 0, 1], [0.0, 0, -1], [0.0, -1, 0], [1.0, 0, 0]
LAMP_LENGTH = math.sqrt(0.4**2 + 0.7**2 + 0.6**2)


def rows(*vectors: list[float]) -> Tensor:
    return torch.tensor(vectors)


def polish(
    light: Light, *, albedo: float, normal: list[float], eye: list[float], rough: float, metallic: float
) -> float:
    """Return the lit colour of one grey surface."""
    lit = light.polish(
        torch.full((1, 3), albedo), rows(normal), rows(eye), torch.tensor([[rough]]), torch.tensor([[metallic]])
    )
    assert float(lit.std()) < 1e-6
    return float(lit[0, 0])


def horizon(upward: float, light: Light) -> float:
    """The mirrored world at a height of the mirrored direction, -1 to 1."""
    share = 1 / (1 + math.exp(-7 * (upward + 0.2)))
    return 0.55 * light.ground + (1.6 * light.sky - 0.55 * light.ground) * share


def test_the_shade_of_six_sides_by_hand() -> None:
    """Half of the ambient light comes from either side on what stands upright; the lamp adds its cosine."""
    shade = Light().shade(rows(UP, DOWN, FRONT, RIGHT, [0.0, 1, 0], [-1.0, 0, 0]))[:, 0].tolist()
    key = 0.3 / LAMP_LENGTH
    expected = [0.8 + 0.6 * key, 0.55, 0.675 + 0.7 * key, 0.675 + 0.4 * key, 0.675, 0.675]
    assert shade == pytest.approx(expected, abs=1e-6)


def test_each_strength_and_the_direction_of_the_light_do_what_they_say() -> None:
    normals = rows(UP, DOWN, FRONT, RIGHT)
    lamp = Light(sky=0.0, ground=0.0, key=2.0, direction=(3.0, 0.0, 4.0)).shade(normals)[:, 0]
    assert lamp.tolist() == pytest.approx([1.6, 0, 0, 1.2])
    sky = Light(sky=1.0, ground=0.0, key=0.0).shade(normals)[:, 0]
    assert sky.tolist() == pytest.approx([1, 0, 0.5, 0.5])
    ground = Light(sky=0.0, ground=1.0, key=0.0).shade(normals)[:, 0]
    assert ground.tolist() == pytest.approx([0, 1, 0.5, 0.5])
    with pytest.raises(InputError, match="`direction` must not be zero"):
        Light(direction=(0.0, 0.0, 0.0)).shade(normals)


def test_a_dielectric_mirrors_four_hundredths_head_on_and_everything_at_the_edge() -> None:
    """Black, without lamp: 0.75 x Fresnel x the mirrored world; Schlick's term grows with the fifth power."""
    light = Light(key=0.0)
    head_on = polish(light, albedo=0.0, normal=FRONT, eye=FRONT, rough=0.3, metallic=0.0)
    assert head_on == pytest.approx(0.75 * 0.04 * horizon(0.0, light), rel=1e-4)
    edge = polish(light, albedo=0.0, normal=FRONT, eye=RIGHT, rough=0.3, metallic=0.0)
    assert edge == pytest.approx(0.75 * horizon(0.0, light), rel=1e-4)
    cosine = 0.6
    eye = [0.8, -cosine, 0.0]
    slanted = polish(light, albedo=0.0, normal=FRONT, eye=eye, rough=0.3, metallic=0.0)
    assert slanted == pytest.approx(0.75 * (0.04 + 0.96 * 0.4**5) * horizon(0.0, light), rel=1e-4)


def test_what_looks_up_mirrors_the_sky_and_what_looks_down_the_ground() -> None:
    light = Light(key=0.0)
    for side, height in ((UP, 1.0), (DOWN, -1.0)):
        seen = polish(light, albedo=0.0, normal=side, eye=side, rough=0.3, metallic=0.0)
        assert seen == pytest.approx(0.75 * 0.04 * horizon(height, light), rel=1e-4)
    # seen from 45 degrees above, a surface that looks up mirrors what lies 45 degrees up on the other side
    half = math.sqrt(0.5)
    slanted = polish(light, albedo=1.0, normal=UP, eye=[0.0, -half, half], rough=0.3, metallic=1.0)
    assert slanted == pytest.approx(0.8 * 0.25 + 0.75 * horizon(half, light), rel=1e-4)


def test_a_metal_mirrors_in_its_own_colour_and_gives_up_its_matt_one() -> None:
    light = Light(key=0.0)
    seen = polish(light, albedo=0.5, normal=FRONT, eye=FRONT, rough=0.3, metallic=1.0)
    assert seen == pytest.approx(0.5 * 0.675 * 0.25 + 0.75 * 0.5 * horizon(0.0, light), rel=1e-4)
    half = polish(light, albedo=0.5, normal=FRONT, eye=FRONT, rough=0.3, metallic=0.5)
    fresnel = 0.04 + (0.5 - 0.04) * 0.5
    assert half == pytest.approx(0.5 * 0.675 * (1 - 0.375) + 0.75 * fresnel * horizon(0.0, light), rel=1e-4)


@pytest.mark.parametrize("metallic", [0.0, 1.0])
def test_the_lamp_is_a_lobe_about_its_mirrored_direction(metallic: float) -> None:
    light = Light(sky=0.0, ground=0.0, key=0.5, direction=(0.0, -1.0, 0.0))
    tint = 1 - 0.5 * metallic  # of a black surface
    for rough in (0.4, 0.2, 0.05):
        width = max(rough, 0.1)
        for eye in (FRONT, [0.0, -math.cos(0.1), math.sin(0.1)]):
            across = -eye[1]  # the mirrored eye lies as far below the lamp as the eye above it
            lobe = 2.6 * 0.5 * math.exp(2 / width**2 * (across - 1)) * tint
            seen = polish(light, albedo=0.0, normal=FRONT, eye=eye, rough=rough, metallic=metallic)
            assert seen == pytest.approx(lobe, rel=1e-3)


def test_gloss_fades_between_smooth_and_matt() -> None:
    light = Light(key=0.0)

    def seen(rough: float) -> float:
        return polish(light, albedo=0.0, normal=FRONT, eye=FRONT, rough=rough, metallic=0.0)

    assert (MATT, SMOOTH) == (0.7, 0.4)
    assert seen(0.4) == pytest.approx(seen(0.1)) and seen(0.7) == seen(0.9) == 0
    assert seen(0.55) == pytest.approx(seen(0.4) / 2)


def test_pictures_over_grounds_of_every_form_by_hand() -> None:
    rgb, alpha = torch.full((2, 3, 1, 2), 0.2), torch.tensor([[[[0.25, 1.0]]], [[[0.0, 0.5]]]])
    flat = torch.zeros(2, 3, 1, 2)
    drawn = Rendering(rgb=rgb, alpha=alpha, depth=flat[:, :1] + 3, normal=flat - 1)
    share = 1 - alpha
    torch.testing.assert_close(drawn.over(0.4), 0.2 + share.expand(2, 3, 1, 2) * 0.4)
    color = torch.tensor([0.1, 0.5, 1.0])
    torch.testing.assert_close(drawn.over((0.1, 0.5, 1.0)), 0.2 + share * color[:, None, None])
    image = torch.arange(6).reshape(3, 1, 2) / 6
    torch.testing.assert_close(drawn.over(image), 0.2 + share * image)
    images = torch.stack([image, 1 - image])
    torch.testing.assert_close(drawn.over(images), 0.2 + share * images)
    moved = drawn.to("cpu")
    assert torch.equal(moved.rgb, rgb) and torch.equal(moved.alpha, alpha)
    assert torch.equal(moved.depth, drawn.depth) and torch.equal(moved.normal, drawn.normal)
