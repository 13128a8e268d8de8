"""Meshes: normals, joining, fitting, moving; files are in test_interchange.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from viewfold.errors import InputError
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh


def _box(color: tuple[float, float, float] = (0.8, 0.2, 0.4)) -> Mesh:
    import trimesh

    box = trimesh.creation.box(extents=[0.6, 0.4, 0.2])
    return Mesh(
        vertices=torch.tensor(box.vertices, dtype=torch.float32),
        faces=torch.tensor(box.faces, dtype=torch.int64),
        materials=(Material(color=color, roughness=0.5, metallic=0.25),),
    )


def _ball() -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    return Mesh(
        vertices=torch.tensor(ball.vertices, dtype=torch.float32), faces=torch.tensor(ball.faces, dtype=torch.int64)
    )


def test_the_faces_of_a_box_are_flat() -> None:
    box = _box()
    assert torch.allclose(box.normals(), box.face_normals()[:, None].expand(-1, 3, -1))


def test_the_normals_of_a_ball_are_radial_and_ignore_seams() -> None:
    ball = _ball()
    radial = ball.vertices[ball.faces] / 0.5
    assert (ball.normals() - radial).abs().max() < 0.02
    apart = Mesh(vertices=ball.vertices[ball.faces].reshape(-1, 3), faces=torch.arange(3 * len(ball.faces)).view(-1, 3))
    assert torch.allclose(apart.normals(), ball.normals(), atol=1e-5)


def test_a_fitted_mesh_is_centred_and_touches_its_sphere() -> None:
    mesh = _box().transform(torch.tensor([[3.0, 0, 0, 5], [0, 3, 0, -2], [0, 0, 3, 1], [0, 0, 0, 1]])).fit_sphere(0.5)
    assert float(mesh.vertices.norm(dim=-1).max()) == pytest.approx(0.5, abs=1e-6)
    assert torch.allclose(mesh.vertices.amin(0), -mesh.vertices.amax(0), atol=1e-6)


def test_a_mirrored_mesh_still_looks_outward() -> None:
    ball = _ball().transform(torch.diag(torch.tensor([-1.0, 1, 1, 1])))
    assert bool(((ball.face_normals() * ball.vertices[ball.faces].mean(1)).sum(-1) > 0).all())


def test_joined_meshes_share_equal_materials() -> None:
    mesh = Mesh.cat([_box(), _box((0.0, 0.0, 1.0)), _box()])
    assert [m.color for m in mesh.materials] == [(0.8, 0.2, 0.4), (0.0, 0.0, 1.0)]
    assert mesh.face_material is not None and mesh.face_material.bincount().tolist() == [24, 12]


def test_parts_without_colour_are_white_beside_coloured_ones_and_without_coordinates_at_zero() -> None:
    plain, colored = _box(), _box((0.0, 0.0, 1.0))
    color, uv = torch.rand(8, 3), torch.rand(8, 2)
    joined = Mesh.cat([plain, replace(colored, vertex_color=color, uv=uv), plain])
    assert joined.vertex_color is not None and joined.uv is not None
    torch.testing.assert_close(joined.vertex_color, torch.cat([torch.ones(8, 3), color, torch.ones(8, 3)]))
    torch.testing.assert_close(joined.uv, torch.cat([torch.zeros(8, 2), uv, torch.zeros(8, 2)]))
    torch.testing.assert_close(joined.vertices[joined.faces[12:24]], colored.vertices[colored.faces])
    bare = Mesh.cat([plain, plain])
    assert bare.vertex_color is None and bare.uv is None
    with pytest.raises(InputError, match="`meshes` must hold at least one"):
        Mesh.cat([])


def test_materials_are_shared_only_if_colour_finish_and_texture_agree() -> None:
    texture, other = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    kinds = [
        Material(),
        Material(color=(1.0, 1.0, 0.5)),
        Material(roughness=0.1),
        Material(metallic=0.5),
        Material(texture=Texture(image=texture)),
        Material(texture=Texture(image=other)),
    ]
    joined = Mesh.cat([replace(_box(), materials=(kind,)) for kind in [*kinds, *kinds]])
    assert len(joined.materials) == 6
    assert joined.material_index().tolist() == [number for number in (*range(6), *range(6)) for _ in range(12)]
    again = Mesh.cat([joined, replace(_box(), materials=(kinds[3],))])
    assert again.material_index()[-12:].tolist() == [3] * 12 and len(again.materials) == 6


def test_a_mesh_without_indices_of_materials_has_the_first() -> None:
    box = replace(_box(), materials=(Material(), Material(metallic=1.0)))
    assert box.material_index().tolist() == [0] * 12
    given = replace(box, face_material=torch.ones(12, dtype=torch.int64))
    assert given.material_index() is given.face_material


def test_an_affine_map_by_hand_and_a_mirror_turns_faces_round() -> None:
    matrix = torch.tensor([[0.0, -2, 0, 1], [1, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    mesh = Mesh(vertices=torch.tensor([[1.0, 2, 3], [0, 0, 0], [1, 0, 0]]), faces=torch.tensor([[0, 1, 2]]))
    moved = mesh.transform(matrix)
    torch.testing.assert_close(moved.vertices, torch.tensor([[-3.0, 3, 12], [1, 2, 3], [1, 3, 3]]))
    assert moved.faces.tolist() == [[0, 1, 2]]
    assert mesh.transform(torch.diag(torch.tensor([1.0, 1, -1, 1]))).faces.tolist() == [[2, 1, 0]]


def test_fitting_uses_the_middle_of_the_box_of_the_vertices_in_use() -> None:
    """Corners (0, 0, 0), (4, 0, 0), (0, 2, 0): the middle is (2, 1, 0) and the farthest corner sqrt 5 away."""
    mesh = Mesh(
        vertices=torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [99, 99, 99]]), faces=torch.tensor([[0, 1, 2]])
    )
    fitted = mesh.fit_sphere(1.0)
    expected = torch.tensor([[-2.0, -1, 0], [2, -1, 0], [-2, 1, 0]]) / 5**0.5
    torch.testing.assert_close(fitted.vertices[:3], expected)
    torch.testing.assert_close(mesh.fit_sphere().vertices[:3], expected / 2)
    far = replace(mesh, vertices=mesh.vertices * 1e-3 + 1000.0)  # float32 alone would lose a tenth of the shape
    lengths = (far.vertices[:3].double() - far.vertices[0].double()).norm(dim=1)
    ratio = (far.fit_sphere(1.0).vertices[:3] - far.fit_sphere(1.0).vertices[0]).norm(dim=1).double() / lengths
    torch.testing.assert_close(ratio[1:], ratio[1].expand(2), rtol=1e-5, atol=0)
    with pytest.raises(InputError, match="at least one face"):
        replace(mesh, faces=mesh.faces[:0]).fit_sphere()
    with pytest.raises(InputError, match="coincide"):
        replace(mesh, vertices=torch.ones(4, 3)).fit_sphere()


def _roof(angle_deg: float, *, long: float = 1.0) -> Mesh:
    """Two faces that meet along y in an edge of this angle; the second is `long` times as large."""
    angle = math.radians(angle_deg)
    down = [long * math.cos(angle), 0.5, -long * math.sin(angle)]
    return Mesh(
        vertices=torch.tensor([[0.0, 0, 0], [0, 1, 0], [-1, 0.5, 0], down]), faces=torch.tensor([[0, 1, 2], [1, 0, 3]])
    )


@pytest.mark.parametrize(("angle", "crease", "smooth"), [(39, 40.0, True), (41, 40.0, False), (50, 60.0, True)])
def test_an_edge_is_smooth_up_to_its_crease_and_hard_beyond(angle: float, crease: float, smooth: bool) -> None:
    roof = _roof(angle)
    normals, flat = roof.normals(crease_deg=crease), roof.face_normals()
    torch.testing.assert_close(flat[0], torch.tensor([0.0, 0, 1]))
    tilted = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))])
    torch.testing.assert_close(flat[1], tilted)
    middle = torch.nn.functional.normalize(flat.sum(0), dim=0)
    torch.testing.assert_close(normals[0, 0], middle if smooth else flat[0])
    torch.testing.assert_close(normals[0, 2], flat[0])  # a corner of its own
    if crease == 40.0:
        torch.testing.assert_close(roof.normals(), normals)


def test_a_corner_averages_its_faces_by_their_area() -> None:
    roof = _roof(30, long=3.0)
    flat = roof.face_normals()
    expected = torch.nn.functional.normalize(flat[0] + 3 * flat[1], dim=0)
    torch.testing.assert_close(roof.normals()[1, 0], expected)


def test_a_face_without_area_has_no_normal_and_spoils_none() -> None:
    mesh = Mesh(vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), faces=torch.tensor([[0, 1, 2], [0, 1, 1]]))
    assert not mesh.face_normals()[1].any()
    torch.testing.assert_close(mesh.normals()[0], torch.tensor([0.0, 0, 1]).expand(3, 3))
    assert mesh.normals().isfinite().all() and not replace(mesh, faces=mesh.faces[:0]).normals().numel()


def test_zeros_of_both_signs_are_one_point_and_a_huge_fan_is_shaded_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    roof = _roof(30)
    apart = Mesh(vertices=roof.vertices[roof.faces].reshape(-1, 3), faces=torch.arange(6).reshape(2, 3))
    signed = replace(apart, vertices=torch.where(apart.vertices == 0, -0.0, apart.vertices))
    half = replace(apart, vertices=torch.cat([apart.vertices[:3], signed.vertices[3:]]))
    torch.testing.assert_close(half.normals(), roof.normals())
    whole = _ball().normals()
    monkeypatch.setattr("viewfold.scene.mesh._PAIRS_AT_ONCE", 100)
    torch.testing.assert_close(_ball().normals(), whole)
    monkeypatch.setattr("viewfold.scene.mesh._MAX_FAN", 2)
    torch.testing.assert_close(roof.normals()[0, 0], _roof(30).normals()[0, 0])
    monkeypatch.setattr("viewfold.scene.mesh._MAX_FAN", 1)
    torch.testing.assert_close(roof.normals(), roof.face_normals()[:, None].expand(2, 3, 3))


def test_moving_a_mesh_moves_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (
        Material(texture=Texture(image=torch.rand(2, 2, 3)), roughness=0.2, metallic=0.3, color=(0.1, 0.2, 0.3)),
        Material(),
    )
    index = torch.arange(12) % 2
    mesh = replace(_box(), vertex_color=torch.rand(8, 3), uv=torch.rand(8, 2), face_material=index, materials=kinds)
    parts = [mesh.vertices, mesh.faces, mesh.vertex_color, mesh.uv, mesh.face_material, kinds[0].texture.image]
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: (moved.append(self), self)[1])
    there = mesh.to("elsewhere")
    assert [id(part) for part in moved] == [id(part) for part in parts]
    assert there.uv is mesh.uv and there.vertex_color is mesh.vertex_color and there.face_material is index
    assert [(m.color, m.roughness, m.metallic) for m in there.materials] == [
        ((0.1, 0.2, 0.3), 0.2, 0.3),
        ((1.0, 1.0, 1.0), 0.8, 0.0),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vertex_color", torch.zeros(2, 3)),
        ("uv", torch.zeros(4, 2)),
        ("face_material", torch.zeros(2, dtype=torch.int64)),
        ("face_material", torch.ones(1, dtype=torch.int64)),
        ("face_material", -torch.ones(1, dtype=torch.int64)),
        ("faces", torch.tensor([[0, 1, -1]])),
        ("vertices", torch.full((3, 3), float("inf"))),
        ("materials", ()),
    ],
)
def test_a_mesh_refuses_what_does_not_fit(name: str, value: object) -> None:
    good: dict[str, object] = {"vertices": torch.zeros(3, 3), "faces": torch.tensor([[0, 1, 2]])}
    with pytest.raises(Exception, match=name):
        Mesh(**{**good, name: value})  # type: ignore[arg-type]


def test_a_mesh_refuses_indices_beyond_its_vertices() -> None:
    with pytest.raises(InputError, match=r"`faces` must lie in \[0, 3\)"):
        Mesh(vertices=torch.zeros(3, 3), faces=torch.tensor([[0, 1, 3]]))
