"""Surfaces of fields: known area and volume, closed, without floaters or cavities, at the right threshold."""

import math

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.scene.field import GridField, lattice
from viewfold.scene.mesh import Mesh
from viewfold.scene.surface import SurfaceResult, decimate, extract_surface, is_watertight
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
    area, volume = area_and_volume(sphere.mesh)
    assert area == pytest.approx(4 * math.pi * 0.4**2, rel=0.04)
    assert volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.05)  # positive: faces look outward


def test_the_surface_is_closed_and_thinned_out(sphere: SurfaceResult) -> None:
    assert sphere.watertight
    assert is_watertight(sphere.mesh)
    assert 1000 < len(sphere.mesh.faces) <= 4000
    assert (sphere.components_found, sphere.components_kept) == (1, 1)


def test_the_silhouette_fits_the_pictures_of_the_field(sphere: SurfaceResult) -> None:
    assert sphere.silhouette_iou > 0.96


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
    assert volume == pytest.approx(4 / 3 * math.pi * (0.25**3 + 0.15**3), rel=0.08)


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
    with pytest.raises(InputError, match="`resolution`"):
        extract_surface(field, resolution=4)
    with pytest.raises(InputError, match="`cameras` must be given"):
        extract_surface(field, renders=render_volume(field, Cameras.orbit(1), size=4))
    with pytest.raises(FitError, match="`threshold`"):
        extract_surface(GridField(), resolution=16, threshold=1e6)
