"""The stage that colours a mesh: what viewers show looks like the views, and nothing is lit twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from second_device import second_device
from sphere import Sphere
from test_reprojection import plate, sphere
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.lifting.extraction import Extracted
from viewfold.lifting.light import Bare, Estimate, PaintedIn
from viewfold.lifting.observation import observe
from viewfold.lifting.paint import Painted, PaintSettings, paint
from viewfold.lifting.presets import MVDREAM, MVDREAM_REDUCED, STANDARD
from viewfold.scene.export import save_mesh
from viewfold.scene.harmonic import AnyLight
from viewfold.scene.light import Light
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.surface import SurfaceResult
from viewfold.views import Views

RED, BLUE, GREEN = (0.85, 0.2, 0.15), (0.2, 0.3, 0.8), (0.0, 1.0, 0.0)
LAMP = Light(sky=0.9, ground=0.4, key=0.35, direction=(-1.0, -0.2, 0.4))
AROUND = Cameras.orbit(8, elevation_deg=[5.0, 40.0] * 4)
UNSEEN = Cameras.orbit(4, elevation_deg=20.0, azimuth_deg=22.5)


class Green(Sphere):
    """A representation that takes everything for green."""

    def __init__(self) -> None:
        super().__init__(0.35, torch.tensor(GREEN))

    def to(self, device: torch.device | str) -> Green:
        self.calls.append(f"to {device}")
        return self


def two_tone() -> Mesh:
    """A ball, red in front and blue at the back, with hard borders."""
    ball = sphere(n=32)
    front = ball.vertices[ball.faces].mean(1)[:, 1] < 0
    corners = ball.vertices[ball.faces].reshape(-1, 3)
    color = torch.where(front[:, None], torch.tensor(RED), torch.tensor(BLUE)).repeat_interleave(3, dim=0)
    return Mesh(vertices=corners, faces=torch.arange(len(corners)).reshape(-1, 3), vertex_color=color)


def painted(
    true: Mesh,
    light: AnyLight | None,
    *,
    cameras: Cameras = AROUND,
    shape: Mesh | None = None,
    settings: PaintSettings | None = None,
    **options,
) -> Painted:
    """Photograph a mesh in a light, and paint a shape from the pictures."""
    drawn = rasterize(true, cameras, size=64, light=light)
    views = Views(rgb=drawn.rgb / drawn.alpha.clamp_min(1e-6), alpha=drawn.alpha, cameras=cameras)
    surface = SurfaceResult(
        mesh=shape or sphere(n=24),
        threshold=1,
        silhouette_iou=1,
        components_found=1,
        components_kept=1,
        watertight=True,
    )
    extracted = Extracted(surface=surface, representation=Green(), observed=observe(views))
    made = paint(extracted, size=128, settings=settings, **options)
    assert made.representation is extracted.representation and made.observed is extracted.observed
    return made


def likeness_db(made: Mesh, true: Mesh, *, made_in: AnyLight | None, true_in: AnyLight | None) -> float:
    """PSNR at unseen sides over the pixels that both cover wholly."""
    one, other = (rasterize(m, UNSEEN, size=64, light=light) for m, light in ((made, made_in), (true, true_in)))
    both = ((one.alpha > 0.99) & (other.alpha > 0.99)).expand_as(one.rgb)
    return float(-10 * (one.rgb - other.rgb)[both].square().mean().log10())


def image(made: Painted) -> Tensor:
    texture = made.mesh.materials[0].texture
    assert texture is not None
    return texture.image


def test_the_albedo_of_views_in_a_known_light_is_that_of_the_object() -> None:
    made = painted(two_tone(), LAMP, settings=PaintSettings(light=LAMP))
    assert made.found.how == "known" and made.found.light == LAMP and made.mesh.materials[0].lit
    assert likeness_db(made.mesh, two_tone(), made_in=None, true_in=None) > 24
    assert likeness_db(made.mesh, two_tone(), made_in=LAMP, true_in=LAMP) > 24
    assert likeness_db(made.mesh, two_tone(), made_in=Light(), true_in=Light()) > 24, "and so in any other"


def test_a_light_that_the_views_share_is_found_and_taken_out() -> None:
    made = painted(two_tone(), LAMP)
    assert made.found.how == "estimated" and made.found.light is not None
    assert likeness_db(made.mesh, two_tone(), made_in=made.found.light, true_in=LAMP) > 24
    plain = painted(two_tone(), LAMP, settings=PaintSettings(light=PaintedIn()))
    lit_twice = replace(plain.mesh, materials=(replace(plain.mesh.materials[0], lit=True),))
    apart = [likeness_db(mesh, two_tone(), made_in=LAMP, true_in=LAMP) for mesh in (made.mesh, lit_twice)]
    assert apart[0] > apart[1] + 3, "the viewer's light strength differs, but the shading is not there twice"


@pytest.mark.parametrize("settings", [PaintSettings(light=PaintedIn()), PaintSettings(light=Estimate())])
def test_colours_that_stay_lit_are_shown_as_they_are_by_every_viewer(settings: PaintSettings, tmp_path: Path) -> None:
    """Estimated from views without light: there is none to be found."""
    light = LAMP if settings.light == PaintedIn() else None
    made = painted(two_tone(), light, settings=settings)
    assert made.found.how == "painted in (unlit)" and not made.mesh.materials[0].lit
    path = save_mesh(made.mesh, tmp_path / "ball.glb")
    header = path.read_bytes()[20 : 20 + int.from_bytes(path.read_bytes()[12:16], "little")]
    assert json.loads(header)["extensionsUsed"] == ["KHR_materials_unlit"]
    assert likeness_db(load_mesh(path), two_tone(), made_in=Light(key=0.9), true_in=light) > 24


def test_what_a_view_hardly_sees_is_mixed_with_the_representation_and_nothing_else_is() -> None:
    made = painted(two_tone(), None, settings=PaintSettings(light=PaintedIn()))
    drawn = rasterize(made.mesh, UNSEEN, size=64, light=None)
    inner = drawn.rgb[(drawn.alpha > 0.99).expand_as(drawn.rgb)].reshape(-1)
    assert float((drawn.rgb[:, 1] > 0.6).float().mean()) < 0.01 and len(inner) > 1000


def ceiling(**options) -> Painted:
    """A plate that is seen from below alone; its back is seen by nobody, and the representation says green."""
    box = Mesh.cat([plate(0.0, 0.3, torch.tensor(RED)), plate(0.0, 0.3, torch.tensor(RED))])
    turned = torch.cat([box.faces[:2], box.faces[2:].flip(1)])
    thick = box.vertices + torch.where(torch.arange(8)[:, None] < 4, -0.15, 0.15) * torch.tensor([[0.0, 1.0, 0.0]])
    rim = [[a, b, b + 4, a + 4] for a, b in ((1, 0), (2, 1), (3, 2), (0, 3))]
    sides = [[q[0], q[1], q[2]] for q in rim] + [[q[0], q[2], q[3]] for q in rim]
    shape = Mesh(vertices=thick, faces=torch.cat([turned, torch.tensor(sides)]))
    front = Cameras.at(elevation_deg=[0.0, 25.0, -25.0, 0.0, 0.0], azimuth_deg=[0.0, 0.0, 0.0, 40.0, -40.0])
    material = replace(box.materials[0], lit=False)
    true = replace(shape, materials=(material,))
    settings = PaintSettings(light=PaintedIn())
    return painted(true, None, cameras=front, shape=shape, settings=settings, **options)


def behind(made: Painted) -> Tensor:
    drawn = rasterize(made.mesh, Cameras.at(elevation_deg=0.0, azimuth_deg=180.0), size=32, light=None)
    return drawn.rgb[0, :, 12:20, 12:20]


def test_sides_that_nobody_saw_take_the_colour_of_their_neighbours() -> None:
    assert float((behind(ceiling()) - torch.tensor(RED)[:, None, None]).abs().max()) < 0.1


def test_sides_that_nobody_saw_are_the_representations_where_it_was_distilled() -> None:
    made = ceiling(distilled=True)
    torch.testing.assert_close(behind(made), torch.tensor(GREEN)[:, None, None].expand(3, 8, 8), atol=0.02, rtol=0)
    front = rasterize(made.mesh, Cameras.orbit(1, elevation_deg=0.0), size=32, light=None).rgb[0, :, 12:20, 12:20]
    torch.testing.assert_close(front, torch.tensor(RED)[:, None, None].expand(3, 8, 8), atol=0.02, rtol=0)


def test_colours_of_a_representation_that_saw_no_views_are_its_own() -> None:
    """What stands for views then are small pictures of itself."""
    made = painted(two_tone(), None, settings=PaintSettings(light=PaintedIn()), from_views=False)
    torch.testing.assert_close(image(made), torch.tensor(GREEN).expand(128, 128, 3))
    lit = painted(two_tone(), None, settings=PaintSettings(light=LAMP), from_views=False)
    assert lit.found.how == "known" and float(image(lit)[..., 1].std()) > 0.01, "its colours hold the light"


def test_colours_without_light_are_taken_as_they_are_and_lit() -> None:
    made = painted(two_tone(), None, settings=PaintSettings(light=Bare()), from_views=False)
    torch.testing.assert_close(image(made), torch.tensor(GREEN).expand(128, 128, 3))
    assert made.found.how == "known" and made.found.light is None and made.mesh.materials[0].lit


def test_the_representations_colour_behind_the_views_is_without_the_light_too() -> None:
    """Green in a light that is 1.25 everywhere is a green of 0.8."""
    bright = Light(sky=1.25, ground=1.25, key=0.0)
    made = painted(two_tone(), None, cameras=AROUND[:1], settings=PaintSettings(light=bright), distilled=True)
    drawn = rasterize(made.mesh, Cameras.at(elevation_deg=0.0, azimuth_deg=180.0), size=32, light=None)
    green = (0.8 * torch.tensor(GREEN))[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(drawn.rgb[0, :, 12:20, 12:20], green, atol=0.02, rtol=0)


def test_the_finish_of_the_prompt_becomes_the_materials() -> None:
    shiny = painted(two_tone(), None, prompt="a red metal ball").mesh.materials[0]
    plain = painted(two_tone(), None, prompt="a red ball").mesh.materials[0]
    assert (shiny.roughness, shiny.metallic) == (0.35, 1.0) and (plain.roughness, plain.metallic) == (0.9, 0.0)


def test_a_metal_in_a_known_light_is_drawn_as_it_was_seen() -> None:
    metal = two_tone()
    metal = replace(metal, materials=(replace(metal.materials[0], roughness=0.35, metallic=1.0),))
    made = painted(metal, Light(), settings=PaintSettings(light=Light()), prompt="a metal ball")
    matt = painted(metal, Light(), settings=PaintSettings(light=Light()), prompt="a ball")
    assert likeness_db(made.mesh, metal, made_in=None, true_in=None) > 22
    assert likeness_db(made.mesh, metal, made_in=Light(), true_in=Light()) > 20
    assert likeness_db(matt.mesh, metal, made_in=None, true_in=None) < 20, "what is mirrored would be paint"


def test_everything_is_on_the_cpu_wherever_it_came_from() -> None:
    with second_device() as device:
        drawn = rasterize(two_tone(), AROUND, size=32, light=LAMP)
        views = Views(rgb=drawn.over(0.5), cameras=AROUND).to(device)
        surface = SurfaceResult(
            mesh=sphere(n=16), threshold=1, silhouette_iou=1, components_found=1, components_kept=1, watertight=True
        )
        representation = Green()
        extracted = Extracted(surface=surface, representation=representation, observed=observe(views))
        made = paint(extracted, size=64, settings=PaintSettings(light=LAMP))
    assert representation.calls[0] == "to cpu" and image(made).device.type == "cpu"
    assert bool(image(made).isfinite().all()) and image(made).shape == (64, 64, 3)


def test_an_unknown_light_is_the_models_or_one_to_be_found() -> None:
    assert PaintSettings().resolved(known=True).light == Light()
    assert PaintSettings().resolved(known=False).light == Estimate()
    assert PaintSettings().resolved(known=True, bare=True).light == Bare()
    assert PaintSettings(light=PaintedIn()).resolved(known=True, bare=True).light == PaintedIn()
    assert MVDREAM.bare and not MVDREAM_REDUCED.bare and not STANDARD.bare
    assert not replace(STANDARD, distil=MVDREAM.distil).bare, "views hold their light"


def test_a_texture_too_large_or_too_small_is_refused() -> None:
    for size in (15, 8193):
        with pytest.raises(InputError, match="`size` must lie between 16 and 8192"):
            paint(replace_surface(), size=size)


def replace_surface() -> Extracted:
    drawn = rasterize(two_tone(), AROUND[:1], size=16, light=None)
    surface = SurfaceResult(
        mesh=sphere(n=8), threshold=math.inf, silhouette_iou=1, components_found=1, components_kept=1, watertight=True
    )
    observed = observe(Views(rgb=drawn.over(0.5), cameras=AROUND[:1]))
    return Extracted(surface=surface, representation=Green(), observed=observed)
