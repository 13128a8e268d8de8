"""Files of meshes: what a friend's file gives back, and how a stranger's is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from viewfold.errors import AssetError
from viewfold.scene.color import linear_from_srgb, srgb_from_linear
from viewfold.scene.interchange import Convention, to_trimesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh


def _box(color: tuple[float, float, float] = (0.8, 0.2, 0.4)) -> Mesh:
    import trimesh

    box = trimesh.creation.box(extents=[0.6, 0.4, 0.2])
    return Mesh(
        vertices=torch.tensor(box.vertices, dtype=torch.float32),
        faces=torch.tensor(box.faces, dtype=torch.int64),
        materials=(Material(color=color, roughness=0.5, metallic=0.25),),
    )


def _save(mesh: Mesh, path: Path) -> Path:
    convention: Convention = {".glb": "glb", ".obj": "obj", ".ply": "ply"}[path.suffix]  # type: ignore[assignment]
    scene = to_trimesh(mesh, convention=convention)
    (scene.to_mesh() if convention == "ply" else scene).export(path)
    return path


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
        materials=(Material(texture=Texture(image=texture)),),
    )
    back = load_mesh(_save(mesh, tmp_path / "a.glb"))
    assert back.uv is not None and back.materials[0].texture is not None
    assert torch.allclose(back.materials[0].texture.image, texture, atol=1 / 255)
    assert torch.allclose(back.uv[back.faces], mesh.uv[mesh.faces], atol=1e-6)  # type: ignore[index]


def test_srgb_and_linear_light_are_inverse_and_agree_with_the_standard() -> None:
    levels = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(levels)), levels, atol=1e-7)
    np.testing.assert_allclose(linear_from_srgb(np.array([0.5, 0.04, 1.0])), [0.21404114, 0.04 / 12.92, 1], atol=1e-7)
    np.testing.assert_allclose(srgb_from_linear(np.array([0.5, 0.003, 1.0])), [0.73535698, 0.003 * 12.92, 1], atol=1e-7)
    assert (np.diff(linear_from_srgb(levels)) > 0).all() and (np.diff(srgb_from_linear(levels)) > 0).all()


def test_the_three_kinds_of_files_have_their_own_frame_and_light() -> None:
    mesh = Mesh(
        vertices=torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]]),
        faces=torch.tensor([[0, 1, 2]]),
        vertex_color=torch.full((3, 3), 0.5),
        materials=(Material(color=(0.5, 1.0, 1.0)),),
    )
    upright = {"glb": [1, 3, -2], "obj": [1, 3, -2], "ply": [1, 2, 3]}
    for convention, first in upright.items():
        scene = to_trimesh(mesh, convention=convention)  # type: ignore[arg-type]
        np.testing.assert_allclose(scene.to_geometry().vertices[0], first, atol=1e-6)
        red, green = scene.geometry["part_0"].visual.vertex_colors[0][:2].tolist()
        light = 0.21404114 if convention == "glb" else 0.5
        assert (red, green) == (round(light * light * 255), round(light * 255))


def test_parts_of_materials_that_are_not_in_use_are_left_out(tmp_path: Path) -> None:
    mesh = Mesh(
        vertices=torch.rand(3, 3),
        faces=torch.tensor([[0, 1, 2]]),
        face_material=torch.tensor([1]),
        materials=(Material(color=(1.0, 0.0, 0.0)), Material(color=(0.0, 1.0, 0.0))),
    )
    assert list(to_trimesh(mesh).geometry) == ["part_1"]
    back = load_mesh(_save(mesh, tmp_path / "a.glb"))
    assert back.materials[int(back.material_index()[0])].color == pytest.approx((0, 1, 0))


def test_a_ply_of_a_texture_has_its_nearest_texels_and_a_texture_repeats() -> None:
    texture = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    mesh = Mesh(
        vertices=torch.rand(4, 3),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.1, 0.9], [0.9, 0.9], [0.1, 0.1], [1.9, -0.9]]),
        materials=(Material(texture=Texture(image=texture)),),
    )
    colors = to_trimesh(mesh, convention="ply").geometry["part_0"].visual.vertex_colors[:, :3]
    assert colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def test_a_scene_of_two_copies_and_a_mirror_is_one_mesh_that_looks_outward(tmp_path: Path) -> None:
    import trimesh

    scene = trimesh.Scene()
    box = trimesh.creation.box(extents=[1, 1, 1])
    for number, matrix in enumerate((np.diag([1.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]))):
        matrix[0, 3] = 3 * number
        scene.add_geometry(box, node_name=f"n{number}", geom_name="box", transform=matrix)
    scene.export(tmp_path / "a.glb")
    mesh = load_mesh(tmp_path / "a.glb")
    assert len(mesh.faces) == 24 and len(mesh.materials) == 1
    assert (mesh.vertices.amin(0).tolist(), mesh.vertices.amax(0).tolist()) == ([-0.5, -0.5, -0.5], [3.5, 0.5, 0.5])
    centre = torch.where(mesh.vertices[mesh.faces].mean(1)[:, :1] > 1.5, 3.0, 0.0) * torch.tensor([1.0, 0, 0])
    assert bool(((mesh.vertices[mesh.faces].mean(1) - centre) * mesh.face_normals() > -1e-6).all())


def test_an_obj_shows_its_texture_whatever_colour_stands_beside_it(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "t.png")
    (tmp_path / "a.mtl").write_text("newmtl a\nKd 0 0 0\nmap_Kd t.png\nnewmtl b\nKd 0.25 0.5 1\n")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
        "usemtl a\nf 1/1 2/2 3/3\nusemtl b\nf 1/1 2/2 3/3\n"
    )
    mesh = load_mesh(tmp_path / "a.obj")
    by_color = {m.color: m for m in mesh.materials}
    textured = by_color[1.0, 1.0, 1.0]
    assert textured.texture is not None and (textured.texture.image * 255).round().flatten().tolist() == [10, 200, 30]
    plain = next(m for m in mesh.materials if m.texture is None)
    assert plain.color == pytest.approx((0.25, 0.5, 1), abs=0.004)
    assert (plain.roughness, plain.metallic) == (0.8, 0.0)


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


def test_colours_of_faces_become_colours_of_their_corners(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 2\nproperty list uchar int vertex_indices\n"
    header += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    (tmp_path / "A.PLY").write_text(header + "0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2 255 0 51\n3 0 2 3 0 102 255\n")
    mesh = load_mesh(tmp_path / "A.PLY")
    assert len(mesh.faces) == 2 and mesh.vertex_color is not None
    torch.testing.assert_close(mesh.vertex_color[mesh.faces[0]], torch.tensor([1.0, 0, 0.2]).expand(3, 3))
    torch.testing.assert_close(mesh.vertex_color[mesh.faces[1]], torch.tensor([0.0, 0.4, 1]).expand(3, 3))
    assert mesh.vertices[mesh.faces[1]].tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_a_suffix_in_capitals_is_the_same_kind(tmp_path: Path) -> None:
    mesh = Mesh.cat([_box()])
    for suffix in (".glb", ".obj"):
        path = _save(mesh, tmp_path / f"a{suffix}")
        again = load_mesh(path.rename(tmp_path / f"B{suffix.upper()}"))
        torch.testing.assert_close(again.vertices.amax(0), mesh.vertices.amax(0), atol=1e-5, rtol=0)
        assert again.materials[0].color == pytest.approx((0.8, 0.2, 0.4), abs=0.012)


def test_vertex_colours_of_a_glb_are_linear_and_numbers_or_bytes(tmp_path: Path) -> None:
    color = torch.tensor([[0.5, 0.25, 1.0], [0.0, 0.1, 0.9], [1.0, 1.0, 1.0]])
    mesh = Mesh(vertices=torch.rand(3, 3), faces=torch.tensor([[0, 1, 2]]), vertex_color=color)
    back = load_mesh(_save(mesh, tmp_path / "a.glb"))
    assert back.vertex_color is not None
    torch.testing.assert_close(back.vertex_color[back.faces[0]], color, atol=0.05, rtol=0)  # dark bytes are coarse
    torch.testing.assert_close(back.vertex_color[back.faces[0]][:, 2], color[:, 2], atol=0.005, rtol=0)
