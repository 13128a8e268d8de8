"""Baking: colours of the field land on the right side of the mesh, also between the texels."""

import math
from functools import partial

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.field import Field, lattice
from viewfold.scene.grid import GridField
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.surface import extract_surface, is_watertight
from viewfold.scene.texture import (
    SeenColor,
    bake_texture,
    bake_vertex_colors,
    fill_unpainted,
    rasterize_uv,
    surface_color,
)
from viewfold.scene.volume import render_volume

RED, BLUE = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def field() -> GridField:
    """A ball that is red where x > 0, blue elsewhere, and green where nobody sees it (deep inside and outside)."""
    made, points = GridField(), lattice(48)
    radius = points.norm(dim=-1)
    right = torch.where(points[:, 0] > 0, 12.0, -12.0)
    hidden = (radius < 0.2) | (radius > 0.45)
    color = torch.stack([right, torch.full_like(right, -12.0), -right])
    color = torch.where(hidden, torch.tensor([-12.0, 12.0, -12.0])[:, None], color)
    with torch.no_grad():
        made.grid[0, 0] = (200 * (0.35 - radius)).clamp(-8, 10).reshape(48, 48, 48)
        made.grid[0, 1:] = color.reshape(3, 48, 48, 48)
    return made


def seen(field: Field) -> SeenColor:
    """What a representation of this field answers."""
    return partial(surface_color, field)


@pytest.fixture(scope="module")
def mesh(field: GridField) -> Mesh:
    return extract_surface(field, resolution=48, max_faces=1500).mesh


@pytest.fixture(scope="module")
def baked(field: GridField, mesh: Mesh) -> Mesh:
    return bake_texture(mesh, seen(field), size=128, max_faces=600)


def test_a_half_red_half_blue_ball_is_textured_on_the_right_sides(field: GridField, baked: Mesh) -> None:
    cameras = Cameras.at(elevation_deg=10.0, azimuth_deg=[0.0, 90.0, 270.0])
    picture = rasterize(baked, cameras, size=32, light=None).over(0.5)
    torch.testing.assert_close(picture[0, :, 16, 22], RED, atol=0.02, rtol=0)
    torch.testing.assert_close(picture[0, :, 16, 9], BLUE, atol=0.02, rtol=0)
    torch.testing.assert_close(picture[1, :, 16, 16], RED, atol=0.02, rtol=0)
    torch.testing.assert_close(picture[2, :, 16, 16], BLUE, atol=0.02, rtol=0)
    with torch.no_grad():
        wanted = render_volume(field, cameras, size=32).over(0.5)
    assert float((picture - wanted).square().mean()) < 0.01  # 20 dB, borders of one pixel included


def test_the_unwrapped_mesh_stays_closed_and_its_chart_inside_the_picture(baked: Mesh) -> None:
    assert baked.uv is not None and baked.materials[0].texture is not None
    assert is_watertight(baked)
    assert len(baked.faces) <= 600
    assert 0 <= float(baked.uv.min()) and float(baked.uv.max()) <= 1
    assert baked.materials[0].texture.image.shape == (128, 128, 3)
    assert baked.materials[0].metallic == 0


def test_no_texel_holds_a_colour_that_the_surface_does_not_have(baked: Mesh) -> None:
    texture = baked.materials[0].texture.image
    assert texture is not None
    assert float(texture[..., 1].max()) < 0.05  # neither hidden green nor unpainted grey


def test_vertex_colours_follow_the_field(field: GridField, mesh: Mesh) -> None:
    colored = bake_vertex_colors(mesh, seen(field))
    assert colored.vertex_color is not None
    x = mesh.vertices[:, 0]
    torch.testing.assert_close(colored.vertex_color[x > 0.05].mean(0), RED, atol=0.02, rtol=0)
    torch.testing.assert_close(colored.vertex_color[x < -0.05].mean(0), BLUE, atol=0.02, rtol=0)


def test_a_surface_a_little_off_the_field_still_gets_the_seen_colour(field: GridField) -> None:
    normal = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
    points = normal * torch.tensor([[0.34], [0.35], [0.365]])
    torch.testing.assert_close(surface_color(field, points, normal), RED.expand(3, 3), atol=0.02, rtol=0)


def test_two_triangles_that_fill_the_square_paint_every_texel_once() -> None:
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    row, column, face, weight = rasterize_uv(uv, faces, size=8)
    assert len(torch.unique(row * 8 + column)) == 64
    where = (uv[faces[face]] * weight[..., None]).sum(1)
    torch.testing.assert_close(where[:, 0], (column + 0.5) / 8)
    torch.testing.assert_close(where[:, 1], 1 - (row + 0.5) / 8)
    assert face[(row == 7) & (column == 6)].tolist() == [0]  # bottom right


def test_degenerate_charts_and_an_unpainted_picture_do_no_harm() -> None:
    row, *_ = rasterize_uv(torch.zeros(3, 2), torch.tensor([[0, 1, 2]]), size=16)
    assert len(row) == 0
    image = torch.rand(4, 4, 3)
    assert torch.equal(fill_unpainted(image, torch.zeros(4, 4, dtype=torch.bool)), image)


