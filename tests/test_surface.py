"""Surfaces of fields: known area and volume, closed, without floaters or cavities, at the right threshold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.scene import surface
from viewfold.scene.field import lattice
from viewfold.scene.grid import GridField
from viewfold.scene.mesh import Mesh
from viewfold.scene.surface import SurfaceResult, decimate, extract_surface, is_watertight, taubin
from viewfold.scene.volume import render_volume


def field_of(distance: torch.Tensor, *, slope: float = 200.0) -> GridField:
    """A field with a sharp border where the signed distance (negative inside) over the 48^3 nodes is zero."""
    field = GridField()
    with torch.no_grad():
        field.grid[0, 0] = (-slope * distance).clamp(-8, 10).reshape(48, 48, 48)
    return field


def ball(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    return (lattice(48) - torch.tensor(center)).norm(dim=-1) - radius


def area_and_volume(mesh: Mesh) -> tuple[float, float]:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2
    return float(area), float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.fixture(scope="module")
def sphere() -> SurfaceResult:
    return extract_surface(field_of(ball(0.4)), resolution=64, max_faces=4000)


def test_a_ball_has_the_area_and_volume_of_a_sphere(sphere: SurfaceResult) -> None:
    """Of the radius of its outline in the field's own pictures: an outline has the tangent of asin(r / distance)."""
    cameras, size = Cameras.orbit(1), 256
    with torch.no_grad():
        covered = int((render_volume(field_of(ball(0.4)), cameras, size=size).alpha > 0.5).sum())
    tangent = math.sqrt(covered / math.pi) / (size / 2) * math.tan(math.radians(20))
    radius = float(cameras.position.norm()) * math.sin(math.atan(tangent))
    assert radius == pytest.approx(0.4, abs=0.01)
    area, volume = area_and_volume(sphere.mesh)
    assert area == pytest.approx(4 * math.pi * radius**2, rel=0.01)
    assert volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.015)  # positive: faces look outward


def test_a_surface_lies_where_the_field_has_its_density_and_is_not_moved() -> None:
    """A soft ball off the middle, at a threshold: density 50 where its logit is log(e^2 - 1)."""
    center = (0.1, -0.15, 0.05)
    field = field_of(ball(0.3, center), slope=15.0)
    result = extract_surface(field, resolution=64, threshold=50.0, smooth_voxels=0.0, smooth_steps=0, max_faces=10**6)
    radius = (result.mesh.vertices - torch.tensor(center)).norm(dim=-1)
    assert float(radius.mean()) == pytest.approx(0.3 - math.log(math.e**2 - 1) / 15, abs=0.002)
    assert float(radius.std()) < 0.003 and result.threshold == pytest.approx(50.0)
    torch.testing.assert_close(result.mesh.vertices.mean(0), torch.tensor(center), atol=0.004, rtol=0)
    smooth = extract_surface(field, resolution=64, threshold=50.0, max_faces=10**6)
    assert float((smooth.mesh.vertices - torch.tensor(center)).norm(dim=-1).mean()) == pytest.approx(
        float(radius.mean()), abs=0.003
    )


def icosphere() -> Mesh:
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    return Mesh(
        vertices=torch.tensor(made.vertices, dtype=torch.float32), faces=torch.tensor(made.faces, dtype=torch.int64)
    )


def test_smoothing_takes_roughness_away_and_keeps_the_volume() -> None:
    mesh = icosphere()
    noise = torch.randn(len(mesh.vertices), 1, generator=torch.Generator().manual_seed(0))
    rough = (mesh.vertices * (1 + 0.02 * noise)).numpy()
    smooth = taubin(rough, mesh.faces.numpy(), steps=10)
    before, after = (area_and_volume(replace(mesh, vertices=torch.tensor(v).float()))[1] for v in (rough, smooth))
    assert after == pytest.approx(before, rel=0.01)
    radius = torch.tensor(smooth).norm(dim=-1)
    assert float(radius.std()) < 0.02 / 2.5
    assert (taubin(rough, mesh.faces.numpy(), steps=0) == rough).all()
    shrunk = taubin(rough, mesh.faces.numpy(), steps=10, inflate=0.0)
    assert area_and_volume(replace(mesh, vertices=torch.tensor(shrunk).float()))[1] < 0.9 * before


