"""Meshes: normals, joining, and files from friends and strangers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from viewfold.errors import AssetError, InputError
from viewfold.scene.interchange import Convention, load_mesh, to_trimesh
from viewfold.scene.mesh import Material, Mesh


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


def _save(mesh: Mesh, path: Path) -> Path:
    convention: Convention = {".glb": "glb", ".obj": "obj", ".ply": "ply"}[path.suffix]  # type: ignore[assignment]
    scene = to_trimesh(mesh, convention=convention)
    (scene.to_mesh() if convention == "ply" else scene).export(path)
    return path


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


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_file_gives_back_shape_place_and_colours(suffix: str, tmp_path: Path) -> None:
    lifted = torch.eye(4)
    lifted[2, 3] = 1.0
    mesh = Mesh.cat([_box(), _box((0.1, 0.6, 0.2)).transform(lifted)])
    back = load_mesh(_save(mesh, tmp_path / f"a{suffix}"))
    assert len(back.faces) == 24
    assert torch.allclose(back.vertices.amin(0), mesh.vertices.amin(0), atol=1e-5)
    assert torch.allclose(back.vertices.amax(0), mesh.vertices.amax(0), atol=1e-5)
    for is_upper, color in ((False, (0.8, 0.2, 0.4)), (True, (0.1, 0.6, 0.2))):
        face = (back.vertices[back.faces].mean(1)[:, 2] > 0.5).eq(is_upper).nonzero()[0, 0]
        seen = torch.tensor(back.materials[int(back.material_index()[face])].color)
        if back.vertex_color is not None:
            seen = seen * back.vertex_color[back.faces[face, 0]]
        assert seen.tolist() == pytest.approx(color, abs=0.012)
    if suffix == ".glb":
        assert {(m.roughness, m.metallic) for m in back.materials} == {(0.5, 0.25)}


def test_a_glb_keeps_its_texture_the_right_way_up(tmp_path: Path) -> None:
    texture = torch.linspace(0, 1, 2 * 3 * 3).view(2, 3, 3)
    mesh = Mesh(
        vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]]),
        faces=torch.tensor([[0, 1, 2]]),
        uv=torch.tensor([[0.0, 0], [1, 0], [0, 0.5]]),
        materials=(Material(texture=texture),),
    )
    back = load_mesh(_save(mesh, tmp_path / "a.glb"))
    assert back.uv is not None and back.materials[0].texture is not None
    assert torch.allclose(back.materials[0].texture, texture, atol=1 / 255)
    assert torch.allclose(back.uv[back.faces], mesh.uv[mesh.faces], atol=1e-6)  # type: ignore[index]


def _glb(tree: dict[str, object], binary: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def _one_triangle(vertices: list[float], *, count: int = 3, has_view: bool = True) -> bytes:
    accessor: dict[str, object] = {"componentType": 5126, "count": count, "type": "VEC3"}
    if has_view:
        accessor["bufferView"] = 0
    return _glb(
        {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
            "accessors": [accessor],
            "bufferViews": [{"buffer": 0, "byteLength": 36}],
            "buffers": [{"byteLength": 36}],
        },
        struct.pack("<9f", *vertices),
    )


TRIANGLE = [0.0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_the_hand_made_triangle_loads(tmp_path: Path) -> None:
    path = tmp_path / "a.glb"
    path.write_bytes(_one_triangle(TRIANGLE))
    assert load_mesh(path).vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]


HOSTILE = {
    "truncated.glb": _one_triangle(TRIANGLE)[:-20],
    "nan.glb": _one_triangle([float("nan"), *TRIANGLE[1:]]),
    "huge.glb": _one_triangle(TRIANGLE, count=2**40, has_view=False),
    "overrun.glb": _one_triangle(TRIANGLE, count=3000),
    "empty.glb": _glb({"asset": {"version": "2.0"}}),
    "list.glb": b"glTF" + struct.pack("<IIII", 2, 24, 4, 0x4E4F534A) + b"[]  ",
    "nothing.glb": b"",
    "wrong.glb": b"\x89PNG" * 20,
    "huge.ply": b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nelement face 4000000000\nend_header\n0\n",
    "short.ply": b"ply\nformat ascii 1.0\nelement vertex 9999\nproperty float x\nend_header\n0\n",
    "noise.ply": bytes(range(256)) * 4,
    "nothing.obj": b"",
    "outside.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 7\n",
    "words.obj": b"v a b c\nf 1 2 3\n",
    "climbing.obj": b"mtllib ../../secret.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "picture.png": b"\x89PNG",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(AssetError, match=name):
        load_mesh(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="missing.glb"):
        load_mesh(tmp_path / "missing.glb")


def test_a_picture_that_unpacks_into_gigabytes_is_refused(tmp_path: Path) -> None:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd bomb.png\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    with pytest.raises(AssetError, match="pixels"):
        load_mesh(tmp_path / "a.obj")


def test_a_mesh_refuses_indices_beyond_its_vertices() -> None:
    with pytest.raises(InputError, match=r"`faces` must lie in \[0, 3\)"):
        Mesh(vertices=torch.zeros(3, 3), faces=torch.tensor([[0, 1, 3]]))
