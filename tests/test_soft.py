"""Differentiable pictures of meshes: they are the rasteriser's, and their gradients are what moving things does."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from second_device import second_device

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.soft import Topology, draw

CAMERAS = Cameras.at(elevation_deg=[5.0, 30.0, -20.0, 60.0], azimuth_deg=[3.0, 100.0, 190.0, 280.0])


def tensors(made: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(made.vertices).float(), torch.tensor(made.faces).long()


def ball(subdivisions: int = 3, radius: float = 0.35) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))


def box() -> tuple[torch.Tensor, torch.Tensor]:
    return tensors(trimesh.creation.box((0.5, 0.3, 0.4)))


def painted(vertices: torch.Tensor) -> torch.Tensor:
    return (vertices / 0.8 + 0.5).clamp(0, 1)


def reference(vertices: torch.Tensor, faces: torch.Tensor, size: int, colors: torch.Tensor | None = None):
    return rasterize(
        Mesh(vertices=vertices, faces=faces, vertex_color=colors), CAMERAS, size=size, supersample=8, light=None
    )


@pytest.mark.parametrize("made", [ball(1), ball(3), ball(5), box()], ids=["80", "1280", "20480", "box"])
def test_pictures_are_the_rasterisers(made: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Faces of 20 pixels and of a twentieth of one.  Outlines are exact but where they turn within a pixel."""
    vertices, faces = made
    drawn = draw(vertices, painted(vertices), Topology.of(faces), CAMERAS, size=48)
    true = reference(vertices, faces, 48, painted(vertices))
    assert float((drawn.alpha - true.alpha).abs().mean()) < 0.0025
    assert float((drawn.rgb - true.rgb).abs().mean()) < 0.0025
    inner = (true.alpha > 0.999) & (drawn.alpha > 0.999)
    assert float((drawn.rgb - true.rgb).abs()[inner.expand_as(true.rgb)].mean()) < 0.004
    assert float((drawn.depth - true.depth).abs()[inner].mean()) < 0.003
    assert float(drawn.alpha.sum()) == pytest.approx(float(true.alpha.sum()), rel=0.003)
    blended = ((drawn.alpha > 0.02) & (drawn.alpha < 0.98)).sum()
    assert blended > 0.7 * ((true.alpha > 0.02) & (true.alpha < 0.98)).sum()


@pytest.mark.parametrize("made", [ball(2), ball(4), box()], ids=["320", "5120", "box"])
def test_area_grows_with_size_as_it_does(made: tuple[torch.Tensor, torch.Tensor]) -> None:
    vertices, faces = made
    scale = torch.ones((), requires_grad=True)
    area = draw(vertices * scale, painted(vertices), Topology.of(faces), CAMERAS, size=64).alpha.sum()
    (slope,) = torch.autograd.grad(area, scale)
    up, down = (float(reference(vertices * k, faces, 64).alpha.sum()) for k in (1.03, 0.97))
    assert float(slope) == pytest.approx((up - down) / 0.06, rel=0.03)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_moved_ball_moves_the_pictures_light(axis: int) -> None:
    """Sum of column, row and their products over coverage: first moments follow the move (by 1.6 times the area)."""
    vertices, faces = ball(3, radius=0.25)
    ramp = torch.linspace(-1, 1, 64)
    weights = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)])
    shift = torch.zeros(3, requires_grad=True)
    alpha = draw(vertices + shift, painted(vertices), Topology.of(faces), CAMERAS, size=64).alpha[:, 0]
    step = torch.zeros(3)
    step[axis] = 0.02
    after, before = (reference(vertices + s, faces, 64).alpha[:, 0] for s in (step, -step))
    for view in range(len(CAMERAS)):
        for weight in weights:
            (slope,) = torch.autograd.grad((alpha[view] * weight).sum(), shift, retain_graph=True)
            true = float(((after - before)[view] * weight).sum()) / 0.04
            assert float(slope[axis]) == pytest.approx(true, abs=0.08 * float(alpha[view].detach().sum()))