def test_one_step_of_smoothing_by_hand() -> None:
    """The tip of a pyramid over a square: half of the way to its neighbours, then 0.53 of the way back."""
    square = [[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0], [0, 0, 1]]
    faces = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    moved = taubin(np.array(square), faces, steps=1, inflate=0.0)
    assert moved[4].tolist() == pytest.approx([0, 0, 0.5])
    assert moved[0].tolist() == pytest.approx([0.5, 0.5, 1 / 6])  # neighbours (-1, 1, 0), (1, -1, 0), (0, 0, 1)
    back = taubin(np.array(square), faces, steps=1)
    assert back[4, 2] == pytest.approx(0.5 - 0.53 * (1 / 6 - 0.5))


def test_overlap_is_the_share_of_what_either_covers() -> None:
    a, b = torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2, 4, dtype=torch.bool)
    a[..., :3], b[..., 1:] = True, True
    assert surface._overlap(a, b) == 0.5 and surface._overlap(a, a) == 1 and surface._overlap(a & ~a, b & ~b) == 0


def test_the_peak_along_a_ray_is_that_of_the_densest_place_on_it() -> None:
    """A bright voxel in one corner, from the front and from the right: it lies where its camera projects it."""
    opacity = torch.zeros(25, 25, 25)
    opacity[20, 6, 16] = 1.0  # z y x
    place = (torch.tensor([[16.0, 6, 20]]) / 24 * 2 - 1) * 0.6
    cameras = Cameras.orbit(2, elevation_deg=0.0, azimuth_deg=20.0)
    peak = surface._peak_along_rays(opacity, cameras, 64)
    where = cameras.project(place)[0][:, 0]
    for view in range(2):
        row, column = divmod(int(peak[view].argmax()), 64)
        assert (column + 0.5) / 32 - 1 == pytest.approx(float(where[view, 0]), abs=0.05)
        assert 1 - (row + 0.5) / 32 == pytest.approx(float(where[view, 1]), abs=0.05)
        assert 0.3 < float(peak[view].max()) <= 1


def test_pieces_are_kept_by_their_share_of_the_area() -> None:
    """Balls of radius 0.3 and 0.1 have areas of 9 : 1."""
    two = torch.minimum(ball(0.3, (-0.2, 0.0, 0.0)), ball(0.1, (0.4, 0.0, 0.0)))
    for share, kept in ((0.08, 2), (0.12, 1), (0.95, 1)):
        result = extract_surface(field_of(two), resolution=48, min_component=share)
        assert (result.components_found, result.components_kept) == (2, kept)


def test_faces_folded_onto_each_other_and_repeated_corners_go() -> None:
    faces = np.array([[0, 1, 2], [2, 1, 3], [3, 1, 2], [4, 4, 5], [0, 2, 5]])
    assert surface._without_degenerate(faces).tolist() == [[0, 1, 2], [0, 2, 5]]
    vertices, used = surface._compact(np.arange(18.0).reshape(6, 3), np.array([[5, 0, 2]]))
    assert vertices.tolist() == [[0, 1, 2], [6, 7, 8], [15, 16, 17]] and used.tolist() == [[2, 0, 1]]


def test_only_what_agrees_on_the_outside_is_closed() -> None:
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert surface._is_closed(tetrahedron)
    turned = tetrahedron.copy()
    turned[0] = turned[0][::-1]
    assert not surface._is_closed(turned) and not surface._is_closed(tetrahedron[:0])
    assert not surface._is_closed(np.concatenate([tetrahedron, tetrahedron])), "each edge twice"
    mesh = icosphere()
    apart = Mesh(vertices=mesh.vertices[mesh.faces].reshape(-1, 3), faces=torch.arange(3 * len(mesh.faces)).view(-1, 3))
    assert is_watertight(apart)


def test_an_open_mesh_is_thinned_out_as_well() -> None:
    mesh = icosphere()
    half = Mesh(vertices=mesh.vertices, faces=mesh.faces[(mesh.vertices[mesh.faces][..., 2] > -0.1).all(1)])
    small = decimate(half, max_faces=100)
    assert 20 < len(small.faces) <= 110 and float(small.vertices[:, 2].min()) > -0.3
    assert int(small.faces.max()) + 1 == len(small.vertices)


def test_the_surface_is_closed_and_thinned_out(sphere: SurfaceResult) -> None:
    assert sphere.watertight
    assert is_watertight(sphere.mesh)
    assert 1000 < len(sphere.mesh.faces) <= 4000
    assert (sphere.components_found, sphere.components_kept) == (1, 1)


