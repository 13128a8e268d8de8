"""How like two things are: of surfaces and pictures whose figures are known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError
from viewfold.evaluation.likeness import NEAR, compare_pictures, compare_surfaces, psnr_db, volume_iou
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering


def of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(vertices=torch.from_numpy(np.array(shape.vertices)).float(), faces=torch.from_numpy(shape.faces).long())


def cube(extents: float = 1.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    return of(trimesh.creation.box(extents=[extents] * 3).apply_translation(at))


@pytest.mark.parametrize("axis", range(3))
def test_cubes_that_lie_apart_share_the_volume_that_they_do(axis: int) -> None:
    for shift in (0.0, 0.25, 0.5, 2.0):
        at = [0.0, 0.0, 0.0]
        at[axis] = shift
        shared = max(0.0, 1 - shift)
        assert volume_iou(cube(), cube(at=(at[0], at[1], at[2]))) == pytest.approx(shared / (2 - shared), abs=0.02)


def test_parts_that_overlap_are_one_solid_and_a_hollow_is_empty() -> None:
    two = Mesh.cat([cube(), cube(at=(0.5, 0.0, 0.0))])
    one = of(trimesh.creation.box(extents=[1.5, 1, 1]).apply_translation([0.25, 0, 0]))
    assert volume_iou(two, one) == pytest.approx(1.0, abs=0.01)
    inner = cube(0.5)
    shell = Mesh.cat([cube(), replace(inner, faces=inner.faces.flip(1))])
    assert volume_iou(shell, cube()) == pytest.approx(1 - 0.5**3, abs=0.01)
    assert volume_iou(replace(cube(), faces=cube().faces.flip(1)), cube()) > 0.99, "inside out encloses as much"


def test_balls_enclose_what_balls_do() -> None:
    small, large = (of(trimesh.creation.icosphere(subdivisions=4, radius=r)) for r in (0.4, 0.5))
    assert volume_iou(small, large) == pytest.approx((0.4 / 0.5) ** 3, abs=0.01)
    assert volume_iou(large, small) == volume_iou(small, large)


def test_a_surface_is_as_far_from_another_as_it_was_moved() -> None:
    plate = of(trimesh.creation.box(extents=[1, 1, 1e-4]))
    for shift in (0.01, 0.1):
        moved = replace(plate, vertices=plate.vertices + torch.tensor([0.0, 0.0, shift]))
        found = compare_surfaces(moved, plate)
        assert found.chamfer == pytest.approx(shift, abs=0.003)  # points lie 0.007 apart
        assert found.f_score == pytest.approx(float(shift < NEAR), abs=0.02)
        assert found.normal_consistency > 0.99
    turned = plate.transform(torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    assert compare_surfaces(turned, plate).normal_consistency < 0.05


def test_a_toy_is_like_itself_and_less_like_another() -> None:
    toy, other = sample_asset(3).mesh(), sample_asset(4).mesh()
    itself, apart = compare_surfaces(toy, toy), compare_surfaces(toy, other)
    assert itself.volume_iou == 1.0 and itself.f_score > 0.99
    assert apart.volume_iou is not None and apart.volume_iou < 0.7 and apart.chamfer > 3 * itself.chamfer


def test_what_is_open_encloses_nothing() -> None:
    opened = replace(cube(), faces=cube().faces[1:])
    assert compare_surfaces(opened, cube()).volume_iou is None
    with pytest.raises(InputError, match="some area"):
        compare_surfaces(replace(cube(), vertices=torch.zeros(8, 3)), cube())


def picture(rgb: float, alpha: torch.Tensor) -> Rendering:
    nothing = torch.zeros_like(alpha)
    colored = alpha.expand(-1, 3, -1, -1)
    return Rendering(rgb=rgb * colored, alpha=alpha, depth=nothing, normal=0 * colored)


def test_pictures_by_hand() -> None:
    assert psnr_db(torch.full((4,), 0.6), torch.full((4,), 0.5)) == pytest.approx(20.0)
    assert psnr_db(torch.zeros(4), torch.zeros(4)) == pytest.approx(100.0)
    left, right = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    left[..., :2], right[..., 1:3] = 1.0, 1.0
    found = compare_pictures(picture(0.6, left), picture(0.7, right))
    assert found.outline_iou == pytest.approx(1 / 3)
    assert found.both_psnr_db == pytest.approx(20.0, abs=1e-3)
    assert found.psnr_db == pytest.approx(float(-10 * np.log10((0.1**2 + 0.1**2 + 0.2**2) / 4)), abs=1e-3)
    with pytest.raises(InputError, match="overlap"):
        compare_pictures(picture(1.0, left), picture(1.0, 1 - left))
