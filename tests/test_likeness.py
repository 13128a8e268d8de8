"""How like a made object is to the true one: figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import trimesh

from viewfold.camera import Cameras
from viewfold.data.toybox import sample_asset
from viewfold.errors import InputError
from viewfold.evaluation.likeness import NEAR, compare_pictures, compare_surfaces, psnr_db, volume_iou
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering


def ball(radius: float, *, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Mesh(
        vertices=torch.tensor(made.vertices).float() + torch.tensor(at).float(), faces=torch.tensor(made.faces).long()
    )


def square(*, width: int, grey: float, alpha: float = 1.0) -> Rendering:
    """A square of `width` of 8 columns from the left, all rows."""
    cover = torch.zeros(1, 1, 8, 8)
    cover[..., :width] = alpha
    flat = torch.zeros(1, 3, 8, 8)
    return Rendering(rgb=grey * cover.expand(-1, 3, -1, -1), alpha=cover, depth=cover, normal=flat)


def test_pictures_are_compared_over_one_ground() -> None:
    """Four columns of grey 0.9 against six of 0.7 on 0.5: 4 columns differ by 0.2, 2 by 0.2, 2 by nothing."""
    found = compare_pictures(square(width=4, grey=0.9), square(width=6, grey=0.7))
    assert found.psnr_db == pytest.approx(-10 * math.log10(6 / 8 * 0.04), abs=1e-4)
    assert found.both_psnr_db == pytest.approx(-10 * math.log10(0.04), abs=1e-4)
    assert found.outline_iou == pytest.approx(4 / 6)
    black = compare_pictures(square(width=4, grey=0.9), square(width=6, grey=0.7), ground=0.0)
    assert black.psnr_db == pytest.approx(-10 * math.log10((4 * 0.04 + 2 * 0.49) / 8), abs=1e-4)


def test_a_pixel_that_is_covered_by_less_than_half_is_outside() -> None:
    assert compare_pictures(square(width=4, grey=0.9), square(width=4, grey=0.9, alpha=0.6)).outline_iou == 1
    with pytest.raises(InputError, match="`made` must overlap `true`"):
        compare_pictures(square(width=4, grey=0.9), square(width=4, grey=0.9, alpha=0.4))


def test_equal_pictures_have_a_finite_figure() -> None:
    assert psnr_db(torch.ones(3), torch.ones(3)) == pytest.approx(100)


def test_a_surface_is_like_itself() -> None:
    found = compare_surfaces(ball(0.4), ball(0.4))
    assert found.chamfer < 0.006 and found.f_score == 1 and found.normal_consistency > 0.995  # two sets of points


@pytest.mark.parametrize("gap", [0.015, 0.03])
def test_two_balls_about_one_centre_are_as_far_apart_as_their_radii(gap: float) -> None:
    found = compare_surfaces(ball(0.4), ball(0.4 + gap))
    assert found.chamfer == pytest.approx(gap, abs=0.002)
    assert found.f_score == pytest.approx(float(gap < NEAR), abs=0.02) and found.normal_consistency > 0.99


def test_a_surface_that_is_moved_or_turned_is_not_aligned_first() -> None:
    """Half of a ball that is moved by a tenth lies further than `NEAR` from the other on average: no alignment."""
    moved = compare_surfaces(ball(0.3), ball(0.3, at=(0.1, 0, 0)))
    assert 0.03 < moved.chamfer < 0.06 and moved.f_score < 0.5
    box = trimesh.creation.box((0.6, 0.2, 0.4))
    vertices = torch.tensor(box.vertices).float()
    one = Mesh(vertices=vertices, faces=torch.tensor(box.faces).long())
    turned = Mesh(vertices=vertices[:, [1, 0, 2]], faces=one.faces)
    assert compare_surfaces(one, turned).chamfer > 0.05


def test_what_is_missing_or_too_much_counts_half() -> None:
    """Two balls against one: every point of the one is found, half of the two is not."""
    pair = Mesh.cat([ball(0.1, at=(-0.3, 0, 0)), ball(0.1, at=(0.3, 0, 0))])
    for found in (
        compare_surfaces(pair, ball(0.1, at=(0.3, 0, 0))),
        compare_surfaces(ball(0.1, at=(0.3, 0, 0)), pair),
    ):
        assert found.f_score == pytest.approx(2 * 0.5 / 1.5, abs=0.02)


def test_a_mesh_without_area_cannot_be_compared() -> None:
    flat = Mesh(vertices=torch.zeros(3, 3), faces=torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="must have some area"):
        compare_surfaces(flat, ball(0.3))


def test_real_renders_of_one_ball_agree() -> None:
    cameras = Cameras.orbit(2)
    drawn = [rasterize(ball(radius), cameras, size=32) for radius in (0.4, 0.41)]
    found = compare_pictures(*drawn)
    assert 0.9 < found.outline_iou < 0.99 and found.both_psnr_db > 30


def box(*extents: float, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    made = trimesh.creation.box(extents)
    return Mesh(
        vertices=torch.tensor(made.vertices).float() + torch.tensor(at).float(), faces=torch.tensor(made.faces).long()
    )


def cube(width: float = 1.0, *, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    return box(width, width, width, at=at)


@pytest.mark.parametrize("axis", range(3))
def test_cubes_that_lie_apart_share_the_volume_that_they_do(axis: int) -> None:
    for shift in (0.0, 0.25, 0.5, 2.0):
        at = [0.0, 0.0, 0.0]
        at[axis] = shift
        shared = max(0.0, 1 - shift)
        assert volume_iou(cube(), cube(at=(at[0], at[1], at[2]))) == pytest.approx(shared / (2 - shared), abs=0.02)


def test_parts_that_overlap_are_one_solid_and_a_hollow_is_empty() -> None:
    two = Mesh.cat([cube(), cube(at=(0.5, 0.0, 0.0))])
    one = box(1.5, 1, 1, at=(0.25, 0, 0))
    assert volume_iou(two, one) == pytest.approx(1.0, abs=0.01)
    inner = cube(0.5)
    shell = Mesh.cat([cube(), replace(inner, faces=inner.faces.flip(1))])
    assert volume_iou(shell, cube()) == pytest.approx(1 - 0.5**3, abs=0.01)
    assert volume_iou(replace(cube(), faces=cube().faces.flip(1)), cube()) > 0.99, "inside out encloses as much"


def test_balls_enclose_what_balls_do() -> None:
    small, large = (ball(radius) for radius in (0.4, 0.5))
    assert volume_iou(small, large) == pytest.approx((0.4 / 0.5) ** 3, abs=0.01)
    assert volume_iou(large, small) == volume_iou(small, large)


def test_a_toy_is_like_itself_and_less_like_another() -> None:
    toy, other = sample_asset(3).mesh(), sample_asset(4).mesh()
    itself, apart = compare_surfaces(toy, toy), compare_surfaces(toy, other)
    assert itself.volume_iou == 1.0 and itself.f_score > 0.99
    assert apart.volume_iou is not None and apart.volume_iou < 0.7 and apart.chamfer > 3 * itself.chamfer


def test_what_is_open_encloses_nothing() -> None:
    opened = replace(cube(), faces=cube().faces[1:])
    assert compare_surfaces(opened, cube()).volume_iou is None