def test_gaps_take_the_nearest_colour() -> None:
    image, painted = torch.zeros(1, 5, 3), torch.tensor([[True, False, False, False, True]])
    image[0, 0], image[0, 4] = RED, BLUE
    filled = fill_unpainted(image, painted)
    assert torch.equal(filled[0, 1], RED) and torch.equal(filled[0, 3], BLUE)


def test_an_empty_mesh_and_a_huge_texture_are_refused(field: GridField, mesh: Mesh) -> None:
    with pytest.raises(InputError, match="`size`"):
        bake_texture(mesh, seen(field), size=8192)
    with pytest.raises(InputError, match="at least one face"):
        bake_texture(Mesh(vertices=mesh.vertices, faces=mesh.faces[:0]), seen(field))


class Layers:
    """Fog whose colour is its height along z: red is 10 z + 0.5; thicker where `dense`."""

    def __init__(self, value: float) -> None:
        self.value = value

    def density(self, points: torch.Tensor) -> torch.Tensor:
        return torch.full((len(points),), self.value)

    def __call__(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        red = 10 * points[:, 2:] + 0.5
        return self.density(points), torch.cat([red, torch.zeros_like(red), 1 - red], dim=1)


@pytest.mark.parametrize("up", [1.0, -1.0])
def test_a_point_is_looked_at_from_outside_along_its_normal(up: float) -> None:
    """Seven samples from 0.02 outside to 0.04 inside, each seen through those before it."""
    step = 0.06 / 7
    passed = math.exp(-50 * step)
    weights = torch.tensor([(1 - passed) * passed**i for i in range(7)])
    heights = torch.tensor([0.02 - (i + 0.5) * step for i in range(7)])
    expected = float((weights * (10 * up * heights + 0.5)).sum() / weights.sum())
    color = surface_color(Layers(50.0), torch.zeros(1, 3), torch.tensor([[0.0, 0.0, up]]))
    assert color[0].tolist() == pytest.approx([expected, 0, 1 - expected], abs=1e-5)
    assert (expected - 0.5) * up > 0.01, "the outside weighs more"


def test_fog_too_thin_to_see_gives_its_colour_at_the_point() -> None:
    at = torch.tensor([[0.0, 0.0, 0.01]])
    normal = torch.tensor([[0.0, 0.0, 1.0]])
    assert surface_color(Layers(0.1), at, normal)[0, 0].item() == pytest.approx(0.6)  # 0.6 % of the light
    seen = surface_color(Layers(0.2), at, normal)[0, 0].item()  # 1.2 %: the mean over the samples, 0.01 further in
    assert seen == pytest.approx(0.5, abs=2e-3)


def test_many_points_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    normals = torch.nn.functional.normalize(points - 0.02, dim=1)
    whole = surface_color(Layers(50.0), points, normals)
    monkeypatch.setattr("viewfold.scene.texture.CHUNK", 3)
    assert torch.equal(surface_color(Layers(50.0), points, normals), whole)
    assert surface_color(Layers(50.0), points[:0], normals[:0]).shape == (0, 3)


def test_a_shell_of_paint_is_seen_from_outside_wherever_it_is_baked(mesh: Mesh) -> None:
    """A solid ball, green within 0.345 and red about it: both bakes look from outside."""

    class Painted(Layers):
        def density(self, points: torch.Tensor) -> torch.Tensor:
            return 2000.0 * (points.norm(dim=-1) < 0.36).float()

        def __call__(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outer = (points.norm(dim=-1, keepdim=True) > 0.345).float()
            return self.density(points), torch.cat([outer, 1 - outer, torch.zeros_like(outer)], dim=1)

    field = Painted(0.0)
    colored = bake_vertex_colors(mesh, seen(field))
    assert colored.vertex_color is not None
    torch.testing.assert_close(colored.vertex_color, RED.expand(len(mesh.vertices), 3), atol=0.01, rtol=0)
    assert colored.materials[0].roughness == 0.9 and colored.uv is None and len(colored.materials) == 1
    textured = bake_texture(mesh, seen(field), size=64, max_faces=300)
    assert textured.materials[0].texture is not None and textured.materials[0].roughness == 0.9
    torch.testing.assert_close(textured.materials[0].texture.image, RED.expand(64, 64, 3), atol=0.01, rtol=0)


def test_texels_lie_where_their_coordinates_say_in_a_slanted_triangle() -> None:
    uv = torch.tensor([[0.1, 0.05], [0.9, 0.3], [0.25, 0.85]])
    row, column, face, weight = rasterize_uv(uv, torch.tensor([[0, 1, 2], [2, 1, 0]]), size=40)
    assert (weight >= -1e-4).all()
    torch.testing.assert_close(weight.sum(1), torch.ones(len(row)))
    corners = uv[torch.tensor([[0, 1, 2], [2, 1, 0]])[face]]
    where = (corners * weight[..., None]).sum(1)
    centre = torch.stack([(column + 0.5) / 40, 1 - (row + 0.5) / 40], dim=1)
    torch.testing.assert_close(where, centre, atol=1e-4, rtol=0)
    a, b = uv[1] - uv[0], uv[2] - uv[0]
    area = float(a[0] * b[1] - a[1] * b[0]) / 2 * 40**2
    assert (face == 0).sum() == (face == 1).sum() and abs(int((face == 0).sum()) - area) < 12
