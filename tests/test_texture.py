"""Baking: colours of the field land on the right side of the mesh, also between the texels."""

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.field import GridField, lattice
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.surface import extract_surface, is_watertight
from viewfold.scene.texture import bake_texture, bake_vertex_colors, fill_unpainted, rasterize_uv, surface_color
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


@pytest.fixture(scope="module")
def mesh(field: GridField) -> Mesh:
    return extract_surface(field, resolution=48, max_faces=1500).mesh


@pytest.fixture(scope="module")
def baked(field: GridField, mesh: Mesh) -> Mesh:
    return bake_texture(mesh, field, size=128, max_faces=600)


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
    assert baked.materials[0].texture.shape == (128, 128, 3)
    assert baked.materials[0].metallic == 0


def test_no_texel_holds_a_colour_that_the_surface_does_not_have(baked: Mesh) -> None:
    texture = baked.materials[0].texture
    assert texture is not None
    assert float(texture[..., 1].max()) < 0.05  # neither hidden green nor unpainted grey


def test_vertex_colours_follow_the_field(field: GridField, mesh: Mesh) -> None:
    colored = bake_vertex_colors(mesh, field)
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
        bake_texture(mesh, field, size=8192)
    with pytest.raises(InputError, match="at least one face"):
        bake_texture(Mesh(vertices=mesh.vertices, faces=mesh.faces[:0]), field)