def test_the_silhouette_fits_the_pictures_of_the_field(sphere: SurfaceResult) -> None:
    assert sphere.silhouette_iou > 0.98


def test_the_threshold_search_beats_a_threshold_chosen_badly() -> None:
    field = field_of(ball(0.35), slope=15.0)  # a soft border, where the threshold matters
    cameras = Cameras.orbit(3)
    with torch.no_grad():
        renders = render_volume(field, cameras, size=48)
    searched = extract_surface(field, resolution=48, renders=renders, cameras=cameras)
    fixed = extract_surface(field, resolution=48, renders=renders, cameras=cameras, threshold=90.0)
    assert fixed.threshold == pytest.approx(90.0)
    assert searched.silhouette_iou > 0.93
    assert searched.silhouette_iou > fixed.silhouette_iou + 0.05


def test_floaters_and_cavities_are_dropped_and_a_large_second_part_is_kept() -> None:
    two = torch.minimum(ball(0.25, (-0.2, 0.0, 0.0)), ball(0.15, (0.35, 0.0, 0.0)))
    hollow = torch.maximum(two, -ball(0.1, (-0.2, 0.0, 0.0)))
    speck = torch.minimum(hollow, ball(0.035, (0.0, 0.0, 0.45)))
    result = extract_surface(field_of(speck), resolution=64)
    assert (result.components_found, result.components_kept) == (3, 2)
    assert float(result.mesh.vertices[:, 2].max()) < 0.3
    _, volume = area_and_volume(result.mesh)
    assert volume == pytest.approx(4 / 3 * math.pi * (0.25**3 + 0.15**3), rel=0.06)


def test_an_object_that_touches_the_box_is_closed_there() -> None:
    result = extract_surface(field_of(ball(0.3, (0.5, 0.0, 0.0))), resolution=48)
    assert result.watertight
    assert float(result.mesh.vertices[:, 0].max()) < 0.64


def test_decimation_keeps_a_small_mesh_as_it_is_and_a_closed_one_closed(sphere: SurfaceResult) -> None:
    assert decimate(sphere.mesh, max_faces=len(sphere.mesh.faces)) is sphere.mesh
    small = decimate(sphere.mesh, max_faces=200)
    assert len(small.faces) <= 200 and is_watertight(small)


def test_a_mesh_with_a_hole_is_not_watertight(sphere: SurfaceResult) -> None:
    assert not is_watertight(Mesh(vertices=sphere.mesh.vertices, faces=sphere.mesh.faces[1:]))


def test_an_empty_field_says_what_to_do() -> None:
    with pytest.raises(FitError, match="Fit longer"):
        extract_surface(GridField(blob_radius=0.0), resolution=16)


def test_a_field_with_nan_is_refused() -> None:
    field = GridField(resolution=8)
    with torch.no_grad():
        field.grid[0, 0, 4, 4, 4] = float("nan")
    with pytest.raises(FitError, match="finite"):
        extract_surface(field, resolution=16)


def test_arguments_out_of_range_are_refused() -> None:
    field = GridField(resolution=8)
    for resolution in (7, 513):
        with pytest.raises(InputError, match="`resolution`"):
            extract_surface(field, resolution=resolution)
    with pytest.raises(InputError, match="`max_faces` must be at least 4"):
        extract_surface(field, max_faces=3)
    with pytest.raises(InputError, match="`cameras` must be given"):
        extract_surface(field, renders=render_volume(field, Cameras.orbit(1), size=4))
    with pytest.raises(FitError, match="`threshold`"):
        extract_surface(GridField(), resolution=16, threshold=1e6)


def test_a_pieces_share_is_of_all_that_is_seen_and_not_of_the_largest() -> None:
    import trimesh

    from viewfold.scene.surface import _keep_components

    boxes = [trimesh.creation.box(extents=[edge] * 3) for edge in (10**0.5, 3**0.5, 3**0.5)]  # areas as 10, 3, 3
    for place, box in enumerate(boxes):
        box.apply_translation([8 * place, 0, 0])
    joined = trimesh.util.concatenate(boxes)
    vertices, faces = np.asarray(joined.vertices), np.asarray(joined.faces)
    assert _keep_components(vertices, faces, 0.18)[1:] == (3, 3)  # 3 of 16 are 0.1875
    assert _keep_components(vertices, faces, 0.20)[1:] == (3, 1)  # 3 of 10 would be 0.3