def test_an_edge_before_another_part_moves_too() -> None:
    """A small ball before a large one of another colour: its inner outline has a gradient, and the hidden one none."""
    small, faces = ball(3, radius=0.1)
    large, _ = ball(3, radius=0.3)
    front = Cameras.at(elevation_deg=[0.0], azimuth_deg=[0.0])
    top = Topology.of(torch.cat([faces, faces + len(small)]))
    colors = torch.cat(
        [torch.tensor([1.0, 0, 0]).expand(len(small), 3), torch.tensor([0, 0, 1.0]).expand(len(large), 3)]
    )
    for place, sees in ((-0.45, True), (0.45, False)):
        scale = torch.ones((), requires_grad=True)
        moved = small * scale + torch.tensor([0.0, place, 0.0])
        picture = draw(torch.cat([moved, large]), colors, top, front, size=64)
        (slope,) = torch.autograd.grad(picture.rgb[:, 0].sum(), scale)
        red = float(picture.rgb[:, 0].sum().detach())
        assert float(slope) == pytest.approx(2 * red, rel=0.1) if sees else float(slope) == 0 == red


def test_colours_have_the_gradient_of_interpolation() -> None:
    """Pictures are linear in the colours: the gradient of a sum is what white adds."""
    vertices, faces = ball(2)
    colors = painted(vertices).requires_grad_()
    top = Topology.of(faces)
    weight = torch.rand(len(CAMERAS), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((draw(vertices, colors, top, CAMERAS, size=32).rgb * weight).sum(), colors)
    for k in (0, 40, 161):
        one = torch.zeros_like(vertices)
        one[k, 1] = 1
        assert float(slope[k, 1]) == pytest.approx(
            float((draw(vertices, one, top, CAMERAS, size=32).rgb * weight).sum()), abs=1e-4
        )


def test_normals_are_unit_and_face_the_camera() -> None:
    vertices, faces = ball(4)
    drawn = draw(vertices, painted(vertices), Topology.of(faces), CAMERAS, size=32, normals=True)
    solid = drawn.alpha[:, 0] > 0.999
    normals = drawn.normal.permute(0, 2, 3, 1)[solid]
    true = rasterize(Mesh(vertices=vertices, faces=faces), CAMERAS, size=32, light=None)
    there = solid & (true.alpha[:, 0] > 0.999)
    agree = (drawn.normal * true.normal).sum(dim=1)[there]
    assert float((normals.norm(dim=-1) - 1).abs().max()) < 1e-4 and float(agree.mean()) > 0.995


def test_an_open_mesh_and_one_that_reaches_the_camera_are_refused() -> None:
    vertices, faces = ball(1)
    with pytest.raises(InputError, match="closed mesh"):
        Topology.of(faces[1:])
    with pytest.raises(InputError, match="closed mesh"):
        Topology.of(torch.cat([faces[:1].flip(1), faces[1:]]))
    with pytest.raises(InputError, match="in front of all cameras"):
        draw(vertices * 20, painted(vertices), Topology.of(faces), CAMERAS, size=16)


def test_it_draws_on_the_meshs_device() -> None:
    vertices, faces = ball(2)
    here = draw(vertices, painted(vertices), Topology.of(faces), CAMERAS, size=16, normals=True)
    with second_device() as device:
        moved = [x.to(device) for x in (vertices, painted(vertices), faces)]
        shape = moved[0].requires_grad_()
        there = draw(shape, moved[1], Topology.of(moved[2]), CAMERAS.to(device), size=16, normals=True)
        there.rgb.sum().backward()
        assert shape.grad is not None and shape.grad.device == there.rgb.device == device
        torch.testing.assert_close(there.to("cpu").rgb, here.rgb)
        torch.testing.assert_close(there.to("cpu").normal, here.normal)


def test_every_edge_is_found_once_between_its_two_faces() -> None:
    vertices, faces = box()
    top = Topology.of(faces)
    assert len(top.ends) == len(faces) * 3 // 2 and len({tuple(sorted(e)) for e in top.ends.tolist()}) == len(top.ends)
    for ends, (first, second) in zip(top.ends.tolist(), top.sides.tolist(), strict=True):
        ring = faces[first].tolist()
        assert ring[(ring.index(ends[0]) + 1) % 3] == ends[1]
        ring = faces[second].tolist()
        assert ring[(ring.index(ends[1]) + 1) % 3] == ends[0]


def test_what_is_beside_the_picture_is_left_out() -> None:
    """A ball that is half out of each picture: no wrap-around, no error."""
    vertices, faces = ball(3, radius=0.4)
    near = Cameras.at(elevation_deg=[0.0], azimuth_deg=[0.0], fov_deg=20.0, distance=1.5)
    drawn = draw(vertices, painted(vertices), Topology.of(faces), near, size=32)
    true = rasterize(Mesh(vertices=vertices, faces=faces), near, size=32, supersample=8, light=None)
    assert float((drawn.alpha - true.alpha).abs().mean()) < 0.003 and math.isfinite(float(drawn.rgb.sum()))
