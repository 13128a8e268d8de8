"""The rasteriser against closed forms, cameras and laws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene import rasterize as module
from viewfold.scene import visibility
from viewfold.scene.light import MATT, Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.sampling import sample_texture

RED, BLUE = (0.8, 0.1, 0.2), (0.1, 0.3, 0.9)


def _square(y: float, half: float = 0.25, color: tuple[float, float, float] = RED, **more: object) -> Mesh:
    """A square across the y axis, seen from the front."""
    corners = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * half
    corners[:, 1] = y
    materials = (Material(color=color),)
    return Mesh(vertices=corners, faces=torch.tensor([[0, 1, 2], [0, 2, 3]]), **{"materials": materials, **more})  # type: ignore[arg-type]


def _ball(radius: float = 0.5, subdivisions: int = 4) -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(
        vertices=torch.tensor(ball.vertices, dtype=torch.float32), faces=torch.tensor(ball.faces, dtype=torch.int64)
    )


FRONT = Cameras.orbit(1, elevation_deg=0.0)
DISTANCE = float(FRONT.position.norm())


def test_a_ball_covers_the_area_of_its_cone() -> None:
    cameras = Cameras.orbit(3, elevation_deg=25.0, azimuth_deg=10.0)
    radius = math.tan(math.asin(0.5 / DISTANCE)) / math.tan(math.radians(20)) * 32  # pixels, of the outline
    area = rasterize(_ball(), cameras, size=64, supersample=4).alpha.sum((1, 2, 3))
    assert area.tolist() == pytest.approx([math.pi * radius**2] * 3, rel=5e-3)


def test_a_ball_shows_its_depth_and_its_normals() -> None:
    cameras = Cameras.orbit(4, elevation_deg=30.0)
    picture = rasterize(_ball(), cameras, size=33, supersample=1)
    toward = cameras.position / cameras.position.norm(dim=-1, keepdim=True)
    assert torch.allclose(picture.depth[:, 0, 16, 16], torch.full((4,), DISTANCE - 0.5), atol=2e-3)
    assert torch.allclose(picture.normal[:, :, 16, 16], toward, atol=0.03)


def test_a_face_lies_where_the_camera_projects_it() -> None:
    cameras = Cameras.orbit(4, elevation_deg=20.0, azimuth_deg=17.0)
    center = torch.tensor([0.2, -0.1, 0.15])
    dot = _ball(0.02, 2)
    picture = rasterize(Mesh(vertices=dot.vertices + center, faces=dot.faces), cameras, size=128, supersample=2)
    place = cameras.project(center[None])[0][:, 0]
    grid = (torch.arange(128) + 0.5) / 64 - 1
    weight = picture.alpha[:, 0] / picture.alpha.sum((1, 2, 3))[:, None, None]
    seen = torch.stack([(weight.sum(1) * grid).sum(1), -(weight.sum(2) * grid).sum(1)], dim=1)
    assert torch.allclose(seen, place, atol=2e-3)


def test_the_depth_of_a_slanted_plane_follows_its_rays() -> None:
    plane = Mesh(
        vertices=torch.tensor([[-1.0, -0.8, -1], [1, 0.6, -1], [1, 0.6, 1], [-1, -0.8, 1]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    picture = rasterize(plane, FRONT, size=16, supersample=1)
    origin, direction = (x[0] for x in FRONT.rays(16))
    normal = torch.tensor([-0.7, 1.0, 0.0])  # y = 0.7 x - 0.1
    length = (-0.1 - origin @ normal) / (direction @ normal)
    assert bool((picture.alpha == 1).all())
    assert torch.allclose(picture.depth[0, 0], length * direction[..., 1], atol=1e-4)


def test_attributes_are_interpolated_in_perspective() -> None:
    floor = Mesh(
        vertices=torch.tensor([[-1.0, -1, -0.3], [1, -1, -0.3], [1, 1, -0.3], [-1, 1, -0.3]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        vertex_color=torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
    )
    cameras = Cameras.orbit(1, elevation_deg=20.0)
    picture = rasterize(floor, cameras, size=32, supersample=1, light=None)
    origin, direction = (x[0] for x in cameras.rays(32))
    hit = origin + direction * ((-0.3 - origin[..., 2:]) / direction[..., 2:])
    mask = (picture.alpha[0, 0] == 1) & (hit[..., :2].abs() < 0.99).all(-1)
    assert int(mask.sum()) > 300
    assert torch.allclose(picture.rgb[0, :2].permute(1, 2, 0)[mask], (hit[..., :2][mask] + 1) / 2, atol=1e-4)


def test_the_nearer_face_hides_the_farther_in_any_order() -> None:
    near, far = _square(-0.2, 0.1), _square(0.2, 0.3, BLUE)
    for mesh in (Mesh.cat([near, far]), Mesh.cat([far, near])):
        picture = rasterize(mesh, Cameras.orbit(2, elevation_deg=0.0), size=33, light=None)
        assert picture.rgb[0, :, 16, 16].tolist() == pytest.approx(RED)
        assert picture.rgb[1, :, 16, 16].tolist() == pytest.approx(BLUE)  # from behind


def test_unlit_colour_is_exact_and_premultiplied() -> None:
    picture = rasterize(_square(0.0), FRONT, size=21, supersample=3, light=None)
    assert torch.allclose(picture.rgb, picture.alpha * torch.tensor(RED)[:, None, None], atol=1e-6)
    assert 0 < float(picture.alpha.min() + picture.alpha[picture.alpha > 0].min()) < 1
    over = picture.over((0.5, 0.5, 0.5))
    assert over[0, :, 0, 0].tolist() == [0.5] * 3
    assert over[0, :, 10, 10].tolist() == pytest.approx(RED)


def test_light_is_mild_and_does_not_turn_with_the_camera() -> None:
    normal = torch.nn.functional.normalize(torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    factor = Light().shade(normal)
    assert 0.54 < float(factor.min()) < float(factor.max()) < 1.07
    lit = rasterize(_ball(), Cameras.orbit(4, elevation_deg=0.0), size=33).rgb.mean((1, 2, 3))
    assert float(lit[0]) > float(lit[2])  # the lamp stands in front


def _surface(roughness: float, metallic: float) -> dict[str, object]:
    return {"materials": (Material(color=RED, roughness=roughness, metallic=metallic),)}


def test_from_the_roughness_of_a_matt_surface_on_nothing_is_mirrored_not_even_by_a_metal() -> None:
    ball = _ball(subdivisions=2)
    plain, rough, metal = (
        rasterize(replace(ball, **_surface(*pair)), FRONT, size=24).rgb
        for pair in ((0.9, 0.0), (MATT, 0.0), (MATT, 1.0))
    )
    assert torch.equal(plain, rough) and torch.equal(plain, metal)
    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    albedo, surface = torch.tensor(RED).expand(50, 3), torch.tensor([[MATT, 1.0]]).expand(50, 2).split(1, dim=1)
    assert torch.allclose(Light().polish(albedo, normal, normal, *surface), albedo * Light().shade(normal))


@pytest.mark.parametrize("metallic", [0.0, 1.0])
def test_a_smooth_ball_shines_where_it_mirrors_the_lamp(metallic: float) -> None:
    black = Material(color=(0.0, 0.0, 0.0), roughness=0.3, metallic=metallic)
    drawn = rasterize(replace(_ball(), materials=(black,)), FRONT, size=96, light=Light(sky=0.0, ground=0.0))
    brightest = drawn.normal.permute(0, 2, 3, 1).reshape(-1, 3)[int(drawn.rgb.sum(1).argmax())]
    lamp, eye = torch.tensor([0.4, -0.7, 0.6]), FRONT.position[0]
    middle = lamp / lamp.norm() + eye / eye.norm()  # both are far from the ball
    assert math.degrees(math.acos(float(brightest @ middle / middle.norm()))) < 8
    unlit = [rasterize(replace(_ball(), **_surface(r, metallic)), FRONT, size=24, light=None).rgb for r in (0.9, 0.3)]
    assert torch.equal(*unlit)


def test_what_shines_is_affine_in_the_albedo_so_that_pictures_can_be_taken_apart_by_colour() -> None:
    generator = torch.Generator().manual_seed(1)
    normal, to_eye = (torch.nn.functional.normalize(torch.randn(99, 3, generator=generator), dim=1) for _ in range(2))
    surface = torch.rand(99, 2, generator=generator).split(1, dim=1)
    one, two = torch.rand(2, 99, 3, generator=generator)
    lit = [Light().polish(albedo, normal, to_eye, *surface) for albedo in (one, two, (one + two) / 2)]
    assert torch.allclose((lit[0] + lit[1]) / 2, lit[2], atol=1e-5)


def test_both_sides_of_a_face_are_drawn_and_lit_alike() -> None:
    square = _square(0.0)
    turned = Mesh(vertices=square.vertices, faces=square.faces.flip(1), materials=square.materials)
    one, two = (rasterize(m, FRONT, size=16) for m in (square, turned))
    assert torch.allclose(one.rgb, two.rgb) and torch.allclose(one.normal, two.normal)
    assert one.normal[0, :, 8, 8].tolist() == pytest.approx([0, -1, 0])


def test_a_texture_is_the_right_way_up() -> None:
    texture = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    square = _square(
        0.0, uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]), materials=(Material(texture=Texture(image=texture)),)
    )
    rgb = rasterize(square, FRONT, size=64, light=None).rgb[0]
    edge = round(0.125 / DISTANCE / math.tan(math.radians(20)) * 32)
    quarters = [[rgb[:, 32 + y, 32 + x].tolist() for x in (-edge, edge - 1)] for y in (-edge, edge - 1)]
    assert torch.allclose(torch.tensor(quarters), texture, atol=0.15)  # the samples lie up to half a pixel aside


def test_a_fine_texture_is_averaged_when_it_is_far_away() -> None:
    checker = ((torch.arange(256)[:, None] + torch.arange(256)) % 2).float()[..., None].expand(256, 256, 3)
    square = _square(
        0.0,
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        materials=(Material(texture=Texture(image=checker.contiguous())),),
    )
    rgb = rasterize(square, FRONT, size=32, supersample=1, light=None).rgb[0, :, 14:18, 14:18]
    assert torch.allclose(rgb, torch.full_like(rgb, 0.5), atol=1e-3)


def _striped(width: int, size: int) -> torch.Tensor:
    """One row of the middle of a square that fills the frame exactly, with stripes of `width` of 64 texels."""
    stripes = ((torch.arange(64) // width) % 2).float()[None, :, None].expand(64, 64, 3).contiguous()
    half = DISTANCE * math.tan(math.radians(20))
    square = _square(
        0.0,
        half,
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        materials=(Material(texture=Texture(image=stripes)),),
    )
    picture = rasterize(square, FRONT, size=size, supersample=1, light=None)
    assert bool((picture.alpha > 0.99).all())
    return picture.rgb[0, 0, size // 2]


@pytest.mark.parametrize(("size", "width"), [(64, 1), (32, 2), (16, 4), (8, 8)])
def test_a_sample_reads_the_level_where_it_covers_one_texel(size: int, width: int) -> None:
    """Stripes as wide as a sample come out black and white; a level finer or coarser would not differ or be grey."""
    expected = (torch.arange(size) % 2).float()
    torch.testing.assert_close(_striped(width, size), expected, atol=1e-3, rtol=0)
    if width > 1:
        torch.testing.assert_close(_striped(width // 2, size), torch.full((size,), 0.5), atol=1e-3, rtol=0)


def test_levels_of_a_texture_by_hand() -> None:
    """A column of 4 texels: at 4 texels a sample halves are averaged, at 16 and more all; in between the nearer."""
    texture = torch.tensor([0.0, 0.4, 0.6, 1.0])[:, None, None].expand(4, 4, 3).contiguous()
    uv = torch.tensor([[0.5, 0.625]]).expand(7, 2)  # the centre of the second row from the top
    texels = torch.tensor([0.1, 1.9, 2.1, 7.9, 8.1, 16.0, 1e6])
    got = sample_texture(Texture(image=texture), uv, texels)[:, 0]
    coarse = 0.2 + 0.25 * 0.6  # rows of 0.2 and 0.8 whose centres lie at 0.75 and 0.25
    torch.testing.assert_close(got, torch.tensor([0.4, 0.4, coarse, coarse, 0.5, 0.5, 0.5]))


def test_a_texture_is_read_between_texels_and_repeats() -> None:
    image = torch.tensor([[[0.0] * 3, [1.0] * 3], [[0.5] * 3, [0.25] * 3]])
    uv = torch.tensor([[0.25, 0.75], [0.5, 0.75], [0.25, 0.5], [0.0, 0.75], [1.25, -0.25], [0.5, 0.5]])
    expected = torch.tensor([0.0, 0.5, 0.25, 0.5, 0.0, 0.4375])
    got = sample_texture(Texture(image=image), uv, torch.ones(len(uv)))[:, 0]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("supersample", [1, 2, 5])
def test_coverage_counts_the_samples_and_depth_is_averaged_over_them(supersample: int) -> None:
    """A slope of depth in half of a pixel: coverage one half; depth that of the covered samples' mean."""
    half = DISTANCE * math.tan(math.radians(20))
    plane = Mesh(
        vertices=torch.tensor([[-0.01, 0.0, -1], [2 * half, 0.0, -1], [2 * half, 0.0, 1], [-0.01, 0.0, 1]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        materials=(Material(color=RED),),
    )
    picture = rasterize(plane, FRONT, size=1, supersample=supersample, light=None)
    columns = (torch.arange(supersample) + 0.5) / supersample * 2 - 1
    share = float((columns * half > -0.01).float().mean())
    assert float(picture.alpha) == pytest.approx(share)
    assert picture.rgb.flatten().tolist() == pytest.approx([c * share for c in RED])
    assert float(picture.depth) == pytest.approx(DISTANCE, abs=1e-4)
    assert picture.normal.flatten().tolist() == pytest.approx([0, -share, 0], abs=1e-5)


def test_light_and_finish_reach_the_picture() -> None:
    front = rasterize(_square(0.0), FRONT, size=9).rgb[0, :, 4, 4]
    factor = float(Light().shade(torch.tensor([[0.0, -1, 0]])))
    assert front.tolist() == pytest.approx([min(1.0, c * factor) for c in RED], abs=1e-5)
    shiny = Material(color=RED, roughness=0.3, metallic=0.5)
    got = rasterize(_square(0.0, 0.01, materials=(shiny,)), FRONT, size=301).rgb[0, :, 150, 150]
    one = torch.tensor([[0.0, -1, 0]])
    expected = Light().polish(torch.tensor([RED]), one, one, torch.tensor([[0.3]]), torch.tensor([[0.5]]))[0]
    assert got.tolist() == pytest.approx(expected.clamp(0, 1).tolist(), abs=2e-3)


def test_each_face_has_its_own_material_colour_and_finish() -> None:
    matt, shiny = Material(color=RED, roughness=0.9), Material(color=BLUE, roughness=0.3)
    two = Mesh.cat([_square(0.0, 0.2, materials=(matt,)), _square(-0.1, 0.1, materials=(shiny,))])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        mesh = replace(two, faces=two.faces[order], face_material=two.material_index()[order])
        picture = rasterize(mesh, FRONT, size=33).rgb[0]
        plain = rasterize(_square(0.0, 0.2, materials=(matt,)), FRONT, size=33).rgb[0]
        assert torch.equal(picture[:, 12, 16], plain[:, 12, 16]) and float(plain[0, 12, 16]) > 0.5
        alone = rasterize(_square(-0.1, 0.1, materials=(shiny,)), FRONT, size=33).rgb[0]
        torch.testing.assert_close(picture[:, 16, 16], alone[:, 16, 16])
    unlit = rasterize(two, FRONT, size=33, light=None).rgb[0]
    assert unlit[:, 16, 16].tolist() == pytest.approx(BLUE) and unlit[:, 12, 16].tolist() == pytest.approx(RED)


def test_a_face_seen_exactly_edge_on_leaves_no_trace() -> None:
    flat = torch.tensor([[-0.25, -0.25, 0.0], [0.25, -0.25, 0], [0.25, 0.25, 0], [-0.25, 0.25, 0]])
    for height in (0.0, 1e-9):
        square = Mesh(vertices=flat + torch.tensor([0, 0, height]), faces=torch.tensor([[0, 1, 2], [0, 2, 3]]))
        picture = rasterize(square, FRONT, size=9, supersample=1)  # the middle row of samples lies on it
        assert not bool(picture.alpha.any() | picture.depth.any()) and bool(picture.rgb.isfinite().all())


def test_nothing_nearer_than_the_near_plane_is_drawn() -> None:
    camera = Cameras.look_at(torch.tensor([[0.0, -1.0, 0.0]]))
    assert rasterize(_square(-0.98, 1.0), camera, size=8).alpha.all()
    assert not rasterize(_square(-0.995, 1.0), camera, size=8).alpha.any()


def test_permuting_views_permutes_pictures() -> None:
    cameras, order = Cameras.orbit(5, elevation_deg=15.0), [3, 0, 4, 1, 2]
    mesh = Mesh.cat([_ball(0.4, 2), _square(-0.3)])
    assert torch.equal(rasterize(mesh, cameras, size=24).rgb[order], rasterize(mesh, cameras[order], size=24).rgb)


def test_a_closed_surface_has_no_gaps() -> None:
    cameras = Cameras.orbit(3, elevation_deg=0.0)  # edges of the ball run exactly through samples
    alpha = rasterize(_ball(), cameras, size=64, supersample=1).alpha[:, 0]
    first = (alpha > 0).float().argmax(-1)
    last = 63 - (alpha > 0).flip(-1).float().argmax(-1)
    assert torch.equal(alpha.sum(-1), torch.where(alpha.any(-1), last - first + 1, 0).float())


def test_a_face_that_crosses_the_near_plane_is_still_drawn() -> None:
    floor = Mesh(
        vertices=torch.tensor([[-50.0, -50, -0.2], [50, -50, -0.2], [0, 50, -0.2]]), faces=torch.tensor([[0, 1, 2]])
    )
    cameras = Cameras.look_at(torch.tensor([[0.0, -1.0, 0.0]]))
    picture = rasterize(floor, cameras, size=32, supersample=1)
    direction = cameras.rays(32)[1][0]
    expected = torch.where(direction[..., 2] < -0.01, -0.2 / direction[..., 2] * direction[..., 1], 0.0)
    below = direction[..., 2] < -0.01
    assert bool((picture.alpha[0, 0][below] == 1).all()) and not bool(picture.alpha[0, 0, :16].any())
    assert torch.allclose(picture.depth[0, 0][below], expected[below], rtol=1e-3)


def test_small_blocks_of_memory_give_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras, mesh = Cameras.orbit(3), Mesh.cat([_ball(0.3, 2), _square(0.0)])
    whole = rasterize(mesh, cameras, size=20)
    for part in (module, visibility):
        monkeypatch.setattr(part, "_FACES_AT_ONCE", 50)
        monkeypatch.setattr(part, "_SAMPLES_AT_ONCE", 300)
    monkeypatch.setattr(module, "_SHADED_AT_ONCE", 70)
    pieces = rasterize(mesh, cameras, size=20)
    assert torch.equal(whole.rgb, pieces.rgb) and torch.equal(whole.depth, pieces.depth)


def test_an_object_behind_the_camera_leaves_an_empty_picture() -> None:
    away = Cameras.look_at(torch.tensor([[0.0, -2.0, 0.0]]), target=(0.0, -4.0, 0.0))
    picture = rasterize(_ball(), away, size=8)
    assert not bool(picture.alpha.any() | picture.rgb.any() | picture.depth.any())


def test_a_size_out_of_range_is_refused() -> None:
    for bad in ({"size": 0}, {"size": 8193}, {"size": 8, "supersample": 0}, {"size": 8, "supersample": 9}):
        with pytest.raises(InputError, match="`size` must lie between 1 and 8192"):
            rasterize(_ball(), FRONT, **bad)
    with pytest.raises(InputError, match="a product of at most 16384"):
        rasterize(_ball(), FRONT, size=8192, supersample=3)
